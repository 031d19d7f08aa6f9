"""What fine-tuning owes to the training before: top-1 accuracy of the demo's transfer, over several seeds.

    python benchmarks/transfer.py --seeds 3       # after `make repro`

A seed decides the order of the pictures, the random weights and the augmentation; the pictures stay the same. Beside it
stands the accuracy of the label of the nearest training picture, on 16 x 16 pixels.
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
from nearest_neighbour import SIDE, distances, read

from mlimages.core.params import load
from mlimages.transfer.run import transfer

COLUMNS = {"top_1": "fine-tuned", "top_1_from_nothing": "from random weights", "top_1_linear": "linear"}


def nearest_neighbour(tfrecords: Path) -> float:
    """The share of the validation pictures that have the class of the nearest training picture."""
    (known, classes), (images, true) = read(tfrecords, "train"), read(tfrecords, "val")
    nearest = distances(images, known).argmin(1)
    return float((classes[nearest] & true).any(1).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("data/model"))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    params = load()
    rows = []
    print(f"| seed | {' | '.join(COLUMNS.values())} | gain | seconds | CPU seconds |")
    print("| --- " * (len(COLUMNS) + 4) + "|")
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            machine = dataclasses.replace(params.machine, scratch=f"{folder}/scratch")
            began, computed = time.monotonic(), time.process_time()
            out = transfer(dataclasses.replace(params.transfer, seed=seed, compare=True), machine, base=params.train,
                           model=arguments.model, out=Path(folder) / "out")
            seconds = f"{time.monotonic() - began:.0f} | {time.process_time() - computed:.0f}"
            [tfrecords] = Path(folder).glob("scratch/transfer/records-*/tfrecords")
            neighbour = nearest_neighbour(tfrecords)
            scores = json.loads((out / "metrics.json").read_text())
        rows.append([scores[name] for name in COLUMNS] + [scores["top_1"] - scores["top_1_from_nothing"]])
        print(f"| {seed} | {' | '.join(f'{value:.3f}' for value in rows[-1])} | {seconds} |",
              flush=True)
    spread = [f"{mean:.3f} ± {deviation:.3f}" for mean, deviation in
              zip(np.mean(rows, axis=0), np.std(rows, axis=0, ddof=1), strict=True)]
    print(f"| mean ± standard deviation | {' | '.join(spread)} | | |")
    print(f"{scores['images']} validation pictures; nearest neighbour on {SIDE} x {SIDE} pixels: {neighbour:.3f}")


if __name__ == "__main__":
    main()
