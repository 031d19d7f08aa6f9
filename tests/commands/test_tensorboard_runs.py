"""`make tensorboard` names trainings by experiment and changed parameters, also those that begin later."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from tests.conftest import PATIENCE_SECONDS, REPOSITORY
from tests.waiting import wait_for

from mlimages.commands.tensorboard_runs import runs
from mlimages.core import scratch
from mlimages.core.params import load
from mlimages.training.metrics_log import TENSORBOARD, TrainingLog


def git(*arguments: str) -> None:
    subprocess.run(["git", "-c", "user.name=Ada", "-c", "user.email=ada@university.example", *arguments], check=True)


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Log a training with changed lines of params.yaml, as an experiment or not. The committed file is the project's.

    Returns the folder of TensorBoard's files.
    """
    monkeypatch.chdir(tmp_path)
    text = (REPOSITORY / "params.yaml").read_text()
    Path("params.yaml").write_text(text)
    git("init", "-q")
    git("add", "params.yaml")
    git("commit", "-qm", "parameters")

    def make(key: int, experiment: str | None = None, used: float | None = None, **changes: str) -> Path:
        changed = text
        for name, value in changes.items():
            changed = re.sub(rf"(?m)^(train:(?:\n  .*)*?\n  {name}: )\S+", rf"\g<1>{value}", changed)
        Path("params.yaml").write_text(changed)
        with monkeypatch.context() as patch:
            patch.delenv("DVC_EXP_NAME", raising=False)
            if experiment:
                patch.setenv("DVC_EXP_NAME", experiment)
            with scratch.workspace("train", load().machine, f"{key:016x}", f"out/{key}",
                                   scratch.settings(load().train)) as work:
                with TrainingLog(work / "training.csv", work / TENSORBOARD, 0) as log:
                    log.row(5, 0.1, 2.0, 0.01, 100.0)
        if used is not None:
            os.utime(work / scratch.SETTINGS, (used, used))
        return work / TENSORBOARD

    return make


def test_a_training_is_named_by_its_experiment_and_the_parameters_that_differ_from_the_commit(
        train: Callable[..., Path]) -> None:
    before = train(0, used=86400 * 365)
    committed = train(1)
    fast = train(2, "fast", learning_rate="0.02", loss="softmax")
    begun = train(3, initialize_from="a/b.ckpt")
    (committed.parents[1] / "empty").mkdir()
    found = runs(load().machine)
    [earlier] = [name for name in found if re.fullmatch(r"as committed 197[01]-\d\d-\d\d \d\d:\d\d:\d\d", name)]
    assert found == {"as committed": committed, 'fast learning_rate=0.02 loss="softmax"': fast,
                     'initialize_from="a_b.ckpt"': begun, earlier: before}


@pytest.mark.slow
def test_tensorboard_shows_these_names_also_of_trainings_that_begin_later(train: Callable[..., Path],
                                                                          tmp_path: Path) -> None:
    train(1, "first", learning_rate="0.5")
    code = ("import sys; from mlimages.commands import tensorboard_runs as module; module.REFRESH_SECONDS = 0.2; "
            "sys.exit(module.main('--port=0', '--reload_interval=1'))")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"),
                   "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    printed = tmp_path / "printed"
    with printed.open("w") as file:
        process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=file,
                                   stderr=subprocess.STDOUT, start_new_session=True)
    try:
        wait_for(lambda: re.search(r"http://\S+", printed.read_text()) or process.poll() is not None, PATIENCE_SECONDS)
        address = re.search(r"http://\S+/", printed.read_text())
        assert address, printed.read_text()

        def shown() -> set[str]:
            return set(requests.get(f"{address[0]}data/runs", timeout=PATIENCE_SECONDS).json())

        wait_for(lambda: shown() == {"first learning_rate=0.5"}, PATIENCE_SECONDS)
        train(2, "second", learning_rate="0.7")
        wait_for(lambda: shown() == {"first learning_rate=0.5", "second learning_rate=0.7"}, PATIENCE_SECONDS)
    finally:
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 0
