"""An interrupted training resumes with the same command and ends with the bits of an uninterrupted one."""

import dataclasses
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.training.outcomes import Trained, as_json, assert_same_weights, log, weights
from tests.training.running import TRAINS

from mlimages.core.errors import UserError
from mlimages.core.params import Machine, Train
from mlimages.core.signals import Interrupts
from mlimages.core.tuning import INTRA_OP_THREADS, ONEDNN, intra_op_threads, onednn_enabled
from mlimages.train.run import train
from mlimages.training import result
from mlimages.training.step import Trainer

pytestmark = pytest.mark.usefixtures("no_saved_model")

# Sends itself the signal that comes first as soon as the row of step 10 is in the log: after the checkpoint of step 6,
# before the next one.
INTERRUPTED = """
import json, os, signal, sys
from mlimages.core.params import Machine, Train
from mlimages.train.run import train
from mlimages.training.metrics_log import TrainingLog

write = TrainingLog.row

def row(log, step, *values):
    write(log, step, *values)
    if step == 10:
        os.kill(os.getpid(), signal.Signals[sys.argv[1]])

TrainingLog.row = row
params, machine, tfrecords, out = json.loads(sys.argv[2])
train(Train(**params), Machine(**machine), tfrecords=tfrecords, out=out)
"""

# On two replicas, trainings of a batch with a scratch folder each, and the signal that comes after step 10, if any.
TWO_REPLICAS = """
import dataclasses, json, os, signal, sys
from pathlib import Path
from mlimages.core.errors import UserError
from mlimages.core.params import Machine, Train
from mlimages.train.run import train
from mlimages.training.metrics_log import TrainingLog

params, machine, tfrecords, out = json.loads(sys.argv[1])
params, machine, out = Train(**params), Machine(**machine), Path(out)
write = TrainingLog.row

def row(log, step, *values):
    write(log, step, *values)
    if step == 10 and received:
        os.kill(os.getpid(), signal.Signals[received])

TrainingLog.row = row
for batch, scratch, received in json.loads(sys.argv[2]):
    try:
        train(dataclasses.replace(params, batch=batch), dataclasses.replace(machine, scratch=f"{out}/{scratch}"),
              tfrecords=tfrecords, out=out / f"model_{scratch}")
    except UserError as error:
        print(f"UserError: {error}", flush=True)
"""


