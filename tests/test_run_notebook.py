"""A notebook runs as a stage with its section of params.yaml. A signal interrupts its cell, which saves its work."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import psutil
import pytest
from tests.conftest import PATIENCE_SECONDS
from tests.waiting import wait_for

from mlimages.notebook import parameters_cell
from mlimages.run_notebook import BEGUN_SECONDS, main

ROOT = Path(__file__).parents[1]
# Writes its process id once a signal can reach it, and saves when a signal comes.
WORKS = f"""
import os, sys, time
from pathlib import Path
sys.path.insert(0, {str(ROOT / "src")!r})
from mlimages.core.errors import UserError
from mlimages.core.signals import Interrupts

Path("learning_rate").write_text(repr(learning_rate))
with Interrupts() as interrupts:
    time.sleep({2 * BEGUN_SECONDS})
    Path("pid").write_text(str(os.getpid()))
    while not interrupts.received:
        time.sleep(0.1)
    time.sleep(0.5)
    Path("saved").touch()
    raise UserError(interrupts.received + " stopped it; run the same command to continue")
"""
Start = Callable[..., subprocess.Popen[str]]


def wait(process: subprocess.Popen[str], path: Path) -> None:
    """Wait until this file exists or the process has ended."""
    wait_for(lambda: path.exists() or process.poll() is not None, PATIENCE_SECONDS)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a notebook with these cells as the stage `train`; returns when it runs. None of it is left after the test.
    """
    started: list[subprocess.Popen[str]] = []

    def run(*cells: str, ready: str = "pid", **options: object) -> subprocess.Popen[str]:
        parameters = nbformat.v4.new_code_cell("learning_rate = None", metadata={"tags": ["parameters"]})
        notebook = nbformat.v4.new_notebook(cells=[parameters, *map(nbformat.v4.new_code_cell, cells)],
                                            metadata={"language_info": {"name": "python"}})
        (tmp_path / "notebooks").mkdir()
        nbformat.write(notebook, tmp_path / "notebooks/4_train.ipynb")
        if not (tmp_path / "params.yaml").exists():
            (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
        process = subprocess.Popen([sys.executable, "-m", "mlimages.run_notebook", "train", "out.ipynb"], cwd=tmp_path,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                   env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{tmp_path}"}, **options)  # type: ignore[call-overload]
        started.append(process)
        wait(process, tmp_path / ready)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                one.kill()


@pytest.mark.parametrize(("number", "all_at_once"), [
    (signal.SIGTERM, False), (signal.SIGINT, False), (signal.SIGTERM, True)])
def test_a_signal_interrupts_the_notebook_which_saves(start: Start, tmp_path: Path, number: signal.Signals,
                                                     all_at_once: bool) -> None:
    (tmp_path / "params.yaml").write_text(
        (ROOT / "params.yaml").read_text().replace("learning_rate: 0.001", "learning_rate: 1e-5"))
    process = start(WORKS)
    for pid in [*([int((tmp_path / "pid").read_text())] if all_at_once else []), process.pid]:
        os.kill(pid, number)
    said = process.communicate(timeout=PATIENCE_SECONDS)[0]
    assert process.returncode == 1
    assert (tmp_path / "saved").exists()
    assert f"{number.name}: interrupting the notebook" in said
    assert "stopped it; run the same command to continue" in said and "Traceback" not in said
    assert "stopped it" in (tmp_path / "out.ipynb").read_text()
    assert (tmp_path / "learning_rate").read_text() == "1e-05"


def test_a_second_signal_ends_a_cell_that_does_not_save(start: Start, tmp_path: Path) -> None:
    process = start(WORKS.replace("time.sleep(0.5)", "Path('ignored').touch(); time.sleep(600)"))
    process.send_signal(signal.SIGTERM)
    wait(process, tmp_path / "ignored")
    time.sleep(1.5)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=PATIENCE_SECONDS)[0]
    assert process.returncode == 1 and "KeyboardInterrupt" in said and not (tmp_path / "saved").exists()


def test_a_third_signal_ends_a_kernel_that_no_interrupt_reaches(start: Start) -> None:
    process = start("""import os, signal
from pathlib import Path
signal.signal(signal.SIGINT, lambda *_: None)
Path("pid").write_text(str(os.getpid()))
while True:
    pass
""")
    for _ in range(3):
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=PATIENCE_SECONDS)[0]
    assert "ERROR: the notebook's kernel died" in said and process.returncode == 1


