"""Workers on the machines of TF_CONFIG, on each of which somebody started this program with a TF_CONFIG of its own.

The chief's process supervises all workers: those of the other machines start, signal and end theirs as it asks, tell
it what they say, and end as it does. Both sides speak at least every PING_SECONDS; who is silent for long is lost.
"""

import contextlib
import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlimages.core.errors import UserError
from mlimages.core.params import Machine, Train
from mlimages.core.signals import Interrupts
from mlimages.launch.gathering import Caller, Line, call, chief_absence, gather
from mlimages.launch.launchers import COMMAND, END_SECONDS, Child, Heard, Process, own_environment, stopped_early
from mlimages.launch.tf_config import hold, host_port, read_environment
from mlimages.launch.worker import MARK, task_of

PURPOSE = "serve"
# Silence tells of a loss sooner than the supervisor begins again.
PING_SECONDS, SILENT_SECONDS = 1.0, 10.0
MOST_CHARACTERS = 100_000  # of a line that is passed on


class Peer:
    """To the chief, the worker of another machine, of which a process there has called."""

    def __init__(self, line: Line, interrupts: Interrupts) -> None:
        self._line, self._interrupts = line, interrupts
        self._started: tuple[int, Heard] = (0, lambda kind, what: None)  # how often, and who hears of the last time
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def lost(self) -> bool:
        return self._line.lost

    def start(self, heard: Heard) -> None:
        self._started = (self._started[0] + 1, heard)
        self._line.send(start=self._started[0])
        if self.lost:
            self._tell_loss()

    def send(self, line: str) -> None:
        """Nothing: what to do it knows from the parameters of its own machine, which the workers compare."""

    def signal(self, number: int) -> None:
        self._line.send(signal=number)

    def _listen(self) -> None:
        while (said := self._line.receive(SILENT_SECONDS)) is not None:
            number, heard = self._started
            if "interrupted" in said:
                self._interrupts.hear(said["interrupted"])
            elif said.get("start") == number:
                heard(said["kind"], said["what"])
        self._line.lost = True
        self._tell_loss()

    def _tell_loss(self) -> None:
        _, heard = self._started
        heard("err", "the process that started it on its machine, or that machine, was lost")
        heard("exit", -signal.SIGKILL)


class OnTfConfig:
    """To the chief's supervisor, the workers of all machines."""

    def __init__(self, machine: Machine, interrupts: Interrupts) -> None:
        self._cluster = read_environment()
        self._machine, self._interrupts = machine, interrupts
        self.indices = list(range(len(self._cluster.addresses)))
        self._callers: list[Caller] = []
        self._peers: dict[int, Peer] = {}
        self._left = threading.Event()
        threading.Thread(target=self._ping, daemon=True).start()

    def host(self, index: int) -> None:
        return None

    def start(self, index: int, heard: Heard) -> Process:
        if index == 0:  # the first: once TensorFlow has the chief's port, nobody can call any more
            self._gather()
            return Child(COMMAND, own_environment(), heard)
        self._peers[index].start(heard)
        return self._peers[index]

    def leave(self, error: str) -> None:
        """Tell all others that it is done, or what ends it."""
        self._left.set()
        for caller in self._callers:
            caller.line.send(end=error)

    def _gather(self) -> None:
        """Wait for the processes of other machines that have not called, or were lost since."""
        if len(self._peers) == len(self.indices) - 1 and not any(peer.lost for peer in self._peers.values()):
            return
        with contextlib.closing(hold(host_port(self._cluster.addresses[0])[1], "worker 0")) as held:
            refused = gather(self._cluster, held, PURPOSE, self.indices[1:], self._machine.start_timeout, self._callers,
                             welcome=self._welcome, stopped=lambda: self._interrupts.received)
        if self._interrupts.received:
            raise stopped_early(self._interrupts)
        if refused:
            raise UserError(refused)

    def _welcome(self, caller: Caller) -> None:
        self._peers[caller.worker] = Peer(caller.line, self._interrupts)

    def _ping(self) -> None:
        while not self._left.wait(PING_SECONDS):
            for caller in list(self._callers):
                caller.line.send(ping=True)


@contextlib.contextmanager
def on_tf_config(machine: Machine, interrupts: Interrupts) -> Iterator[OnTfConfig]:
    """The launcher of the chief; the processes of the other machines end with the block, as it does."""
    launcher, error = OnTfConfig(machine, interrupts), "the chief's process ended by an error; its output tells which"
    try:
        yield launcher
        error = ""
    except UserError as refused:
        error = str(refused)
        raise
    finally:
        launcher.leave(error)


class Served:
    """On another machine than the chief's, its worker, started as often as the chief asks."""

    def __init__(self, line: Line, task: dict[str, Any]) -> None:
        self._line, self._task = line, task
        self._child: Child | None = None
        self.end = "the chief's process, or its machine, was lost; run the same command on all machines to continue"

    def listen(self) -> None:
        """Do what the chief asks, until it ends or is lost."""
        while (said := self._line.receive(SILENT_SECONDS)) is not None and "end" not in said:
            if "start" in said:
                self._start(said["start"])
            elif "signal" in said and self._child:
                self._child.signal(said["signal"])
        self.kill()
        if said is not None:
            self.end = said["end"]

    def kill(self) -> None:
        """End the worker, if there is one."""
        if self._child:
            self._child.signal(signal.SIGKILL)
            self._child.ends(END_SECONDS)

    def _start(self, number: int) -> None:
        self.kill()  # it has the port

        def pass_on(kind: str, what: Any) -> None:
            self._line.send(start=number, kind=kind, what=what[:MOST_CHARACTERS] if isinstance(what, str) else what)
            if kind == "out" and what.strip() and not what.startswith(MARK):
                print(what, flush=True)

        print(f"worker {self._task['index']} starts, as the chief's process asked", flush=True)
        try:
            self._child = Child(COMMAND, own_environment(), pass_on)
        except OSError as error:
            pass_on("err", f"it does not start: {error}")
            pass_on("exit", 1)
            return
        self._child.send(json.dumps(self._task))


def serve(params: Train, machine: Machine, *, tfrecords: Path, work: Path) -> None:
    """On another machine than the chief's, have a worker there as the chief asks, until the training has ended.

    UserError for what ends it on all machines, and where the chief does not take the call or is lost. SIGTERM and
    SIGINT stop the training on all of them, which saves first. No process is left.
    """
    cluster = read_environment()
    with Interrupts() as interrupts:
        line = call(cluster, PURPOSE, machine.start_timeout, lambda: interrupts.received)
        if line is None and interrupts.received:
            raise stopped_early(interrupts)
        if line is None:
            raise UserError(chief_absence(cluster, machine.start_timeout))
        served = Served(line, {**task_of(params, machine, tfrecords=tfrecords, work=work), "index": cluster.own,
                               "host": None})
        listening = threading.Thread(target=served.listen, daemon=True)
        listening.start()
        told = False
        try:
            while listening.is_alive():
                line.send(ping=True)
                if interrupts.received and not told:
                    line.send(interrupted=interrupts.received)
                    told = True
                listening.join(PING_SECONDS)
        finally:
            line.close()
            served.kill()
        if served.end:
            raise UserError(served.end)