def test_a_killed_training_continues_from_the_last_checkpoint_to_the_same_bits(
        trained: Trained, small_tfrecords: Path, small_train: Train, small_machine: Callable[..., Machine],
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
    assert_same_weights(out, trained.out)
    assert log(out) == log(trained.out)


@pytest.mark.parametrize(("received", "step", "steps_per_call"), [
    (signal.SIGTERM, 1, 1), (signal.SIGTERM, 6, 1), (signal.SIGTERM, 11, 1), (signal.SIGINT, 11, 1),
    (signal.SIGTERM, 4, 4), (signal.SIGTERM, 12, 100)])
def test_a_signal_saves_the_step_that_was_done_and_the_end_is_the_same(
        trained: Trained, small_tfrecords: Path, small_train: Train, small_machine: Callable[..., Machine],
        tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, step: int,
        received: signal.Signals, steps_per_call: int) -> None:
    machine = dataclasses.replace(small_machine(tmp_path / "scratch"), steps_per_call=steps_per_call)
    out = tmp_path / "model"
    before = signal.getsignal(received)
    with monkeypatch.context() as patch:
        patch.setattr("mlimages.training.step.Trainer.train", stopping_at(step, received))
        with pytest.raises(UserError, match=f"{received.name} stopped the training after step {step} of 15.*continue"):
            train(small_train, machine, tfrecords=small_tfrecords, out=out)
    assert signal.getsignal(received) == before
    assert not out.exists()
    [facts] = tmp_path.glob(f"scratch/train/*/checkpoints/step-{step:08d}/facts.json")
    assert (json.loads(facts.read_text())["score"] is None) == (step not in (6, 12)), "then it was due, and tried"
    capfd.readouterr()
    train(small_train, machine, tfrecords=small_tfrecords, out=out)
    assert f"resumed after step {step}" in capfd.readouterr().out
    assert_same_weights(out, trained.out)
    assert log(out) == log(trained.out)


@pytest.mark.parametrize(("variable", "name", "here", "there"), [
    (ONEDNN, "onednn", onednn_enabled(), not onednn_enabled()),
    (INTRA_OP_THREADS, "intra_op_threads", intra_op_threads(), intra_op_threads() + 1)])
def test_a_training_that_began_with_other_arithmetic_is_not_continued(
        variable: str, name: str, here: int, there: int,
        small_tfrecords: Path, small_train: Train, small_machine: Callable[..., Machine],
        small_python: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params, machine = dataclasses.replace(small_train, validation_images=0), small_machine(tmp_path / "scratch")
    with monkeypatch.context() as patch:
        patch.setattr("mlimages.training.step.Trainer.train", stopping_at(2, signal.SIGTERM))
        with pytest.raises(UserError, match="after step 2 of 15"):
            train(params, machine, tfrecords=small_tfrecords, out=tmp_path / "model")
    switched = {**os.environ, variable: str(int(there))}
    done = subprocess.run(small_python(TRAINS, as_json(params, machine, small_tfrecords, tmp_path / "model")),
                          env=switched, capture_output=True, text=True)
    output = f"step-00000002 was trained with {name} {here}, here it is {there}, which gives other"
    assert output in done.stdout, done.stdout + done.stderr
    assert not (tmp_path / "model").exists()


def test_the_loss_scale_dropout_and_the_averages_continue_too_and_the_averages_are_published(
        small_tfrecords: Path, small_train: Train, small_machine: Callable[..., Machine], tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    params = dataclasses.replace(small_train, precision="mixed_float16", ema_decay=0.9, dropout=0.5, steps=3,
                                 epochs=None, warmup=0.0, validation_images=0)
    with monkeypatch.context() as patch:
        patch.setattr("mlimages.training.step.Trainer.train", stopping_at(2, signal.SIGTERM))
        with pytest.raises(UserError, match="after step 2 of 3"):
            train(params, small_machine(tmp_path / "b"), tfrecords=small_tfrecords, out=tmp_path / "model_b")
    trainers: list[Trainer] = []

    def write(training: result.FinishedTraining) -> None:
        trainers.append(training.trainer)
        result.write_result(training)

    monkeypatch.setattr("mlimages.training.loop.write_result", write)
    for name in ("a", "b"):
        train(params, small_machine(tmp_path / name), tfrecords=small_tfrecords, out=tmp_path / f"model_{name}")
    assert_same_weights(tmp_path / "model_a", tmp_path / "model_b")
    for published, average in zip(weights(tmp_path / "model_a"), trainers[0].weights(), strict=True):
        np.testing.assert_array_equal(published, average)
    assert any((one != other).any() for one, other in zip(trainers[0].weights(), trainers[0].model.get_weights(),
                                                          strict=True))


def test_a_training_that_begins_again_after_a_change_of_the_code_names_the_older_one(
        small_tfrecords: Path, small_train: Train, small_machine: Callable[..., Machine], tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    params, machine = dataclasses.replace(small_train, validation_images=0), small_machine(tmp_path / "scratch")

    def stop(params: Train, step: int) -> str:
        with monkeypatch.context() as patch:
            patch.setattr("mlimages.training.step.Trainer.train", stopping_at(step, signal.SIGTERM))
            with pytest.raises(UserError, match=f"after step {step} of 15"):
                train(params, machine, tfrecords=small_tfrecords, out=tmp_path / "model")
        return capfd.readouterr().out

    assert "unfinished training" not in stop(params, 2)
    [older] = tmp_path.glob("scratch/train/*/checkpoints/step-00000002")
    monkeypatch.setattr("mlimages.core.scratch.code_hash", lambda *arguments: "other code")
    assert "unfinished training" not in stop(dataclasses.replace(params, seed=5), 1), "of other parameters"
    said = stop(params, 1)
    assert f"{older.parents[1]} holds an unfinished training of the same parameters and inputs. The code has " in said
    assert f"`dvc exp run -S train.initialize_from={older}`" in said
    out = train(params, machine, tfrecords=small_tfrecords, out=tmp_path / "model")
    assert "unfinished training" not in capfd.readouterr().out, "it resumes its own"
    begun = dataclasses.replace(params, initialize_from=str(older))
    assert train(begun, machine, tfrecords=small_tfrecords, out=out) == out
    assert "variables loaded" in capfd.readouterr().out


def stopping_at(step: int, received: signal.Signals) -> Callable[..., np.ndarray]:
    """Trainer.train, which sends this process a signal in the middle of a step."""
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

    def run(*trainings: tuple[int, str, str | None], ends: int) -> str:
        done = subprocess.run(small_python(TWO_REPLICAS, arguments, json.dumps(trainings)), capture_output=True,
                              text=True, check=False)
        assert done.returncode == ends, done.stderr[-3000:]
        return done.stdout

    output = run((9, "a", None), (8, "a", None), (8, "b", "SIGTERM"), (8, "b", None), (8, "c", "SIGKILL"),
               ends=-signal.SIGKILL)
    assert "UserError: train.batch is 9, which 2 replicas cannot share evenly" in output
    assert "UserError: SIGTERM stopped the training after step 10 of 15" in output
    assert "resumed after step 10" in output
    assert not (tmp_path / "model_c").exists()
    assert "resumed after step 6" in run((8, "c", None), ends=0)
    for interrupted in ("model_b", "model_c"):
        assert_same_weights(tmp_path / "model_a", tmp_path / interrupted)
        assert log(tmp_path / "model_a") == log(tmp_path / interrupted)
    metrics = json.loads((tmp_path / "model_a" / "metrics.json").read_text())
    assert (metrics["replicas"], metrics["images"]) == (2, 120)
    losses = [float(row["loss"]) for row in log(tmp_path / "model_a")]
    assert losses[-1] < 0.95 * losses[0]


def test_a_second_signal_acts_at_once() -> None:
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts.received == "SIGTERM", "two that come together are one"
        time.sleep(1.1)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
