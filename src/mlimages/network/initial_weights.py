"""Finds the network that a training starts from, also after DVC removed it. Does not import TensorFlow.

DVC removes data/model before it runs the stage train. DVC's cache still has the files, and dvc.lock has their hashes.
So `dvc exp run -S train.initialize_from=data/model` starts from the network that was published last.
"""

import os
import shutil
from pathlib import Path

from mlimages.core import scratch
from mlimages.core.errors import UserError
from mlimages.core.params import Machine, Train
from mlimages.core.publish import atomic_write
from mlimages.network.checkpoint_files import MODEL


def find_initial_weights(params: Train, machine: Machine) -> Path | None:
    """The path in `train.initialize_from`, or that of a copy in scratch/ if only DVC has the file. None without it.

    A path that neither the disk nor DVC has is returned as it is. Raises UserError for a file that DVC tracks but
    cannot provide.
    """
    if params.initialize_from is None:
        return None
    start = Path(params.initialize_from)
    if start.exists() or start.with_name(f"{start.name}.index").exists():
        return start
    return _from_dvc(start if start.suffix == ".keras" else start / MODEL, machine) or start


def _from_dvc(network: Path, machine: Machine) -> Path | None:
    """A copy of a file from DVC's cache or remote at this revision. None if DVC does not track it."""
    from dvc.api import DVCFileSystem  # here, since the import takes a second
    from dvc.exceptions import DvcException
    from dvc_data.index import DataIndexDirError

    try:
        dvc = DVCFileSystem()
        inside = Path(os.path.relpath(network, dvc.repo.root_dir)).as_posix()
        digest = dvc.info(inside)["dvc_info"]["md5"]
    except DataIndexDirError as error:
        raise _unavailable(network, error) from None
    except (DvcException, FileNotFoundError, KeyError):
        return None
    copy = scratch.root(machine) / "train" / "start" / digest / network.name
    if not copy.exists():
        with atomic_write(copy) as file:
            try:
                with dvc.open(inside, "rb") as source:
                    shutil.copyfileobj(source, file)
            except (DvcException, FileNotFoundError) as error:
                raise _unavailable(network, error) from None
    return copy


def _unavailable(network: Path, error: Exception) -> UserError:
    return UserError(f"{network} was removed by DVC before this stage, and neither its cache nor its remote has it "
                     f"({error}); run `dvc fetch {network.parent}`, or set train.initialize_from to "
                     f"another copy")
