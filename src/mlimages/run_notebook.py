"""Execute a stage's notebook with its section of params.yaml, by papermill.

    python -m mlimages.run_notebook train data/reports/4_train.ipynb

SIGTERM and Ctrl-C interrupt the running cell, as JupyterLab's button does. The cell can then save its work.
"""

import ast
import base64
import contextlib
import logging
import math
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, cast

from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from traitlets import Type

from mlimages.commands.repository import check_data
from mlimages.core.errors import UserError, command, explain_disk_errors
from mlimages.core.params import STAGES, load
from mlimages.notebook import with_parameters
from mlimages.quick_import import quick_jsonschema

with quick_jsonschema():
    import nbformat
    import papermill

EXPERIMENT = "DVC_EXP_NAME"  # the environment variable that DVC sets for the commands of an experiment
TEMPORARY_FOLDER = "/.dvc/tmp/"  # where DVC runs experiments of --temp and --queue
KILL_AT = 3  # signals
POLL_SECONDS = 0.05
BEGUN_SECONDS = 0.5  # from the start of a cell; then its own code runs, no longer the kernel's


class Cells(AsyncKernelClient):
    """A client that does not start another cell after a signal."""

    def execute(self, *arguments: Any, **options: Any) -> str:
        cast(Kernel, self.parent).begin_cell()
        return super().execute(*arguments, **options)


