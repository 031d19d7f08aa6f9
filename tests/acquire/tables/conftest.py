import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlimages.acquire.formats import DICTIONARY, LISTS, read_list
from mlimages.acquire.hierarchy import read_tree
from mlimages.acquire.run import acquire
from mlimages.core.params import Acquire, Machine, Params

Acquired = dict[str, dict[str, dict[str, float]]]


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the tables, which is the working directory."""
    folder = tmp_path / "tables"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def from_table(params: Params, tables: Path) -> Acquire:
    """The parameters for the tables in that folder, half of whose images are for validation."""
    table = dataclasses.replace(params.acquire.table, val_share=0.5)
    return dataclasses.replace(params.acquire, source="table", folder=str(tables), table=table)


@pytest.fixture
def acquired(from_table: Acquire, machine: Machine, tmp_path: Path) -> Callable[..., Acquired]:
    """Acquire tables with these parameters of the section `table`.

    Returns, by part, the labels of each address: names of classes and confidences.
    """
    def run(*files: str, out: Path = tmp_path / "lists", malformed_fraction: float = 0.001,
            **values: Any) -> Acquired:
        table = dataclasses.replace(from_table.table, files=list(files), **values)
        changed = dataclasses.replace(from_table, table=table, malformed_fraction=malformed_fraction)
        return labels_by_part(acquire(changed, machine, out=out))

    return run


def labels_by_part(out: Path) -> Acquired:
    tree = read_tree(out / DICTIONARY)
    return {part: {entry.source: {tree.wnids[index]: confidence
                                  for index, confidence in zip(*entry.labels, strict=True)}
                   for entry in read_list(out / name, origin, len(tree))}
            for part, origin, name in LISTS if origin == "openimages"}
