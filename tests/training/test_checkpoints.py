"""A checkpoint is complete or absent. The last ones and the best are kept, and damaged ones are skipped."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from tests.faults import FILTER, STRACE, needs_strace, python, with_fault

from mlimages.core.errors import UserError
from mlimages.training.checkpoints import CheckpointManager
from mlimages.training.schedule import NOT_VALIDATED

# Saves twice; what is injected kills the second save.
SAVES = """
import sys
import tensorflow as tf
from pathlib import Path
from mlimages.training.checkpoints import CheckpointManager

variable = tf.Variable([1.0])
network = {"classes": 3, "architecture": "resnet101"}
checkpoints = CheckpointManager(Path(sys.argv[1]), {"network": [variable]}, network, {}, 3, 0.0)
for step in (1, 2):
    variable.assign([float(step)])
    checkpoints.save(step, [])
    print(step, flush=True)
"""


class Saved:
    """Checkpoints of one variable that holds the step."""

    def __init__(self, folder: Path, kept: int = 3, ran: float = 0.0, machine: dict[str, Any] | None = None,
                 **network: Any) -> None:
        self.variable = tf.Variable([0.0])
        self.folder = folder
        self.checkpoints = CheckpointManager(folder, {"network": [self.variable]},
                                       {"classes": 3, "architecture": "resnet101", **network}, machine or {}, kept,
                                       time.monotonic() - ran)

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
    assert saved.checkpoints.restore() == (5, [0.5], NOT_VALIDATED)
    assert saved.checkpoints.restore_best() == 2
    assert saved.variable.numpy().tolist() == [2.0]


@pytest.mark.parametrize("score", [float("nan"), float("-inf")])
def test_a_score_that_is_not_finite_is_reported_and_never_the_best(tmp_path: Path, score: float,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
    saved = Saved(tmp_path, kept=1)
    saved.save(1, score)
    assert f"the score of step-00000001 is {score}: it cannot be the best" in capsys.readouterr().out
    with pytest.raises(UserError, match="no complete .* finite score, so there is no best one; set train.publish to "
                                        "last"):
        saved.checkpoints.restore_best()
    for step, later in ((2, 3.0), (3, score), (4, None)):
        saved.save(step, later)
    assert saved.steps() == [2, 4]
    assert saved.checkpoints.restore_best() == 2


def test_the_duration_is_the_sum_over_all_runs_up_to_their_checkpoints(tmp_path: Path) -> None:
    Saved(tmp_path, ran=1000.0).save(1, score=1.0)
    resumed = Saved(tmp_path, ran=200.0)
    assert 200 <= resumed.checkpoints.seconds < 300
    resumed.checkpoints.restore()
    assert 1200 <= resumed.checkpoints.seconds < 1300
    resumed.save(2)
    resumed.checkpoints.restore_best()
    assert 1200 <= resumed.checkpoints.seconds < 1300
    last = Saved(tmp_path, ran=30.0)
    last.checkpoints.restore()
    assert 1230 <= last.checkpoints.seconds < 1400


@pytest.mark.parametrize("name", ["variables.index", "variables.data-00000-of-00001", "facts.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "missing"])
def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_is_used(
        tmp_path: Path, name: str, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    saved = Saved(tmp_path)
    saved.save(1)
    saved.save(2)
    spoil(tmp_path / "step-00000002" / name, damage)
    assert saved.checkpoints.restore().step == 1
    assert saved.variable.numpy().tolist() == [1.0]
    assert "step-00000002 is damaged" in (said := capsys.readouterr().out) and "going back to step-00000001" in said
    saved.save(2)
    assert saved.checkpoints.restore().step == 2


RESTORE = """
import sys, time
import tensorflow as tf
from pathlib import Path
from mlimages.training.checkpoints import CheckpointManager

