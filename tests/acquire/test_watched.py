"""DVC runs acquire and transfer again by itself after a change in their folder, inside or outside of the repository."""

import shutil
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with this one's params.yaml and the two stages, whose commands only write their outs."""
    folder = tmp_path / "repository"
    folder.mkdir()
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    stages = {name: stages[name] for name in ("acquire", "transfer")}
    for stage in stages.values():
        for dep in stage["deps"]:
            if not dep.startswith("${"):
                (folder / dep).parent.mkdir(parents=True, exist_ok=True)
                (folder / dep).write_text("code")
        stage["cmd"] = f"mkdir -p {' '.join(stage['outs'])}"
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    shutil.copyfile(ROOT / "params.yaml", folder / "params.yaml")
    for name in ("lists", "pictures"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copytree(ROOT / "lists", tmp_path / "outside")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    Repo.init(no_scm=True).close()
    return folder


def _ran(repository: Path, name: str, **parameters: object) -> list[str]:
    """The stages that `dvc repro NAME` runs with these parameters of the stage."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values[name].update(parameters)
    (repository / "params.yaml").write_text(yaml.safe_dump(values))
    with Repo(str(repository)) as repo:
        return [stage.name for stage in repo.reproduce(name)]


@pytest.mark.parametrize("stage, place, source", [
    ("acquire", "lists", "demo"), ("acquire", "lists", "folder"), ("acquire", "../outside", "table"),
    ("acquire", "{tmp_path}/outside", "table"), ("acquire", "../outside/a.csv", "table"),
    ("transfer", "pictures", "demo"), ("transfer", "pictures", "folder"), ("transfer", "../outside", "folder")])
def test_a_changed_file_is_noticed(repository: Path, tmp_path: Path, stage: str, place: str, source: str) -> None:
    place = place.format(tmp_path=tmp_path)
    changed = Path(place) if place.endswith(".csv") else Path(place) / "a.csv"
    changed.write_text("url,tags\n")
    assert _ran(repository, stage, folder=place, source=source) == [stage]
    assert _ran(repository, stage, folder=place, source=source) == []
    with changed.open("a") as file:
        file.write("http://images.example/1.jpg,cat\n")
    assert _ran(repository, stage, folder=place, source=source) == [stage]
    assert _ran(repository, stage, folder=place, source=source) == []
