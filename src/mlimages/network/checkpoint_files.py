"""The files of checkpoints, and whether they are complete. Does not import TensorFlow."""

import json
from pathlib import Path
from typing import Any

from mlimages.core.errors import UserError
from mlimages.core.publish import sha256

CHECKPOINTS = "checkpoints"
METADATA = "facts.json"
VARIABLES = "variables"
MODEL = "model.keras"
PROFILE = "profile.json"
HEADLINE = "headline.json"  # the metrics that `dvc metrics show` and `dvc exp show` list
METRICS = "metrics.json"  # written last: with it, all of the result is there


def checkpoint_folders(checkpoints: Path) -> list[Path]:
    """The checkpoints of a training, the oldest first."""
    return sorted(checkpoints.glob("step-*"))


def read_metadata(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """The facts of a checkpoint, else None and what is wrong; its other files are not looked at."""
    try:
        facts = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        facts["step"], facts["losses"], facts["score"], facts["seconds"], facts["network"], facts["machine"]
        facts["files"].items()
    except FileNotFoundError:
        return None, f"{METADATA} is missing"
    except OSError as error:
        return None, f"{METADATA} cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return None, f"{METADATA}: {error}"
    return facts, ""


def validate_checkpoint(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """The facts of a checkpoint that is whole, else None and what is wrong."""
    facts, fault = read_metadata(folder)
    for name, digest in facts["files"].items() if facts else ():
        try:
            if sha256(folder / name) != digest:
                return None, f"{name} has another sha256 than when it was written"
        except FileNotFoundError:
            return None, f"{name} is missing"
        except (OSError, UserError) as error:
            return None, str(error)
    return facts, fault


def newest_checkpoint(checkpoints: Path) -> Path | None:
    """The newest checkpoint that is whole: from which training would resume."""
    folders = reversed(checkpoint_folders(checkpoints))
    return next((folder for folder in folders if validate_checkpoint(folder)[0] is not None), None)


def initial_weight_files(start: str | Path) -> list[Path]:
    """The files of what `train.initialize_from` may name; UserError where they are not there.

    One .keras file, also that of a folder such as data/model; of one of our checkpoints facts.json first, then its
    variables; of a released checkpoint PREFIX.index first, then PREFIX.data-*.
    """
    start = Path(start)
    network = start / MODEL if start.is_dir() else start
    if network.suffix == ".keras" and network.is_file():
        return [network]
    if (start / METADATA).is_file():
        return [start / METADATA, *sorted(start.glob(f"{VARIABLES}.*"))]
    index = start.with_name(f"{start.name}.index")
    files = [index, *sorted(start.parent.glob(f"{start.name}.data-*"))]
    if not index.is_file() or len(files) < 2:
        others = [path.with_suffix("") for path in sorted(start.parent.glob("*.index"))]
        raise UserError(f"{start} is nothing that a training can start from: expected a .keras file, a folder with "
                        f"{MODEL} or {METADATA}, or a TensorFlow checkpoint: {index} and {start}.data-* beside it"
                        + (f"; there is {', '.join(map(str, others[:5]))}" if others else ""))
    return files