network = {"classes": 3, "architecture": "resnet101"}
print(CheckpointManager(Path(sys.argv[1]), {"network": [tf.Variable([0.0])]}, network, {}, 3, 0.0).restore())
"""


@needs_strace
@pytest.mark.parametrize("name", ["variables.data-00000-of-00001", "facts.json"])
def test_a_checkpoint_that_cannot_be_read_is_treated_as_damaged(tmp_path: Path, name: str) -> None:
    saved = Saved(tmp_path)
    saved.save(1)
    saved.save(2)
    path = tmp_path / "step-00000002" / name
    ended = with_fault("read:error=EIO", python(RESTORE, str(tmp_path)), path=path)
    assert ended.returncode == 0, ended.stderr
    assert "step-00000002 is damaged" in ended.stdout and "Input/output error" in ended.stdout
    assert "ResumePoint(step=1" in ended.stdout


def test_only_the_chief_removes_damaged_checkpoints(tmp_path: Path,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    saved = Saved(tmp_path)
    saved.save(1)
    saved.save(2)
    spoil(tmp_path / "step-00000002" / "facts.json", "cut")
    assert saved.checkpoints.restore(mend=False).step == 1
    assert saved.steps() == [1, 2]
    assert capsys.readouterr().out == ""


def test_the_next_save_removes_what_a_killed_save_left(tmp_path: Path) -> None:
    (tmp_path / ".step-00000007.partial").mkdir()
    saved = Saved(tmp_path)
    saved.save(1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_training_whose_checkpoints_are_all_damaged_is_refused(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("name, other, expected", [
    ("classes", 4, "classes 3, expected 4"), ("architecture", "resnet50", "architecture resnet101, expected resnet50")])
def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path, name: str, other: Any, expected: str) -> None:
    Saved(tmp_path).save(1)
    with pytest.raises(UserError, match=f"step-00000001 is of a network with {expected}; remove"):
        Saved(tmp_path, **{name: other}).checkpoints.restore()


@pytest.mark.parametrize("name, other, expected", [
    ("replicas", 4, "replicas 2, here it is 4"), ("onednn", False, "onednn True, here it is False"),
    ("instructions", "avx2", "instructions 'avx2 fma', here it is 'avx2'")])
def test_a_checkpoint_of_a_machine_with_other_arithmetic_is_refused(
        tmp_path: Path, name: str, other: Any, expected: str) -> None:
    machine = {"replicas": 2, "onednn": True, "instructions": "avx2 fma"}
    Saved(tmp_path, machine=machine).save(1)
    assert Saved(tmp_path, machine=machine).checkpoints.restore().step == 1
    assert Saved(tmp_path).checkpoints.restore().step == 1, "as workers do that are not the chief"
    ways = r".*machine\.\* .*train\.initialize_from=.*step-00000001`; remove"
    with pytest.raises(UserError, match=f"step-00000001 was trained with {expected}, {ways}"):
        Saved(tmp_path, machine={**machine, name: other}).checkpoints.restore()


def test_a_save_reads_no_weights_of_other_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path) -> str:
        pytest.fail(f"{path} is read")

    saved = Saved(tmp_path, kept=1)
    monkeypatch.setattr("mlimages.network.checkpoint_files.sha256", read)
    for step, score in ((1, 2.0), (2, 1.0), (3, 3.0)):
        saved.save(step, score)
    assert saved.steps() == [2, 3]


def test_a_damaged_best_checkpoint_is_reported_and_the_next_best_is_used(tmp_path: Path,
                                                                   capsys: pytest.CaptureFixture[str]) -> None:
    saved = Saved(tmp_path)
    for step, score in ((1, 2.0), (2, 1.0), (3, 3.0)):
        saved.save(step, score)
    spoil(tmp_path / "step-00000002" / "variables.index", "flipped")
    assert saved.checkpoints.restore_best() == 1
    assert "step-00000002 is damaged" in capsys.readouterr().out


def test_a_failing_disk_is_reported_and_the_checkpoint_before_is_kept(tmp_path: Path,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    saved = Saved(tmp_path)
    saved.save(1)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="No space left.*make room there"):
            saved.save(2)
    assert saved.checkpoints.restore().step == 1


@pytest.fixture(scope="module")
def calls(small_python: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The calls that two saves make."""
    folder = tmp_path_factory.mktemp("calls")
    subprocess.run([*STRACE, FILTER, "-e", "trace=rename,fsync", "-o", str(folder / "calls"),
                    *small_python(SAVES, str(folder / "all"))], capture_output=True, check=True)
    return (folder / "calls").read_text().splitlines()


@needs_strace
@pytest.mark.slow
@pytest.mark.parametrize("call", ["rename", "fsync"])
def test_a_kill_at_any_call_of_a_save_keeps_the_checkpoint_before(
        calls: list[str], small_python: Callable[..., list[str]], tmp_path: Path, call: str) -> None:
    saves = sum(f"{call}(" in line for line in calls) // 2
    assert saves >= 2
    for nth in (saves + 1, 2 * saves):
        folder = tmp_path / str(nth)
        killed = with_fault(f"{call}:signal=KILL:when={nth}", small_python(SAVES, str(folder)))
        assert killed.stdout.split() == ["1"], killed.stderr[-2000:]
        saved = Saved(folder)
        # The call happens, then the kill: after the last rename the second checkpoint is whole.
        assert saved.checkpoints.restore().step in (1, 2)
        assert saved.variable.numpy().tolist() == [float(saved.checkpoints.restore().step)]
        saved.save(2)
        assert saved.steps() == [1, 2]
