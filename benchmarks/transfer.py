"""What fine-tuning owes to the training before: top-1 accuracy of the demo's transfer, over several seeds.

    python benchmarks/transfer.py --seeds 3       # after `make repro`

A seed decides the order of the pictures, the random weights and the augmentation; the pictures stay the same.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path

import mlimages  # noqa: F401 - sets what TensorFlow reads when it is imported

# isort: split
import numpy as np

from mlimages.core.params import load
from mlimages.transfer import transfer

COLUMNS = {"top_1": "fine-tuned", "top_1_from_nothing": "from random weights", "top_1_linear": "linear"}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("data/model"))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    params = load()
    rows = []
    print(f"| seed | {' | '.join(COLUMNS.values())} | gain | seconds |")
    print("| --- " * (len(COLUMNS) + 3) + "|")
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            machine = dataclasses.replace(params.machine, scratch=f"{folder}/scratch")
            began = time.monotonic()
            out = transfer(dataclasses.replace(params.transfer, seed=seed, compare=True), machine, base=params.train,
                           model=arguments.model, out=Path(folder) / "out")
            scores = json.loads((out / "metrics.json").read_text())
        rows.append([scores[name] for name in COLUMNS] + [scores["top_1"] - scores["top_1_from_nothing"]])
        print(f"| {seed} | {' | '.join(f'{value:.3f}' for value in rows[-1])} | {time.monotonic() - began:.0f} |",
              flush=True)
    spread = [f"{mean:.3f} ± {deviation:.3f}" for mean, deviation in
              zip(np.mean(rows, axis=0), np.std(rows, axis=0, ddof=1), strict=True)]
    print(f"| mean ± standard deviation | {' | '.join(spread)} | |")


if __name__ == "__main__":
    main()
