"""A class dictionary is read as a forest of numbered, uniquely named classes, or rejected."""

import time
from pathlib import Path

import pytest

from mlimages.acquire.hierarchy import read_tree
from mlimages.core.errors import UserError

HEADER = "category_index\tcategory_id\tindex_of_parent_category\tcategory name"
ROWS = ["0\tn01\t-1\tthing", "1\tn02\t3\tcat, house cat", "2\tn03\t-1\tplace", "3\tn04\t0\tanimal", "4\tn05\t3\tdog"]


def _write(folder: Path, rows: list[str], end: str = "\n") -> Path:
    path = folder / "dictionary.txt"
    path.write_bytes((end.join([HEADER, *rows]) + end).encode())
    return path


def test_a_dictionary_is_read_as_a_tree(tmp_path: Path) -> None:
    tree = read_tree(_write(tmp_path, ROWS))
    assert len(tree) == 5
    assert tree.wnids == ("n01", "n02", "n03", "n04", "n05")
    assert tree.parents == (-1, 3, -1, 0, 3)
    assert tree.children == ((3,), (), (), (1, 4), ())
    assert tree.depths == (0, 2, 0, 1, 2)
    assert tree.ancestors(1) == [3, 0]
    assert tree.ancestors(2) == []
    assert tree.label(1) == "cat"
    assert tree.names[1] == "cat, house cat"


def test_a_caption_names_the_most_specific_classes(tmp_path: Path) -> None:
    tree = read_tree(_write(tmp_path, ROWS))
    assert tree.specific([0, 3, 1, 2]) == [1, 2]
    assert tree.caption_classes([0, 3, 1], [4, 2]) == ([1], [4, 2])
    assert tree.caption_classes([2], [0, 3, 4]) == ([2], [4]), "ancestors of a wrong class are wrong too"
    assert tree.caption_classes([1], [3]) == ([1], []), "an ancestor of a true class is no mistake"


def test_line_ends_a_byte_order_mark_and_a_missing_header_make_no_difference(tmp_path: Path) -> None:
    expected = read_tree(_write(tmp_path, ROWS))
    assert read_tree(_write(tmp_path, ROWS, end="\r\n")) == expected
    for text in ("\ufeff" + "\n".join([HEADER, *ROWS]), "\n".join(ROWS), "\ufeff" + "\n".join(ROWS)):
        (tmp_path / "other.txt").write_text(text, encoding="utf-8")
        assert read_tree(tmp_path / "other.txt") == expected


@pytest.mark.parametrize(("change", "named"), [
    ({1: "1\tn02\t1\tcat"}, "class 1 is its own ancestor"),
    ({0: "0\tn01\t4\tthing"}, "class 0 is its own ancestor"),
    ({2: "2\tn03\t5\tplace"}, "class 2 has the parent 5, which does not exist"),
    ({2: "2\tn03\t-2\tplace"}, "class 2 has the parent -2, which does not exist"),
    ({4: "4\tn02\t3\tdog"}, "the WordNet id n02 belongs to two classes, 1 and 4"),
    ({1: HEADER}, "line 3: expected index, WordNet id, parent and names"),
    ({2: "3\tn03\t-1\tplace"}, "line 4: .*class 3 where 2 was expected"),
    ({3: "2\tn04\t0\tanimal"}, "line 5: .*class 2 where 3 was expected"),
    ({0: "0\tn01\tnone\tthing"}, "line 2: expected index, WordNet id, parent and names .*'none'"),
    ({4: "4\tn05\tdog"}, "line 6: expected index, WordNet id, parent and names separated by tabs"),
    ({4: "4\tn05\t3\tdog\tmore"}, "line 6: expected index, WordNet id, parent and names separated by tabs"),
    ({4: "<html>"}, "line 6: expected index, WordNet id, parent and names separated by tabs"),
])
def test_an_invalid_dictionary_is_an_error_that_names_the_cause(tmp_path: Path, change: dict[int, str],
                                                                named: str) -> None:
    path = _write(tmp_path, [change.get(index, row) for index, row in enumerate(ROWS)])
    with pytest.raises(UserError, match=named) as error:
        read_tree(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("content", ["", HEADER, HEADER + "\n"])
def test_a_dictionary_without_classes_is_empty(tmp_path: Path, content: str) -> None:
    (tmp_path / "dictionary.txt").write_text(content)
    with pytest.raises(UserError, match="dictionary.txt is empty"):
        read_tree(tmp_path / "dictionary.txt")


def test_a_missing_dictionary_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dictionary\.txt is missing: the class dictionary"):
        read_tree(tmp_path / "dictionary.txt")


def test_a_long_chain_of_classes_is_not_a_cycle(tmp_path: Path) -> None:
    tree = read_tree(_write(tmp_path, [f"{index}\tn{index}\t{index - 1}\tc{index}" for index in range(1200)]))
    assert tree.depths[-1] == 1199


def test_a_dictionary_that_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "dictionary.txt").write_bytes(b"0\tn01\t-1\t\xff\n")
    with pytest.raises(UserError, match=r"dictionary\.txt"):
        read_tree(tmp_path / "dictionary.txt")


def test_checking_takes_time_in_proportion_to_the_classes(tmp_path: Path) -> None:
    classes = 40_000
    rows = [f"{index}\tn{index}\t{index - 1 if index % 500 else -1}\tc" for index in range(classes - 1)]
    path = _write(tmp_path, [*rows, f"{classes - 1}\tn{classes - 2}\t-1\ttwice"])
    began = time.process_time()
    with pytest.raises(UserError, match=f"n{classes - 2} belongs to two classes"):
        read_tree(path)
    assert time.process_time() - began < 2  # comparing all pairs takes minutes
