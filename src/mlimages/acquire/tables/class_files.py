"""Read the classes of `acquire.table.classes`: CSV files of class, name and parent, and hierarchies of Open Images."""

import csv
import difflib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mlimages.acquire.formats import DICTIONARY
from mlimages.acquire.tables.labels import clean_name
from mlimages.core.errors import UserError, read_error
from mlimages.core.publish import atomic_write

CLASS_NAMES, NAME_NAMES, PARENT_NAMES = ("class", "label", "labelname", "id"), ("name", "displayname"), ("parent",)
HEADER = "category_index\tcategory_id\tindex_of_parent_category\tcategory name"


class LabelClass(NamedTuple):
    """A class of the files: its label in tables, its name, and its parent ("" for a root)."""

    label: str
    name: str
    parent: str


def read_class_files(paths: Sequence[Path]) -> list[LabelClass]:
    """The classes of all files, in their order. A later file adds names and parents that an earlier one lacks.

    Raises UserError for a damaged file, for a class that a file has twice, and for a parent that is no class.
    """
    classes: dict[str, LabelClass] = {}
    for path in paths:
        found = _read_hierarchy(path) if path.suffix.lower() == ".json" else _read_csv(path)
        for one in found:
            known = classes.get(one.label, LabelClass(one.label, "", ""))
            classes[one.label] = LabelClass(one.label, known.name or one.name, known.parent or one.parent)
    for one in classes.values():
        if one.parent and one.parent not in classes:
            nearest = difflib.get_close_matches(one.parent, classes, n=1, cutoff=0.0)
            raise UserError(f"{', '.join(map(str, paths))}: the class {one.label} has the parent {one.parent}, which "
                            f"is no class there; the nearest is {nearest[0]}")
    return list(classes.values())


def write_dictionary(folder: Path, classes: Iterable[LabelClass]) -> None:
    """Write the classes in the format of Tencent's dictionary, with the labels in place of WordNet ids."""
    listed = list(classes)
    index = {one.label: number for number, one in enumerate(listed)}
    with atomic_write(folder / DICTIONARY) as file:
        file.write(f"{HEADER}\n".encode())
        for number, one in enumerate(listed):
            parent = index[one.parent] if one.parent else -1
            file.write(f"{number}\t{one.label}\t{parent}\t{one.name or one.label}\n".encode())


def _read_csv(path: Path) -> list[LabelClass]:
    """The rows of a CSV file. Without a header its columns are class, name and parent."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [[clean_name(field) for field in row] for row in csv.reader(file) if any(row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no CSV file of classes: {error}") from None
    except OSError as error:
        raise read_error(path, error) from None
    if not rows:
        raise UserError(f"{path} is empty; expected a CSV file with the columns class, name and parent")
    header = [field.lower() for field in rows[0]]
    places = [next((header.index(name) for name in names if name in header), None)
              for names in (CLASS_NAMES, NAME_NAMES, PARENT_NAMES)]
    if places[0] is None:
        places = [place if place < len(rows[0]) else None for place in range(3)]
    else:
        rows = rows[1:]
    classes = []
    seen: set[str] = set()
    for row in rows:
        label, name, parent = (row[place] if place is not None and place < len(row) else "" for place in places)
        if not label or label in seen:
            raise UserError(f"{path}: {f'the class {label!r} is there twice' if label else f'no class in {row}'}; "
                            f"expected the columns class, name and parent, and each class once")
        seen.add(label)
        classes.append(LabelClass(label, name, parent))
    return classes


def _read_hierarchy(path: Path) -> list[LabelClass]:
    """The classes of a hierarchy of Open Images, each below the first class that has it as a Subcategory."""
    try:
        root = json.loads(path.read_text(encoding="utf-8"))
        classes: dict[str, LabelClass] = {}
        waiting: list[tuple[Any, str]] = [(root, "")]
        while waiting:
            node, parent = waiting.pop()
            label = clean_name(node["LabelName"])
            classes.setdefault(label, LabelClass(label, "", parent))
            waiting += [(child, label) for child in reversed(node.get("Subcategory", []))]
    except OSError as error:
        raise read_error(path, error) from None
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no hierarchy as Open Images has it: {type(error).__name__} {error}; expected JSON "
                        f"with LabelName and Subcategory") from None
    return list(classes.values())
