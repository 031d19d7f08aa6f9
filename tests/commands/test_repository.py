"""Notes and errors about what DVC cannot do come before any work, and are true for the installed DVC."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faults import environment, needs_unshare

DVC = [sys.executable, "-m", "dvc"]
CHECK = [sys.executable, "-m", "mlimages.commands.repository"]
STAGE = [sys.executable, "-m", "mlimages.run_notebook", "acquire", "data/reports/1_acquire.ipynb"]
CONFIG = Path(__file__).parents[2] / ".dvc/config"
ACCENTED = "recherche \u00e9t\u00e9"


def call(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in environment().items() if not name.startswith(("DVC_", "GIT_"))}
    return subprocess.run(command, cwd=folder, env=kept, capture_output=True, text=True)


Make = Callable[[Path], Path]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one stage, committed, and this one's configuration of DVC."""
    folder = tmp_path_factory.mktemp("repository")
    (folder / "data/reports").mkdir(parents=True)
    (folder / "params.yaml").write_text("k: 1\n")
    (folder / "dvc.yaml").write_text("stages: {a: {cmd: mkdir data/lists && cp params.yaml data/lists, params: [k], "
                                     "outs: [data/lists]}}\n")
    (folder / "data/.gitignore").write_text("/lists\n")
    for command in (["git", "init", "-q"], ["git", "config", "user.name", "tester"],
                    ["git", "config", "user.email", "tester@example.org"], [*DVC, "init", "-q"],
                    ["cp", str(CONFIG), ".dvc/config"], ["git", "add", "-A"], ["git", "commit", "-qm", "start"]):
        assert call(folder, *command).returncode == 0, command
    return folder


@pytest.fixture
def make_repository(template: Path) -> Make:
    """Copy that repository into a folder."""
    return lambda folder: Path(shutil.copytree(template, folder))


def only_error(ended: subprocess.CompletedProcess[str]) -> str:
    """The single line that a refused command prints."""
    assert ended.returncode == 2 and ended.stderr.startswith("ERROR: ") and ended.stderr.count("\n") == 1, ended.stderr
    assert ended.stdout == ""
    return ended.stderr


@pytest.mark.parametrize("name", ["plain", "with a space"])
def test_the_check_of_a_good_repository_prints_nothing(tmp_path: Path, make_repository: Make, name: str) -> None:
    checked = call(make_repository(tmp_path / name), *CHECK)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_a_folder_without_git_is_reported_unless_dvc_needs_none(tmp_path: Path, make_repository: Make) -> None:
    folder = make_repository(tmp_path / "unpacked")
    shutil.rmtree(folder / ".git")
    assert "is no git repository" in only_error(call(folder, *CHECK))
    assert call(folder, *DVC, "repro").returncode != 0
    assert call(folder, *DVC, "config", "--local", "core.no_scm", "true").returncode == 0
    assert call(folder, *DVC, "repro").returncode == 0
    assert call(folder, *CHECK).returncode == 0


def test_a_repository_inside_another_one_is_good(tmp_path: Path, make_repository: Make) -> None:
    folder = make_repository(tmp_path / "outer/inner")
    (folder / ".git").rename(tmp_path / "outer/.git")
    assert call(folder, *DVC, "repro").returncode == 0
    assert call(folder, *CHECK).returncode == 0


def test_a_folder_without_dvc_is_reported(tmp_path: Path, make_repository: Make) -> None:
    folder = make_repository(tmp_path / "copy")
    shutil.rmtree(folder / ".dvc")
    assert "has no folder .dvc" in only_error(call(folder, *CHECK))


@pytest.mark.parametrize("command", [CHECK, STAGE], ids=["repository", "stage"])
@pytest.mark.parametrize("name", ["data", "data/lists", "data/reports"])
def test_a_link_instead_of_a_data_folder_is_reported_before_any_cell_runs(tmp_path: Path, make_repository: Make,
                                                                          name: str, command: list[str]) -> None:
    folder = make_repository(tmp_path / "clone")
    shutil.rmtree(folder / name, ignore_errors=True)
    (tmp_path / "disk").mkdir()
    (folder / name).symlink_to(tmp_path / "disk")
    assert f"{name} is a symbolic link to {tmp_path / 'disk'}" in only_error(call(folder, *command))
    (tmp_path / "disk").rmdir()
    assert f"{name} is a symbolic link" in only_error(call(folder, *command)), "a link to nothing"


def test_links_into_dvcs_cache_are_allowed(tmp_path: Path, make_repository: Make) -> None:
    folder = make_repository(tmp_path / "clone")
    assert call(folder, *DVC, "config", "cache.type", "symlink").returncode == 0
    assert call(folder, *DVC, "repro").returncode == 0
    assert (folder / "data/lists/params.yaml").is_symlink()
    assert call(folder, *CHECK).returncode == 0


@pytest.mark.parametrize("name", ["data", "data/reports"])
def test_a_file_instead_of_a_folder_is_reported(tmp_path: Path, make_repository: Make, name: str) -> None:
    folder = make_repository(tmp_path / "clone")
    shutil.rmtree(folder / name)
    (folder / name).touch()
    assert f"{name} is a file, expected a folder" in only_error(call(folder, *STAGE))


@needs_unshare
@pytest.mark.parametrize("name", ["data", "data/reports"])
def test_data_on_a_read_only_disk_is_reported(tmp_path: Path, make_repository: Make, name: str) -> None:
    folder = make_repository(tmp_path / "clone")
    mounted = ["unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o ro tmpfs {name} && exec "$@"', "sh"]
    assert f"{name} cannot be written" in only_error(call(folder, *mounted, *STAGE))


def test_a_path_that_is_not_ascii_is_reported_with_its_limits_and_a_remedy(tmp_path: Path,
                                                                           make_repository: Make) -> None:
    folder = make_repository(tmp_path / ACCENTED)
    checked = call(folder, *CHECK)
    assert checked.returncode == 0 and checked.stderr.count("\n") == 1
    assert checked.stderr.startswith("NOTE: ") and "--temp" in checked.stderr
    assert call(folder, *DVC, "repro").returncode == 0
    call(folder, "git", "add", "-A")
    call(folder, "git", "commit", "-qm", "made")
    assert "codec can't encode" in call(folder, *DVC, "exp", "run", "--temp", "-S", "k=2").stderr
    assert call(folder, *DVC, "cache", "dir", "--local", str(tmp_path / "cache")).returncode == 0
    assert call(folder, *CHECK).stderr == ""
    ended = call(folder, *DVC, "exp", "run", "--temp", "-S", "k=2")
    assert ended.returncode == 0, ended.stderr
    assert os.listdir(tmp_path / "cache")
