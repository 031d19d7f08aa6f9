"""The processes that TF_CONFIG tells of each other: the chief's supervises all workers, all of them end alike.

They are real processes, and so are their workers, which say what workers say and do what befalls workers.
"""

import dataclasses
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.training.outcomes import free_addresses
from tests.training.running import ACTOR

from mlimages.core.params import Machine, Train
from mlimages.launch.tf_config import Cluster
from mlimages.launch.worker import LEFT_ALONE, STOPPED

# One of the processes; its workers play ACTOR. It begins when it takes signals.
PROGRAM = """
import json, sys
from pathlib import Path
from mlimages.core.errors import UserError
from mlimages.core.signals import Interrupts
from mlimages.core.params import Machine, Train
from mlimages.launch import on_tf_config, supervisor
from mlimages.launch.tf_config import read_environment

params, machine, work, actor, parts = json.loads(sys.argv[1])
on_tf_config.COMMAND = [sys.executable, "-u", "-c", actor, *parts]
on_tf_config.SILENT_SECONDS = 5.0
supervisor.GRACE_SECONDS = 4.0
enter, welcome = Interrupts.__enter__, on_tf_config.OnTfConfig._welcome

def begin(interrupts):
    enter(interrupts)
    print("begins", flush=True)
    return interrupts

def take(launcher, caller):
    welcome(launcher, caller)
    print(f"takes worker {caller.worker}", flush=True)

Interrupts.__enter__, on_tf_config.OnTfConfig._welcome = begin, take
run = on_tf_config.serve if read_environment().own else supervisor.supervise
try:
    run(Train(**params), Machine(**machine), tfrecords=Path(work), work=Path(work))
    print("ended well")
except UserError as error:
    print(f"UserError: {error}")
"""
PATIENCE_SECONDS = 240.0
ALONE = f"sys.exit({LEFT_ALONE})"
WAITS = "time.sleep(600)"


class Host:
    """A process that TF_CONFIG tells of, and what it says."""

    def __init__(self, command: list[str], cluster: Cluster, out: Path) -> None:
        self._out = out
        with out.open("w") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT,
                                            env={**os.environ, "TF_CONFIG": cluster.as_json(),
                                                 "TMP_PATH": str(out.parent)})

    def said(self, *, until: str = "") -> str:
        """All that it said when it had said something, or had ended."""
        ends = time.monotonic() + PATIENCE_SECONDS
        while not (until and re.search(until, self._out.read_text())) and self.process.poll() is None:
            assert time.monotonic() < ends, self._out.read_text()
            time.sleep(0.05)
        return self._out.read_text()

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture
def start(small_train: Train, small_machine: Callable[..., Machine], small_python: Callable[..., list[str]],
          tmp_path: Path) -> Iterator[Callable[..., Host]]:
    """Start process `index`, whose workers play these parts."""
    hosts: list[Host] = []
    addresses = free_addresses(3)

    def build(index: int, *parts: str, **changes: Any) -> Host:
        machine = dataclasses.replace(small_machine(tmp_path), **{
            "launcher": "environment", "max_restarts": 0, "start_timeout": 60.0, **changes})
        arguments = json.dumps([dataclasses.asdict(small_train), dataclasses.asdict(machine), str(tmp_path), ACTOR,
                                parts])
        hosts.append(Host(small_python(PROGRAM, arguments), Cluster(addresses[:len(parts)], index),
                          tmp_path / f"said-{len(hosts)}"))
        return hosts[-1]

    yield build
    for host in hosts:
        host.process.kill()
        host.process.wait()


def both(start: Callable[..., Host], chief: str, other: str, **changes: Any) -> tuple[str, str]:
    """What the two say whose workers play these parts, once the chief's process knows that both are in step 2."""
    parts = [f"come(); step(1, 2); meet(); {part}" for part in (chief, other)]
    hosts = [start(index, *parts, **changes) for index in range(2)]
    return hosts[0].said(), hosts[1].said()


