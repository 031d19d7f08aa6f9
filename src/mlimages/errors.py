"""The one exception for what a user can mend, and the command that mends damaged data."""


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
