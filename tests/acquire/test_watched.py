"""DVC runs acquire again by itself after a change in the folder of lists, inside or outside of the repository."""

import shutil
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with this one's params.yaml and its stage acquire, whose command only writes its outs."""
    folder = tmp_path / "repository"
    folder.mkdir()
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["acquire"]
    for dep in stage["deps"]:
        if not dep.startswith("${"):
            (folder / dep).parent.mkdir(parents=True, exist_ok=True)
            (folder / dep).write_text("code")
    stage["cmd"] = f"mkdir -p {' '.join(stage['outs'])}"
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"acquire": stage}}))
    shutil.copyfile(ROOT / "params.yaml", folder / "params.yaml")
    for place in (folder / "lists", tmp_path / "outside"):
        shutil.copytree(ROOT / "lists", place)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    Repo.init(no_scm=True).close()
    return folder


def _ran(repository: Path, **acquire: object) -> list[str]:
    """The stages that `dvc repro` runs with these parameters."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["acquire"].update(acquire)
    (repository / "params.yaml").write_text(yaml.safe_dump(values))
    with Repo(str(repository)) as repo:
        return [stage.name for stage in repo.reproduce()]


@pytest.mark.parametrize("place, source", [("lists", "demo"), ("lists", "folder"), ("../outside", "table"),
                                           ("{tmp_path}/outside", "table"), ("../outside/a.csv", "table")])
def test_a_changed_list_is_noticed(repository: Path, tmp_path: Path, place: str, source: str) -> None:
    place = place.format(tmp_path=tmp_path)
    changed = Path(place) if place.endswith(".csv") else Path(place) / "a.csv"
    changed.write_text("url,tags\n")
    assert _ran(repository, folder=place, source=source) == ["acquire"]
    assert _ran(repository, folder=place, source=source) == []
    with changed.open("a") as file:
        file.write("http://images.example/1.jpg,cat\n")
    assert _ran(repository, folder=place, source=source) == ["acquire"]
    assert _ran(repository, folder=place, source=source) == []
