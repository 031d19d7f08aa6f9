"""However a training ends before its time, the same command ends it with the bits of an uninterrupted one."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tests.train.outcomes import as_json, assert_same_weights, log

from mlimages.errors import UserError
from mlimages.params import Machine, Train
from mlimages.train import train
from mlimages.train.interrupts import Interrupts
from mlimages.train.resume import Checkpoints

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace, to inject faults")

# Sends itself the signal that comes first as soon as the row of step 10 is in the log: after the checkpoint of step 6,
# before the next one.
INTERRUPTED = """
import json, os, signal, sys
from mlimages.params import Machine, Train
from mlimages.train import train
from mlimages.train.log import TrainingLog

write = TrainingLog.row

def row(log, step, *values):
    write(log, step, *values)
    if step == 10:
        os.kill(os.getpid(), signal.Signals[sys.argv[1]])

TrainingLog.row = row
params, machine, tfrecords, out = json.loads(sys.argv[2])
train(Train(**params), Machine(**machine), tfrecords=tfrecords, out=out)
"""

# On two replicas: a batch that they cannot share; a straight training; one that SIGTERM stops, and its end.
TWO_REPLICAS = """
import dataclasses, json, os, signal, sys
from pathlib import Path
from mlimages.errors import UserError
from mlimages.params import Machine, Train
from mlimages.train import train
from mlimages.train.log import TrainingLog

params, machine, tfrecords, out = json.loads(sys.argv[1])
params, machine, out = Train(**params), Machine(**machine), Path(out)
write = TrainingLog.row

def row(log, step, *values):
    write(log, step, *values)
    if step == 10 and interrupting:
        os.kill(os.getpid(), signal.SIGTERM)

TrainingLog.row = row
for batch, scratch, interrupting in ((9, "a", False), (8, "a", False), (8, "b", True), (8, "b", False)):
    try:
        train(dataclasses.replace(params, batch=batch), dataclasses.replace(machine, scratch=f"{out}/{scratch}"),
              tfrecords=tfrecords, out=out / f"model_{scratch}")
    except UserError as error:
        print(f"UserError: {error}")
"""

# Saves twice; what is injected kills the second save.
SAVES = """
import sys
import tensorflow as tf
from pathlib import Path
from mlimages.train.resume import Checkpoints

variable = tf.Variable([1.0])
checkpoints = Checkpoints(Path(sys.argv[1]), {"network": [variable]}, {"classes": 3}, 3)
for step in (1, 2):
    variable.assign([float(step)])
    checkpoints.save(step, [])
    print(step, flush=True)
"""


@pytest.fixture(scope="module")
def straight(small_tfrecords: Path, small_train: Train, small_machine: Callable[..., Machine],
             tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny training, uninterrupted."""
    root = tmp_path_factory.mktemp("straight")
    return train(small_train, small_machine(root / "scratch"), tfrecords=small_tfrecords, out=root / "model")