class ThisInterpreter(KernelSpecManager):
    """Finds the kernel of this Python, whatever other kernels are installed under its name."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """The kernel writes the output of C libraries to its own standard error, line by line, and not to cells."""
        return KernelSpec(**get_kernel_dict(extra_arguments=["--IPKernelApp.capture_fd_output=False"]))


class Kernel(AsyncKernelManager):
    """The notebook's kernel. SIGTERM and SIGINT interrupt its cell, unless this process ignores them.

    The third signal kills the kernel, since some code does not react to an interrupt.
    """

    client_factory = Type(Cells, klass=AsyncKernelClient)

    def __init__(self, **options: Any) -> None:
        super().__init__(kernel_spec_manager=ThisInterpreter(), transport_encryption="auto", **options)
        self._signals: list[str] = []
        self._began = math.inf  # the cell that runs
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._interrupt)

    async def _async_interrupt_kernel(self) -> None:
        """Do nothing: before a shutdown no cell runs, and an idle kernel would print the interrupt."""

    def begin_cell(self) -> None:
        """Raise UserError if a signal came between two cells."""
        if self._signals:
            raise UserError(f"{self._signals[0]} stopped the notebook between two cells; run the same command to "
                            f"continue")
        self._began = time.monotonic()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(signal.Signals(number).name)
        print(f"{self._signals[-1]}: interrupting the notebook", file=sys.stderr, flush=True)
        if self.has_kernel:
            threading.Thread(target=self._pass_on, args=[self.provisioner.pid],  # type: ignore[union-attr]
                             daemon=True).start()

    def _pass_on(self, pid: int) -> None:
        """Interrupt the kernel once a cell's own code runs. Before that, the kernel ignores or loses SIGINT.

        If the cell ends first, `begin_cell` stops the notebook.
        """
        since = self._began
        with contextlib.suppress(OSError):  # it has ended
            while len(self._signals) < KILL_AT:
                if _ignores(pid, signal.SIGINT):
                    since = time.monotonic()
                elif time.monotonic() - since >= BEGUN_SECONDS:
                    break
                time.sleep(POLL_SECONDS)
            os.kill(pid, signal.SIGINT if len(self._signals) < KILL_AT else signal.SIGKILL)


def _ignores(pid: int, number: int) -> bool:
    """Whether a process ignores a signal. Raises OSError if the process has ended."""
    [mask] = re.findall(r"^SigIgn:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(mask, 16) >> (number - 1) & 1)


def execute(stage: str, out: str | Path) -> None:
    """Execute a stage's notebook into `out`, and print its cells' output. Its pictures go into a folder beside `out`.

    Its parameters cell holds the stage's section of params.yaml. Only the last line of a progress bar is kept.
    Raises UserError before any cell runs for a wrong params.yaml or a folder `data` that DVC cannot track, and later if
    `out` cannot be written. Raises papermill.PapermillExecutionError for an error in a cell, and RuntimeError if the
    kernel died.
    """
    check_data(Path.cwd())
    load()
    [notebook] = Path("notebooks").glob(f"[0-9]_{stage}.ipynb")
    with explain_disk_errors(Path(out)):
        nbformat.write(with_parameters(notebook, stage), out)
        papermill.execute_notebook(out, out, kernel_name="python3", progress_bar=False, stdout_file=sys.stdout,
                                   stderr_file=sys.stderr, kernel_manager_class=Kernel, coalesce_streams=True)
        _make_paths_relative(Path(out))
        save_pictures(Path(out))


def _make_paths_relative(path: Path) -> None:
    """Remove the repository's folder from the paths that an executed notebook's cells printed."""
    notebook = nbformat.read(path, as_version=4)
    for output in (output for cell in notebook.cells for output in cell.get("outputs", ())):
        if output.output_type == "stream":
            output.text = output.text.replace(f"{Path.cwd()}/", "")
    nbformat.write(notebook, path)


def save_pictures(path: Path) -> None:
    """Write the PNG pictures of an executed notebook to the folder of its name, named by the functions that drew them.
    """
    folder = path.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for cell in nbformat.read(path, as_version=4).cells:
        pictures = [output.data["image/png"] for output in cell.get("outputs", ())
                    if "image/png" in output.get("data", {})]
        for number, picture in enumerate(pictures, start=1):
            name = _drawing_function(cell.source) or cell.id
            (folder / f"{name}{f'_{number}' if number > 1 else ''}.png").write_bytes(base64.b64decode(picture))


def _drawing_function(source: str) -> str | None:
    """The name of the function that the last statement of a cell calls, or that its `with` enters."""
    statement: Any = ast.parse(source).body[-1]
    call = statement.items[0].context_expr if isinstance(statement, ast.With) else getattr(statement, "value", None)
    return ast.unparse(call.func).rpartition(".")[2] if isinstance(call, ast.Call) else None


def main(arguments: list[str]) -> int:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if len(arguments) != 2 or arguments[0] not in STAGES:
        print(f"usage: python -m mlimages.run_notebook {'|'.join(STAGES)} OUTPUT.ipynb", file=sys.stderr)
        return 2
    code = _execute(*arguments)
    if code:
        print(experiment_hint(Path.cwd(), os.environ), end="", file=sys.stderr)
    return code


@command
def _execute(stage: str, out: str) -> int:
    """Call `execute`. Returns the exit code, and prints the error."""
    try:
        execute(stage, out)
    except papermill.PapermillExecutionError as error:
        print(f"ERROR: {error}", file=sys.stderr)
    except RuntimeError as error:  # of nbclient and jupyter_client, for a kernel that ended
        print(f"ERROR: the notebook's kernel died ({error}); if nobody killed it, the system's log (`dmesg`) shows "
              f"whether memory was short", file=sys.stderr)
    except KeyboardInterrupt:
        print("ERROR: interrupted while no notebook ran", file=sys.stderr)
    else:
        return 0
    return 1


def experiment_hint(folder: Path, environment: Mapping[str, str]) -> str:
    """What a failed `dvc exp run` has changed in `folder`, and how to undo it; empty for any other run.

    An experiment with `--temp` or `--queue` runs in a folder of DVC and changes nothing here.
    """
    if EXPERIMENT not in environment or TEMPORARY_FOLDER in folder.as_posix():
        return ""
    return ("NOTE: the failed experiment leaves params.yaml changed, and removed the results of this stage. Mend the "
            "cause and run `dvc exp run` again, or go back with `git restore params.yaml dvc.lock && dvc checkout "
            "--force`\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