def test_the_chief_has_all_logs_and_each_process_shows_what_its_own_worker_says(start: Callable[..., Host],
                                                                               tmp_path: Path) -> None:
    quiet = "time.sleep(6); tell(trained=True)"  # longer than a lost process is waited for
    chief, other = both(start, quiet, quiet)
    assert sorted(re.findall("^plan of .*$", chief, re.M)) == ["plan of 0", "plan of 1"]
    assert "worker 0 acts" in chief and "worker 1 acts" not in chief
    assert "worker 1 acts" in other and "worker 0 acts" not in other
    assert chief.endswith("\nended well\n") and other.endswith("\nended well\n")
    for index in range(2):
        assert f"[worker {index}] worker {index} acts\n" in (tmp_path / f"workers/worker-{index}.log").read_text()


@pytest.mark.parametrize(("chief", "other", "expected"), [
    (ALONE, "os.kill(os.getpid(), 9)", r"worker 1 \(here:2\) was killed by SIGKILL in step 2"),
    (ALONE, "os.kill(os.getpid(), signal.SIGSTOP)", r"worker 1 \(here:2\) was stopped or hung in step 2, while the"),
    ("os.kill(os.getpid(), 9)", ALONE, r"worker 0, the chief \(here:1\) was killed by SIGKILL in step 2"),
    ("os.kill(os.getpid(), signal.SIGSTOP)", ALONE, r"worker 0, the chief \(here:1\) was stopped or hung in step 2"),
    (f"tell(stopped='A signal to another worker stopped it'); sys.exit({STOPPED})",
     f"tell(stopped='SIGTERM stopped the training after step 2; more'); sys.exit({STOPPED})",
     r"worker 1 \(here:2\) was told to end: SIGTERM stopped the training after step 2"),
])
def test_who_is_to_blame_is_named_to_all_and_all_begin_again(start: Callable[..., Host], tmp_path: Path, chief: str,
                                                             other: str, expected: str) -> None:
    assert_named(expected, both(start, chief, other, max_restarts=1), tmp_path)


def test_who_hangs_is_named_to_all_and_all_begin_again(start: Callable[..., Host], tmp_path: Path) -> None:
    # The chief enters step 2, from when on steps are timed, after the other's step 3 is known.
    parts = f"come(); step(1); meet(); step(2); {WAITS}", f"come(); step(1, 2, 3); meet(); {WAITS}"
    hosts = [start(index, *parts, max_restarts=1, step_timeout=1.0) for index in range(2)]
    assert_named(r"worker 0, the chief \(here:1\) hung in step 2 for 1 s", [host.said() for host in hosts], tmp_path)


def assert_named(expected: str, said: Sequence[str], tmp_path: Path) -> None:
    """Both processes name it, all workers began twice, and none of them is left."""
    for each in said:
        assert re.search(f"^UserError: {expected}.*After 1 restarts this is the end", each, re.M), each
    assert re.search(f"^{expected}.*All workers begin again, restart 1 of 1$", said[0], re.M), said[0]
    assert (tmp_path / "workers/worker-1.log").read_text().count("acts") == 2
    assert not [process for process in psutil.process_iter(["cmdline", "environ"])
                if ACTOR in (process.info["cmdline"] or [])
                and (process.info["environ"] or {}).get("TMP_PATH") == str(tmp_path)]


def test_what_a_worker_refuses_is_told_to_all(start: Callable[..., Host]) -> None:
    for said in both(start, WAITS, "tell(error='no such thing'); sys.exit(2)", max_restarts=2):
        assert said.endswith("UserError: no such thing\n"), said


