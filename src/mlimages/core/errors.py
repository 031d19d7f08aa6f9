"""The one exception for what a user can mend, and what it says of damaged data and of files that cannot be read."""

import errno
import re
import resource
from pathlib import Path

DETAIL_CHARACTERS = 120
NOT_PRINTABLE = re.compile("[^ -~]+")  # the same in every version of Unicode
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # in the text of an object: another one in every run


def one_line(text: str) -> str:
    """What a decoder, a host or a file said, fit to be published: the same in every run, and short.

    One line of printable ASCII, at most DETAIL_CHARACTERS long, without addresses of objects.
    """
    line = " ".join(NOT_PRINTABLE.sub(" ", ADDRESS.sub("", text)).split())
    return line if len(line) <= DETAIL_CHARACTERS else f"{line[:DETAIL_CHARACTERS - 3]}..."


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
    if error.errno == errno.EMFILE:
        limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = "unlimited" if most == resource.RLIM_INFINITY else most
        return UserError(f"{path} cannot be read: {error.strerror}; this process may have {limit} open: raise that "
                         f"(`ulimit -n {highest}` is the most) and run the same command again")
    if error.errno == errno.ENFILE:
        return UserError(f"{path} cannot be read: {error.strerror}; all processes of this machine together have as "
                         f"many open as `sysctl fs.file-max` says: end some of them and run the same command again")
    return UserError(f"{path} cannot be read: {error.strerror}; see to its disk and its permissions, or put a sound "
                     f"copy there, and run the same command again")