def test_a_signal_while_the_kernel_starts_kills_no_kernel_and_lets_no_cell_begin(start: Start, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, time\n'ipykernel_launcher' in sys.orig_argv and (open('starts', 'w').close(), time.sleep(8))\n")
    process = start("Path('first').touch()", ready="starts")
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=PATIENCE_SECONDS)[0]
    assert process.returncode == 2 and not (tmp_path / "first").exists()
    assert "ERROR: SIGTERM stopped the notebook between two cells" in said and "Traceback" not in said, said


def test_no_cell_begins_after_a_cell_that_ignored_a_signal(start: Start, tmp_path: Path) -> None:
    process = start("import signal, time\nfrom pathlib import Path\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
                    "Path('pid').touch()\ntime.sleep(8)", "Path('second').touch()")
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=PATIENCE_SECONDS)[0]
    assert process.returncode == 2 and not (tmp_path / "second").exists()
    assert "ERROR: SIGTERM stopped the notebook between two cells; run the same command to continue" in said


@pytest.mark.parametrize("arguments", [[], ["train"], ["trian", "out.ipynb"], ["machine", "out.ipynb"]])
def test_wrong_arguments_print_the_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    usage = "usage: python -m mlimages.run_notebook acquire|download|convert|train|evaluate|transfer OUT"
    assert usage in capsys.readouterr().err


def test_an_ignored_signal_does_not_reach_the_notebook(start: Start, tmp_path: Path) -> None:
    process = start("import time\nfrom pathlib import Path\nPath('pid').touch()\ntime.sleep(2)",
                    preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN))
    process.send_signal(signal.SIGTERM)
    assert "interrupting" not in process.communicate(timeout=PATIENCE_SECONDS)[0] and process.returncode == 0


def test_a_kernel_that_dies_fails_the_stage(start: Start) -> None:
    process = start("import os\nos.kill(os.getpid(), 9)", ready="never")
    said = process.communicate(timeout=PATIENCE_SECONDS)[0]
    assert "ERROR: the notebook's kernel died" in said and process.returncode == 1


@pytest.mark.parametrize("variable", ["JUPYTER_PATH", "JUPYTER_DATA_DIR"])
def test_a_kernel_of_the_same_name_of_another_python_is_not_started(start: Start, tmp_path: Path, variable: str,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    spec = tmp_path / "jupyter/kernels/python3/kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text('{"argv": ["/bin/false", "{connection_file}"], "display_name": "another", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    monkeypatch.setenv(variable, str(tmp_path / "jupyter"))
    process = start("import sys\nfrom pathlib import Path\nPath('python').write_text(sys.executable)", ready="python")
    said = process.communicate(timeout=PATIENCE_SECONDS)[0]
    assert process.returncode == 0, said
    assert (tmp_path / "python").read_text() == sys.executable


def test_a_wrong_parameter_is_reported_in_one_line_before_any_cell_runs(start: Start, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text().replace("batch: 32", "batch: -3"))
    process = start(WORKS)
    said = process.communicate(timeout=PATIENCE_SECONDS)[0]
    assert process.returncode == 2 and not (tmp_path / "out.ipynb").exists()
    assert said.startswith("ERROR: params.yaml: `train.batch` is -3") and said.count("\n") == 1, said


def test_the_executed_notebook_has_one_parameters_cell_one_line_of_progress_and_no_absolute_path(
        start: Start, tmp_path: Path) -> None:
    process = start("from pathlib import Path\nfrom tqdm import tqdm\nimport sys\nprint(Path('out').absolute())\n"
                    "for _ in tqdm(range(30), 'train', file=sys.stdout, mininterval=0):\n    pass\n"
                    "Path('pid').touch()")
    process.communicate(timeout=PATIENCE_SECONDS)
    parameters, cell = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells
    assert parameters.source == parameters_cell("train", tmp_path / "params.yaml")
    [output] = cell.outputs
    path, progress = output.text.splitlines()
    assert path == "out" and progress.startswith("train: 100%") and "\r" not in output.text
    assert str(tmp_path) not in (tmp_path / "out.ipynb").read_text()
