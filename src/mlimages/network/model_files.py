"""The files beside a published network that describe its use: its classes and its preprocessing.

    data/model/classes.csv           class, wnid, parent, name: a row for each output of the network, in order
               preprocessing.json    how a picture becomes the input, and the outputs become probabilities
"""

import csv
import dataclasses
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from mlimages.acquire.hierarchy import ClassTree
from mlimages.core.errors import UserError
from mlimages.core.publish import write_csv, write_json

CLASSES = "classes.csv"
PREPROCESSING = "preprocessing.json"
COLUMNS = ("class", "wnid", "parent", "name")
SUGGESTIONS = 3  # names that an error about an unknown one lists

Activation = Literal["sigmoid", "softmax", "none"]
Crop = Literal["central", "shorter_side", "ten_crops"]


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the input of a network: RGB, float32 [batch, pixels, pixels, 3] from -1 to 1.

    `crop` is `central`, the central part with `central_fraction` of each side, resized to a square; `shorter_side`, the
    central square of the picture, which is first resized to a shorter side of 8/7 of `pixels`; or `ten_crops`.
    `activation` turns the network's outputs into probabilities.
    """

    pixels: int
    crop: Crop
    central_fraction: float
    activation: Activation

    def __post_init__(self) -> None:
        if not 1 <= self.pixels <= 8192:
            raise ValueError(f"pixels is {self.pixels}, expected 1 to 8192")
        if not 0 < self.central_fraction <= 1:
            raise ValueError(f"central_fraction is {self.central_fraction}, expected more than 0 and at most 1")

    def write(self, folder: Path) -> None:
        """Write preprocessing.json."""
        write_json(folder / PREPROCESSING, dataclasses.asdict(self))


def read_preprocessing(folder: Path) -> Preprocessing | None:
    """The preprocessing that was published in a folder, or None. Raises UserError for a damaged file."""
    path = folder / PREPROCESSING
    if not path.exists():
        return None
    try:
        return TypeAdapter(Preprocessing).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise UserError(f"{path} is damaged: {str(error).splitlines()[0]}; run `dvc checkout {folder}`") from None


class ClassTable(ClassTree):
    """The classes of a network, in the order of its outputs. A WordNet id is empty if it is not known."""

    def find(self, name: str | int) -> int:
        """The number of a class, from a name, a WordNet id or a number. Raises UserError for an unknown class."""
        if isinstance(name, int):
            if not 0 <= name < len(self):
                raise UserError(f"class {name} does not exist; expected 0 to {len(self) - 1}")
            return name
        if name in self.wnids:
            return self.wnids.index(name)
        lowered = name.strip().lower()
        synonyms = {synonym.strip().lower(): number for number in reversed(range(len(self)))
                    for synonym in [self.names[number], *self.names[number].split(",")]}
        if lowered in synonyms:
            return synonyms[lowered]
        near = difflib.get_close_matches(lowered, synonyms, SUGGESTIONS)
        raise UserError(f"no class is called {name!r}" + (f"; the nearest are {', '.join(near)}" if near else
                        "; expected a name, a WordNet id or a number of classes.csv"))

    def write(self, folder: Path) -> None:
        """Write classes.csv."""
        write_csv(folder / CLASSES, COLUMNS, zip(range(len(self)), self.wnids, self.parents, self.names, strict=True))


def read_classes(path: Path) -> ClassTable:
    """The classes of a CSV file with the columns class and name. The columns wnid and parent are optional.

    The classes are counted from 0, in the order of the rows. Raises UserError for a missing or damaged file.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; expected a CSV file with the columns class and name") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    for number, row in enumerate(rows):
        if row.get("class") != str(number) or not row.get("name"):
            raise UserError(f"{path}, line {number + 2}: found class {row.get('class')!r} and name "
                            f"{row.get('name')!r}, expected class {number} and its name")
        if not (row.get("parent") or "-1").removeprefix("-").isdigit():
            raise UserError(f"{path}, line {number + 2}: found the parent {row['parent']!r}, expected a class or -1")
    if not rows:
        raise UserError(f"{path} names no classes; expected a CSV file with the columns class and name")
    return ClassTable([row.get("wnid") or "" for row in rows], [int(row.get("parent") or -1) for row in rows],
                      [row["name"] for row in rows])


def read_imagenet_classes(path: Path) -> ClassTable:
    """The classes of the released imagenet2012_dictionary.txt. A line is a number and words, separated by tabs."""
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line.strip()]
    for number, row in enumerate(rows):
        if row[0] != str(number) or len(row) < 2:
            raise UserError(f"{path}, line {number + 1}: found {row[0]!r}, expected class {number} and its name")
    return ClassTable([""] * len(rows), [-1] * len(rows), [" ".join(row[1:]) for row in rows])
