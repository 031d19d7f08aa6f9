"""The summary that `make repro` prints: what was made, its quality, where to look, and what to try next.

    python -m mlimages.commands.summary
"""

import json
import sys
from pathlib import Path
from typing import Any

from mlimages.core.errors import UserError, command, read_error, rebuild_hint
from mlimages.core.publish import read_manifest


def summary(data: str | Path = "data") -> str:
    """Four lines about the results in `data`. Raises UserError if one is missing or damaged."""
    data = Path(data)
    records, trained = read_manifest(data / "tfrecords", "convert"), read_manifest(data / "model", "train")
    fetched = _json("download", data / "images" / "summary.json")
    metrics = _json("evaluate", data / "evaluation" / "metrics.json")
    run = _json("train", data / "model" / "run.json")
    params = run["params"]
    length = "steps" if params["epochs"] is None else "epochs"
    return "\n".join([
        f"Made: {fetched['images']:,} images of {fetched['lines']:,} URLs, {_records(records, 'train'):,} training and "
        f"{_records(records, 'val'):,} validation records, {trained['architecture']} for {trained['classes']:,} "
        f"classes after {run['metrics']['steps']:,} steps.",
        f"Quality: mean average precision {metrics['mean_average_precision_macro']:.3f} (macro) and "
        f"{metrics['mean_average_precision_micro']:.3f} (micro) on {metrics['images']:,} validation images; a random "
        f"ranking reaches {metrics['base_rate']:.3f} and {metrics['base_rate_micro']:.3f}.",
        f"Look: {data}/reports/5_evaluate.ipynb has the plots; `dvc plots show` draws the curves.",
        f"Try next: `make lab` to explore, or `dvc exp run -S train.{length}={2 * params[length]}` to train twice as "
        f"long, then `dvc metrics diff`."])


def _records(manifest: dict[str, Any], part: str) -> int:
    return sum(fact["records"] for name, fact in manifest["files"].items()
               if name.startswith(f"{part}-") and name.endswith(".tfrecord"))


def _json(stage: str, path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run `dvc repro {stage}`") from None
    except OSError as error:
        raise read_error(path, error) from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); {rebuild_hint(stage)}") from None


@command
def main() -> None:
    print(summary())


if __name__ == "__main__":
    sys.exit(main())
