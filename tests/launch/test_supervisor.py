"""The supervisor names the worker that failed, restarts all up to max_restarts times, and never waits forever.

The workers are real processes that send the reports of workers, and end as workers end.
"""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.training.running import ACTOR

from mlimages.core.errors import UserError
from mlimages.core.params import Machine, Train
from mlimages.core.signals import TrainingStopped
from mlimages.launch import base, supervisor
from mlimages.launch.messages import ExitCode
from mlimages.launch.supervisor import supervise
from mlimages.training.jobs import TrainingJob

Play = Callable[..., None]
LOST, STOPPED = int(ExitCode.PEER_LOST), int(ExitCode.STOPPED)


@pytest.fixture
def play(small_train: Train, small_machine: Callable[..., Machine], tmp_path: Path,
         monkeypatch: pytest.MonkeyPatch) -> Play:
    """Supervise two workers that run these programs."""
    monkeypatch.setattr(supervisor, "GRACE_SECONDS", 4.0)

    def run(chief: str, other: str, **changes: Any) -> None:
        monkeypatch.setattr(base, "WORKER_COMMAND", [sys.executable, "-u", "-c", ACTOR, chief, other])
        machine = dataclasses.replace(small_machine(tmp_path), **{"max_restarts": 0, "start_timeout": 60.0, **changes})
        supervise([TrainingJob(small_train, tmp_path, tmp_path)], machine)

    return run


