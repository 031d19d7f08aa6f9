"""The one exception for what a user can mend, and what it says of damaged data and of files that cannot be read."""

from pathlib import Path


def redo(verb: str) -> str:
    """The command that makes a stage's data anew, without what it would resume from."""
    return f"remove scratch/{verb} and run `dvc repro --force {verb}`"


class UserError(Exception):
    """A mistake or a damage outside the code.

    The message says what was found, what was expected, where, and what to run. In a
    notebook it is shown as its message alone, without a traceback.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


def unreadable(path: Path, error: OSError) -> UserError:
    """What to raise for a file that the system does not open, or of which its disk does not give all."""
    return UserError(f"{path} cannot be read: {error.strerror}; see to its disk, its permissions and the limit of open "
                     f"files (`ulimit -n`), or put a sound copy there, and run the same command again")
