"""The reports of a worker process to its supervisor or to the chief, and its exit codes."""

import dataclasses
import enum
import json

PREFIX = "\x1emlimages "


class ExitCode(enum.IntEnum):
    """The exit codes of a worker process that neither finishes nor is killed."""

    REFUSED = 2  # an error that the user must correct
    PEER_LOST = 3  # another worker was lost
    STOPPED = 4  # a signal stopped the training


@dataclasses.dataclass(frozen=True)
class WorkerReport:
    """One report of a worker. Fields that it does not report keep their defaults."""

    address: str | None = None  # host:port at which TensorFlow will listen
    slurm_step: str | None = None  # the id of the SLURM step in which it runs
    plan: str | None = None  # what it is going to train on, as text for the user
    entered: int | None = None  # the last step of the call that it begins
    saved: int | None = None  # the step of the checkpoint that was written
    validated: int | None = None  # validation images that were evaluated
    writing: bool = False  # it writes, or waits for the chief to write
    trained: bool = False  # all steps are done
    error: str | None = None  # an error that the user must correct; a restart would not help
    lost: str | None = None  # TensorFlow's error after another worker was lost
    stopped: str | None = None  # the message of a training that a signal stopped
    signal: str | None = None  # the name of that signal, if this worker received it

    def as_json(self) -> str:
        changed = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)
                   if getattr(self, field.name) != field.default}
        return json.dumps(changed)

    def as_line(self) -> str:
        """The line of output that carries the report. It starts on a line of its own."""
        return f"\n{PREFIX}{self.as_json()}"


def parse_json(text: str) -> WorkerReport | None:
    """The report in a JSON text; None for other text."""
    try:
        return WorkerReport(**json.loads(text))
    except (ValueError, TypeError):
        return None


def parse_line(line: str) -> WorkerReport | None:
    """The report in a line of output; None for other output, such as half a line of a worker that was killed."""
    return parse_json(line.removeprefix(PREFIX)) if line.startswith(PREFIX) else None