def test_a_killed_training_continues_from_the_last_checkpoint_to_the_same_bits(
        straight: Path, small_tfrecords: Path, small_train: Train, small_machine: Callable[..., Machine],
        small_python: Callable[..., list[str]], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    machine, out = small_machine(tmp_path / "scratch"), tmp_path / "model"
    killed = subprocess.run(small_python(INTERRUPTED, "SIGKILL", as_json(small_train, machine, small_tfrecords, out)),
                            capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not out.exists()
    [work] = tmp_path.glob("scratch/train/*")
    assert [row["step"] for row in log(work)] == ["5", "6", "10"]
    assert [path.name for path in (work / "checkpoints").iterdir()] == ["step-00000006"]
    capfd.readouterr()
    train(small_train, machine, tfrecords=small_tfrecords, out=out)
    assert "resumed after step 6" in capfd.readouterr().out
    assert_same_weights(out, straight)
    assert log(out) == log(straight)


@pytest.mark.parametrize(("received", "step"), [
    (signal.SIGTERM, 1), (signal.SIGTERM, 6), (signal.SIGTERM, 11), (signal.SIGINT, 11)])
def test_a_signal_saves_the_step_that_was_done_and_the_end_is_the_same(
        straight: Path, small_tfrecords: Path, small_train: Train, small_machine: Callable[..., Machine],
        tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, step: int,
        received: signal.Signals) -> None:
    machine, out = small_machine(tmp_path / "scratch"), tmp_path / "model"
    before = signal.getsignal(received)
    with monkeypatch.context() as patch:
        patch.setattr("mlimages.train.step.Trainer.train", stopping_at(step, received))
        with pytest.raises(UserError, match=f"{received.name} stopped the training after step {step} of 15.*continue"):
            train(small_train, machine, tfrecords=small_tfrecords, out=out)
    assert signal.getsignal(received) == before
    assert not out.exists()
    [facts] = tmp_path.glob(f"scratch/train/*/checkpoints/step-{step:08d}/facts.json")
    assert (json.loads(facts.read_text())["score"] is None) == (step != 6), "at step 6 it was due, and tried"
    capfd.readouterr()
    train(small_train, machine, tfrecords=small_tfrecords, out=out)
    assert f"resumed after step {step}" in capfd.readouterr().out
    assert_same_weights(out, straight)
    assert log(out) == log(straight)


def stopping_at(step: int, received: signal.Signals) -> Callable[..., np.ndarray]:
    """Trainer.train, which sends this process a signal in the middle of a step."""
    from mlimages.train.step import Trainer

    original, done = Trainer.train, [0]

    def stop(trainer: Trainer, batches: object, rates: np.ndarray, **options: bool) -> np.ndarray:
        done[0] += len(rates)
        if done[0] == step:
            os.kill(os.getpid(), received)
        return original(trainer, batches, rates, **options)  # type: ignore[arg-type]

    return stop


def test_on_two_replicas_an_interrupted_training_ends_with_the_bits_of_a_straight_one(
        small_tfrecords: Path, small_train: Train, small_machine: Callable[..., Machine],
        small_python: Callable[..., list[str]], tmp_path: Path) -> None:
    arguments = as_json(small_train, small_machine(tmp_path, 2), small_tfrecords, tmp_path)
    done = subprocess.run(small_python(TWO_REPLICAS, arguments), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "UserError: train.batch is 9, which 2 replicas cannot share evenly" in done.stdout
    assert "UserError: SIGTERM stopped the training after step 10 of 15" in done.stdout
    assert "resumed after step 10" in done.stdout
    assert_same_weights(tmp_path / "model_a", tmp_path / "model_b")
    assert log(tmp_path / "model_a") == log(tmp_path / "model_b")
    metrics = json.loads((tmp_path / "model_a" / "metrics.json").read_text())
    assert (metrics["replicas"], metrics["images"]) == (2, 120)
    losses = [float(row["loss"]) for row in log(tmp_path / "model_a")]
    assert losses[-1] < 0.95 * losses[0]


def test_a_second_signal_acts_at_once() -> None:
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts.received == "SIGTERM"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


class Saved:
    """Checkpoints of one variable that holds the step."""

    def __init__(self, folder: Path, kept: int = 3, classes: int = 3, length: int = 1) -> None:
        self.variable = tf.Variable([0.0] * length)
        self.folder = folder
        self.checkpoints = Checkpoints(folder, {"network": [self.variable]}, {"classes": classes}, kept)

    def save(self, step: int, score: float | None = None) -> None:
        self.variable.assign([float(step)])
        self.checkpoints.save(step, [0.5], score)

    def steps(self) -> list[int]:
        return sorted(int(path.name.removeprefix("step-")) for path in self.folder.iterdir())


def test_the_last_ones_and_the_best_are_kept(tmp_path: Path) -> None:
    saved = Saved(tmp_path, kept=2)
    for step, score in ((1, 3.0), (2, 1.0), (3, 2.0), (4, None), (5, 1.5)):
        saved.save(step, score)
    assert saved.steps() == [2, 4, 5]
    assert saved.checkpoints.restore() == (5, [0.5])
    assert saved.checkpoints.restore_best() == 2
    assert saved.variable.numpy().tolist() == [2.0]


@pytest.mark.parametrize("name", ["variables.index", "variables.data-00000-of-00001", "facts.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "missing"])
def test_a_damaged_newest_checkpoint_is_told_and_the_one_before_taken(
        tmp_path: Path, name: str, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    saved = Saved(tmp_path)
    saved.save(1)
    saved.save(2)
    spoil(tmp_path / "step-00000002" / name, damage)
    assert saved.checkpoints.restore().step == 1
    assert saved.variable.numpy().tolist() == [1.0]
    assert "step-00000002 is damaged" in (told := capsys.readouterr().out) and "going back to step-00000001" in told
    saved.save(2)
    assert saved.checkpoints.restore().step == 2


def test_what_is_damaged_is_left_alone_by_all_workers_but_one(tmp_path: Path,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    saved = Saved(tmp_path)
    saved.save(1)
    saved.save(2)
    spoil(tmp_path / "step-00000002" / "facts.json", "cut")
    assert saved.checkpoints.restore(mend=False).step == 1
    assert saved.steps() == [1, 2]
    assert capsys.readouterr().out == ""


def test_what_a_killed_save_has_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    (tmp_path / ".step-00000007.partial").mkdir()
    saved = Saved(tmp_path)
    saved.save(1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_where_all_are_damaged_nothing_starts_anew(tmp_path: Path) -> None:
    saved = Saved(tmp_path)
    for step in (1, 2):
        saved.save(step)
        spoil(tmp_path / f"step-{step:08d}" / "variables.index", "cut")
    with pytest.raises(UserError, match="every checkpoint in .* is damaged .*step-00000002.*step-00000001"):
        saved.checkpoints.restore()
    assert saved.steps() == [1, 2]


def spoil(path: Path, damage: str) -> None:
    body = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(body[: len(body) // 2])
    if damage == "flipped":
        path.write_bytes(body[:3] + bytes([body[3] ^ 64]) + body[4:])


def test_a_checkpoint_of_another_network_is_refused_with_both(tmp_path: Path) -> None:
    Saved(tmp_path).save(1)
    with pytest.raises(UserError, match="a network with classes 3, expected 4"):
        Saved(tmp_path, classes=4).checkpoints.restore()


def test_a_disk_that_fails_is_told_and_the_one_before_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = Saved(tmp_path)
    saved.save(1)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="No space left.*make room there"):
            saved.save(2)
    assert saved.checkpoints.restore().step == 1


@needs_strace
@pytest.mark.slow
@pytest.mark.parametrize("call", ["rename", "fsync"])
def test_a_kill_at_any_call_of_a_save_keeps_the_checkpoint_before(
        small_python: Callable[..., list[str]], tmp_path: Path, call: str) -> None:
    strace = ["strace", "-f", "-qq", "-e", f"trace={call}"]
    counted = subprocess.run([*strace, *small_python(SAVES, str(tmp_path / "all"))], capture_output=True, text=True,
                             check=True)
    saves = sum(f"{call}(" in line for line in counted.stderr.splitlines()) // 2
    assert saves >= 2
    for nth in (saves + 1, 2 * saves):
        folder = tmp_path / str(nth)
        killed = subprocess.run([*strace, "-e", f"inject={call}:signal=KILL:when={nth}",
                                 *small_python(SAVES, str(folder))], capture_output=True, text=True, check=False)
        assert killed.stdout.split() == ["1"], killed.stderr[-2000:]
        saved = Saved(folder)
        # The call happens, then the kill: after the last rename the second checkpoint is whole.
        assert saved.checkpoints.restore().step in (1, 2)
        assert saved.variable.numpy().tolist() == [float(saved.checkpoints.restore().step)]
        saved.save(2)
        assert saved.steps() == [1, 2]