@pytest.mark.parametrize("signalled", [0, 1])
def test_sigterm_to_one_process_reaches_all_workers_and_ends_all(start: Callable[..., Host], tmp_path: Path,
                                                                 signalled: int) -> None:
    saves = (f"signal.signal(signal.SIGTERM, lambda *_: (tell(stopped='SIGTERM: saved'), os._exit({STOPPED}))); "
             f"come(); step(1); meet(); print('all in step 1', flush=True); {WAITS}")
    hosts = [start(index, saves, saves, max_restarts=2) for index in range(2)]
    for host in hosts:
        host.said(until="all in step 1")
    hosts[signalled].process.send_signal(signal.SIGTERM)
    assert [host.said().splitlines()[-1] for host in hosts] == ["UserError: SIGTERM: saved"] * 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_where_the_chiefs_process_is_lost_the_others_end_with_their_workers(start: Callable[..., Host],
                                                                           number: signal.Signals) -> None:
    parts = [f"come(); step(1); print('in step 1', flush=True); {WAITS}"] * 2
    hosts = [start(index, *parts) for index in range(2)]
    hosts[1].said(until="in step 1")
    workers = hosts[1].workers()
    hosts[0].process.send_signal(number)
    assert "UserError: the chief's process, or its machine, was lost; run the same" in hosts[1].said()
    assert workers and not any(worker.is_running() for worker in workers)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_was_lost_may_be_started_again_and_all_begin_again(
        start: Callable[..., Host], tmp_path: Path, number: signal.Signals) -> None:
    log = "(work / 'workers/worker-1.log').read_text()"
    notices = (f"[time.sleep(0.1) for _ in range(600) if 'was lost' not in {log}]; "
               f"not (work / 'again').exists() and os._exit({LEFT_ALONE})")
    parts = [f"come(); step(1); print('in step 1', flush=True); {ends}; tell(trained=True)"
             for ends in (notices, f"(work / 'again').exists() or {WAITS}")]
    hosts = [start(index, *parts, max_restarts=1) for index in range(2)]
    for host in hosts:
        host.said(until="in step 1")
    hosts[1].process.send_signal(number)
    said = hosts[0].said(until="begin again")
    assert re.search(r"^worker 1 \(here:2\) was killed by SIGKILL in step 1; .*restart 1 of 1$", said, re.M), said
    assert "[worker 1] the process that started it on its machine, or that machine, was lost" in said
    (tmp_path / "again").touch()
    again = start(1, *parts)
    assert again.said().endswith("ended well\n") and hosts[0].said().endswith("ended well\n")


def test_processes_that_do_not_come_are_named_to_all_others(start: Callable[..., Host]) -> None:
    hosts = [start(index, *["come()"] * 3, start_timeout=12.0) for index in (0, 2)]
    for host in hosts:
        assert "UserError: worker 1 (127.0.0.1:" in host.said() and "did not come, or was not reached" in host.said()
    alone = start(1, "", "", start_timeout=2.0)
    assert "\nUserError: worker 0, the chief (127.0.0.1:" in alone.said(), alone.said()


def test_two_processes_of_one_index_are_named(start: Callable[..., Host]) -> None:
    hosts = [start(index, *["come()"] * 3) for index in (0, 1, 1)]
    for host in hosts:
        assert "UserError: two processes say that they are worker 1: process " in host.said()


@pytest.mark.parametrize("index", [0, 1])
def test_sigterm_ends_a_process_that_waits_for_the_others(start: Callable[..., Host], index: int) -> None:
    host = start(index, "come()", "come()", start_timeout=600.0)
    host.said(until="begins")
    time.sleep(1)
    host.process.send_signal(signal.SIGTERM)
    assert host.said() == "begins\nUserError: SIGTERM stopped the training before its first step\n"


def test_while_others_are_waited_for_a_signal_to_one_ends_all_and_one_that_died_may_come_again(
        start: Callable[..., Host]) -> None:
    parts = ["come(); step(1); tell(trained=True)"] * 3
    chief, first = (start(index, *parts, start_timeout=PATIENCE_SECONDS) for index in range(2))
    chief.said(until="takes worker 1")
    first.process.kill()
    again = start(1, *parts, start_timeout=PATIENCE_SECONDS)
    chief.said(until="(?s)takes worker 1.*takes worker 1")
    assert chief.process.poll() is None, chief.said()
    again.process.send_signal(signal.SIGTERM)
    for host in (chief, again):
        assert host.said().endswith("UserError: SIGTERM stopped the training before its first step\n"), host.said()


def test_the_time_that_others_took_to_come_is_not_the_workers_own(start: Callable[..., Host]) -> None:
    late = "time.sleep(8); come(); step(1); tell(trained=True)"
    chief = start(0, late, late, start_timeout=15.0)
    chief.said(until="begins")
    time.sleep(8)
    other = start(1, late, late, start_timeout=15.0)
    assert chief.said().endswith("ended well\n") and other.said().endswith("ended well\n")
