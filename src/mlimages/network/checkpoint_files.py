"""The files of checkpoints, and checks that they are complete. Does not import TensorFlow."""

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
METRICS = "metrics.json"  # written last: if it exists, the result is complete


def checkpoint_name(step: int) -> str:
    """The name of the folder of a checkpoint after `step` steps."""
    return f"step-{step:08d}"


def checkpoint_folders(checkpoints: Path) -> list[Path]:
    """The folders of a training's checkpoints, the oldest first."""
    return sorted(checkpoints.glob("step-*"))


def read_metadata(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """The content of a checkpoint's facts.json, or None and a reason. The other files are not checked."""
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
    """The content of facts.json if the checkpoint is complete and intact, or None and a reason."""
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
    """The newest complete checkpoint, from which the training resumes. None without any."""
    folders = reversed(checkpoint_folders(checkpoints))
    return next((folder for folder in folders if validate_checkpoint(folder)[0] is not None), None)


def initial_weight_files(start: str | Path) -> list[Path]:
    """The files that `train.initialize_from` names.

    They are one .keras file, also for a folder such as data/model; facts.json and the variables of one of our
    checkpoints; or PREFIX.index and PREFIX.data-* of a released checkpoint, in this order. Raises UserError if they are
    missing.
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
        raise UserError(f"{start} holds no weights to start from: expected a .keras file, a folder with "
                        f"{MODEL} or {METADATA}, or a TensorFlow checkpoint: {index} and {start}.data-* beside it"
                        + (f"; found {', '.join(map(str, others[:5]))}" if others else ""))
    return files