def test_workers_that_end_well_have_shown_their_plans_and_have_logs_of_their_own(
        play: Play, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    play("join(); step(1, 2); report(trained=True)", "join(); step(1, 2); report(trained=True)")
    said = capfd.readouterr().out
    assert "plan of 0" in said and "plan of 1" in said
    assert "worker 0 starts" in said and "worker 1 starts" not in said, "only the chief's output is shown"
    assert [(tmp_path / f"workers/worker-{index}.log").read_text() for index in range(2)] == \
           ["[worker 0] worker 0 starts\n", "[worker 1] worker 1 starts\n"]


@pytest.mark.parametrize("line", ['{"entered": 2', "", "7", '{"plan": "half'])
def test_half_a_line_of_a_worker_is_no_message_and_goes_to_its_log(play: Play, tmp_path: Path, line: str) -> None:
    half = f"from mlimages.launch.messages import PREFIX; print(PREFIX + {line!r}, flush=True)"
    play("join(); step(1, 2); report(trained=True)", f"join(); step(1); {half}; step(2); report(trained=True)")
    assert line in (tmp_path / "workers" / "worker-1.log").read_text()


def test_a_worker_that_does_not_come_up_is_named_and_nothing_is_tried_again(
        play: Play, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"^worker 1 \(not up yet\) did not connect within machine.start_timeout, 8 s"):
        play("join()", "sleep()", start_timeout=8.0, max_restarts=1)
    assert "worker-1.log\n[worker 1] worker 1 starts" in capfd.readouterr().out


def test_workers_that_never_end_a_first_step_are_lost(play: Play) -> None:
    with pytest.raises(UserError, match=r"worker 1 \(here:2\) did not end a first step within .* 8 s; there is no ch"):
        play("join(); step(1, 2); sleep()", "join(); step(1); sleep()", start_timeout=8.0)


def test_of_workers_that_all_wait_the_one_that_is_behind_hung(play: Play) -> None:
    with pytest.raises(UserError, match=r"^worker 1 \(here:2\) hung in step 2 for \d+ s; there is no checkpoint yet"):
        play("join(); step(1, 2, 3); barrier(); sleep()", "join(); step(1); barrier(); step(2); sleep()",
             step_timeout=1.0)


def test_a_step_that_takes_less_than_three_times_the_slowest_one_does_not_hang(play: Play) -> None:
    steps = "join(); step(1); time.sleep(2); step(2); time.sleep(2); step(3); time.sleep(4); report(trained=True)"
    play(steps, steps, step_timeout=0.1)


def test_a_chief_that_writes_for_long_does_not_hang(play: Play) -> None:
    play("join(); step(1, 2); report(writing=True); barrier(); time.sleep(3); report(saved=2); report(trained=True)",
         "join(); step(1); barrier(); step(2); report(writing=True); time.sleep(3); report(trained=True)",
         step_timeout=1.0)


@pytest.mark.parametrize(("chief", "other", "expected"), [
    (f"sys.exit({LOST})", "os.kill(os.getpid(), 9)", r"worker 1 \(here:2\) was killed by SIGKILL in step 2"),
    ("os.abort()", "sys.exit(7)", r"worker 1 \(here:2\) ended with exit code 7 in step 2"),
    ("sleep()", f"sys.exit({LOST})", r"worker 0, the chief \(here:1\) was stopped or hung in step 2, while the"),
    (f"report(lost='no peer'); sys.exit({LOST})", f"time.sleep(0.5); sys.exit({LOST})",
     r"worker 0, the chief \(here:1\) lost the others in step 2: no peer"),
])
def test_the_one_to_blame_is_named_and_not_whom_it_took_along(play: Play, capfd: pytest.CaptureFixture[str], chief: str,
                                                              other: str, expected: str) -> None:
    with pytest.raises(UserError, match=f"^{expected}.*Workers were lost 1 times"):
        play(f"join(); step(1, 2); barrier(); {chief}", f"join(); step(1, 2); barrier(); {other}")
    said = capfd.readouterr().out
    assert "the end of" in said and "[worker 1] worker 1 starts" in said


def test_after_max_restarts_the_training_ends(play: Play, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="exit code 7 .* Workers were lost 3 times"):
        play("join(); step(1); barrier(); sys.exit(7)",
             f"join(); step(1); barrier(); sys.exit({LOST})", max_restarts=2)
    assert (tmp_path / "workers/worker-0.log").read_text().count("starts") == 3
    assert "restart 2 of 2" in capfd.readouterr().out


def test_what_a_worker_refuses_ends_the_training_and_is_not_tried_again(
        play: Play, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="^no such thing$"):
        play("join(); barrier(); sleep()", "join(); barrier(); report(error='no such thing'); sys.exit(2)",
             max_restarts=2)
    assert (tmp_path / "workers/worker-0.log").read_text().count("starts") == 1
    assert "worker-1.log\n[worker 1] worker 1 starts" in capfd.readouterr().out


def test_one_worker_that_a_signal_ended_is_lost_and_a_signal_to_all_ends_the_training(play: Play) -> None:
    def stopped(name: str | None) -> str:
        return (f"join(); step(1); barrier(); report(stopped='{name} stopped it', signal={name!r}); "
                f"sys.exit({STOPPED})")

    with pytest.raises(UserError, match="^worker 1 .* was ended by SIGTERM in step 1; "):
        play(stopped(None), stopped("SIGTERM"))
    with pytest.raises(TrainingStopped, match="^SIGTERM stopped it$") as raised:
        play(stopped("SIGTERM"), stopped("SIGTERM"), max_restarts=2)
    assert raised.value.signal == "SIGTERM"


def test_a_worker_that_is_lost_after_all_was_written_is_not_missed(play: Play) -> None:
    writes = "(work / 'out').mkdir(); (work / 'out/metrics.json').touch()"
    play(f"join(); step(1); report(trained=True); barrier(); {writes}",
         "join(); step(1); report(trained=True); barrier(); os.kill(os.getpid(), 9)", max_restarts=1)


def test_a_chief_may_write_though_the_others_end_once_all_have_trained(play: Play) -> None:
    writes = "time.sleep(6); (work / 'out').mkdir(); (work / 'out/metrics.json').touch()"
    trained = "join(); step(1); report(trained=True); barrier();"
    play(f"{trained} {writes}", f"{trained} sys.exit(7)")


def test_sigterm_reaches_all_workers_which_save_and_is_not_tried_again(
        play: Play, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    saves = ("signal.signal(signal.SIGTERM, lambda *_: (report(stopped='SIGTERM: saved', signal='SIGTERM'), "
             f"os._exit({STOPPED}))); join(); step(1); barrier();")
    with pytest.raises(UserError, match="^SIGTERM: saved$"):
        play(f"{saves} os.kill(os.getppid(), signal.SIGTERM); sleep()", f"{saves} sleep()", max_restarts=1)
    assert (tmp_path / "workers/worker-1.log").read_text().count("starts") == 1
    assert "the end of" not in capfd.readouterr().out


def test_a_signal_before_the_first_step_ends_the_training_at_once(play: Play, capfd: pytest.CaptureFixture[str],
                                                                  ) -> None:
    with pytest.raises(UserError, match="^SIGTERM stopped the training before its first step"):
        play("join(); barrier(); os.kill(os.getppid(), signal.SIGTERM); sleep()", "join(); barrier(); sleep()")
    assert "the end of" not in capfd.readouterr().out


def test_workers_that_hang_at_the_start_of_the_next_training_are_named_before_its_first_step(play: Play) -> None:
    program = "join(); step(1, 2); report(trained=True); report(plan='of the next training'); sleep()"
    with pytest.raises(UserError, match=r"worker 0, the chief \(here:1\), worker 1 \(here:2\) did not end a first step "
                                        r"within machine.start_timeout, 6 s"):
        play(program, program, start_timeout=6.0)
