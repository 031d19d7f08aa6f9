"""A folder of lists needs no dictionary where the lists name classes, and no validation list."""

import dataclasses
from pathlib import Path

import pytest
from tests.acquire.tables.conftest import labels_by_part

from mlimages.acquire.formats import DICTIONARY, LISTS, read_list
from mlimages.acquire.hierarchy import read_tree
from mlimages.acquire.run import acquire
from mlimages.core.errors import UserError
from mlimages.core.params import Acquire, Machine, Table
from mlimages.core.publish import verify

TRAIN_IDS, TRAIN_URLS, VAL_IDS, VAL_URLS = (name for *_, name in LISTS)


def _url(number: int) -> str:
    return f"http://images.example/{number}.jpg"


def _with(params: Acquire, **values: object) -> Acquire:
    table: Table = dataclasses.replace(params.table, **values)  # type: ignore[arg-type]
    return dataclasses.replace(params, table=table)


@pytest.fixture
def named(release: Path, from_release: Acquire) -> Acquire:
    """The release without its dictionary, and with names in its lists."""
    (release / DICTIONARY).unlink()
    for name in (TRAIN_IDS, VAL_IDS):
        (release / name).unlink()
    (release / TRAIN_URLS).write_text(f"{_url(1)}\tbig dog:0.9\tanimal\n\n{_url(2)}\tcat\n{_url(3)}\n"
                                      f"{_url(4)}\tcat:x:1\n")
    (release / VAL_URLS).write_text(f"{_url(5)}\tcat:0.5\n")
    return from_release


def test_names_of_classes_make_the_dictionary(named: Acquire, machine: Machine, tmp_path: Path) -> None:
    out = acquire(named, machine, out=tmp_path / "lists")
    assert read_tree(out / DICTIONARY).wnids == ("animal", "big dog", "cat", "cat:x")
    assert labels_by_part(out) == {"train": {_url(1): {"animal": 1, "big dog": 0.9}, _url(2): {"cat": 1},
                                             _url(4): {"cat:x": 1}}, "val": {_url(5): {"cat": 0.5}}}
    assert set(verify(out, "acquire")["made_from"]) == {TRAIN_URLS, VAL_URLS}


def test_a_file_of_classes_gives_names_and_parents(named: Acquire, machine: Machine, release: Path, tmp_path: Path,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    classes = release / "classes.csv"
    classes.write_text("name,class,parent\nA cat,cat,animal\nAn animal,animal,\nA hound,big dog,animal\n")
    out = acquire(_with(named, classes=str(classes)), machine, out=tmp_path / "lists")
    tree = read_tree(out / DICTIONARY)
    assert (tree.wnids, tree.parents, tree.names) == (("cat", "animal", "big dog"), (1, -1, 1),
                                                      ("A cat", "An animal", "A hound"))
    assert "1 labels of 1 names are no class and are left out; the most frequent is cat:x with 1" in \
        capsys.readouterr().out


@pytest.mark.parametrize("content, message", [
    ("class,parent\ncat,anmal\nanimal,\n",
     "the class cat has the parent anmal, which is no class there; the nearest is animal"),
    ("class\ncat\ncat\n", "the class 'cat' is there twice"), ("class,name\n,Cat\n", "no class in"),
    ("", "is empty; expected a CSV file with the columns class, name and parent"),
    ("class,parent\ncat,dog\ndog,cat\n", "class 0 is its own ancestor"), ("\udcff", "is no CSV file of classes")])
def test_a_damaged_file_of_classes_is_an_error(named: Acquire, machine: Machine, release: Path, tmp_path: Path,
                                               content: str, message: str) -> None:
    (release / "classes.csv").write_text(content, errors="surrogateescape")
    with pytest.raises(UserError, match=message):
        acquire(_with(named, classes=str(release / "classes.csv")), machine, out=tmp_path / "lists")


def test_a_forgotten_dictionary_is_not_taken_for_names(from_release: Acquire, release: Path, machine: Machine,
                                                       tmp_path: Path) -> None:
    (release / DICTIONARY).unlink()
    with pytest.raises(UserError, match="is missing: the class dictionary. The lists give classes by their numbers"):
        acquire(from_release, machine, out=tmp_path / "lists")


def test_a_missing_validation_list_is_split_off(from_release: Acquire, release: Path, machine: Machine,
                                                tmp_path: Path) -> None:
    (release / VAL_IDS).unlink()
    (release / VAL_URLS).unlink()
    (release / TRAIN_URLS).write_text("".join(f"{_url(number)}\t2:0.9\t1:1\n" for number in range(1000)))
    (release / TRAIN_IDS).write_text("".join(f"n00000003/n00000003_{number}.JPEG\t2:1\n" for number in range(1000)))
    out = acquire(_with(from_release, val_share=0.2), machine, out=tmp_path / "lists")
    records = {name: verify(out, "acquire")["files"][name]["records"] for *_, name in LISTS}
    assert 140 < records[VAL_URLS] < 260 and 140 < records[VAL_IDS] < 260  # 200, plus or minus five deviations
    assert records[TRAIN_URLS] + records[VAL_URLS] == records[TRAIN_IDS] + records[VAL_IDS] == 1000
    urls = [entry.source for name in (TRAIN_URLS, VAL_URLS) for entry in read_list(out / name, "openimages", 5)]
    assert sorted(urls) == sorted(map(_url, range(1000)))
    assert read_tree(out / DICTIONARY).wnids == read_tree(release / DICTIONARY).wnids
