"""Where a training finds the network that it starts from, also after DVC has taken it away.

DVC removes data/model before it runs the stage that makes it. What lay there is in DVC's cache, and dvc.lock says under
which name: so `dvc exp run -S train.initialize_from=data/model` continues from the network that was published last.
Nothing here imports TensorFlow.
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
    """What `train.initialize_from` names, or a copy in scratch/ where only DVC still has it; None where it is null.

    UserError where DVC tracks it, but has lost it. What is not there at all is left to whoever reads it.
    """
    if params.initialize_from is None:
        return None
    start = Path(params.initialize_from)
    if start.exists() or start.with_name(f"{start.name}.index").exists():
        return start
    return _from_dvc(start if start.suffix == ".keras" else start / MODEL, machine) or start


def _from_dvc(network: Path, machine: Machine) -> Path | None:
    """A copy of a file that DVC's cache or remote holds for this revision; None where DVC knows of none."""
    from dvc.api import DVCFileSystem  # takes a second, and only this needs it
    from dvc.exceptions import DvcException
    from dvc_data.index import DataIndexDirError

    try:
        dvc = DVCFileSystem()
        inside = Path(os.path.relpath(network, dvc.repo.root_dir)).as_posix()
        digest = dvc.info(inside)["dvc_info"]["md5"]
    except DataIndexDirError as error:
        raise _lost(network, error) from None
    except (DvcException, FileNotFoundError, KeyError):
        return None
    copy = scratch.root(machine) / "train" / "start" / digest / network.name
    if not copy.exists():
        with atomic_write(copy) as file:
            try:
                with dvc.open(inside, "rb") as source:
                    shutil.copyfileobj(source, file)
            except (DvcException, FileNotFoundError) as error:
                raise _lost(network, error) from None
    return copy


def _lost(network: Path, error: Exception) -> UserError:
    return UserError(f"{network} was removed by DVC before this stage, and neither its cache nor its remote has it "
                     f"({error}); run `dvc fetch {network.parent}`, or name a copy that lies elsewhere in "
                     f"train.initialize_from")
