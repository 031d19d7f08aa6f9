"""Irregular lists: blank lines, spaces, odd characters, other kinds of lists, images in both parts."""

import csv
import dataclasses
import json
from pathlib import Path

import pytest

from mlimages.acquire.formats import (
    DICTIONARY,
    LISTS,
    OVERLAP,
    STATISTICS,
    Labels,
    LineParser,
    ListEntry,
    MalformedLine,
    Origin,
    read_list,
)
from mlimages.acquire.run import acquire
from mlimages.core.errors import UserError
from mlimages.core.params import Acquire, Machine

TRAIN_IDS, TRAIN_URLS, VAL_IDS, VAL_URLS = (name for *_, name in LISTS)
URL = "http://images.example/a.jpg"
LABELS = Labels((1, 5), (1.0, 0.5))


def parse(line: str, origin: Origin = "openimages") -> ListEntry:
    return LineParser(origin, 10).parse(line.encode(), 1)


@pytest.mark.parametrize("blank", ["\n", "\r\n", " \t \n", "\t\n", "\n\n\n"])
@pytest.mark.parametrize("at", [0, 1, 3])
def test_blank_lines_of_a_list_are_skipped(from_release: Acquire, machine: Machine, release: Path, tmp_path: Path,
                                           blank: str, at: int) -> None:
    lines = [f"{URL}?{number}\t2:1\n" for number in range(3)]
    (release / TRAIN_URLS).write_text("".join([*lines[:at], blank, *lines[at:]]))
    out = acquire(from_release, machine, out=tmp_path / "lists")
    assert (out / TRAIN_URLS).read_text() == "".join(lines)
    assert json.loads((out / STATISTICS).read_text())["lists"][TRAIN_URLS]["malformed_lines"] == 0


def test_line_numbers_count_blank_lines_but_the_malformed_fraction_does_not(from_release: Acquire, machine: Machine,
                                                                        release: Path, tmp_path: Path) -> None:
    (release / TRAIN_URLS).write_text("\n\n" + f"{URL}\t2:2\n" + "\n" * 5)
    with pytest.raises(UserError, match="at least 1 of 1 lines are malformed, .* the first is line 3: confidence"):
        acquire(dataclasses.replace(from_release, malformed_fraction=1.0), machine, out=tmp_path / "lists")


def test_a_list_of_blank_lines_is_empty(from_release: Acquire, machine: Machine, release: Path, tmp_path: Path) -> None:
    (release / TRAIN_URLS).write_text("\n \n\n")
    with pytest.raises(UserError, match=f"{TRAIN_URLS}: the list has only blank lines"):
        acquire(from_release, machine, out=tmp_path / "lists")


def test_blank_lines_of_a_dictionary_are_skipped(from_release: Acquire, machine: Machine, release: Path,
                                                 tmp_path: Path) -> None:
    straight = acquire(from_release, machine, out=tmp_path / "straight")
    lines = (release / DICTIONARY).read_text().splitlines()
    (release / DICTIONARY).write_text("\n" + lines[0] + "\n \n" + "\n\n".join(lines[1:]) + "\n\n")
    out = acquire(from_release, machine, out=tmp_path / "lists")
    assert (out / "classes.csv").read_bytes() == (straight / "classes.csv").read_bytes()
    (release / DICTIONARY).write_text("\n".join(lines[:2]) + "\n\nno class\n")
    with pytest.raises(UserError, match="line 4: expected index, .* separated by tabs: found 1 of these 4 fields"):
        acquire(from_release, machine, out=tmp_path / "lists")


@pytest.mark.parametrize("character", ["\u00a0", "\u3000", "\u200b", "\u200c", "\u200d", "\u2028", "\u00ad", "\ue000",
                                       "\U0001fae8", "\U0001fadd", "\u0378", "\ufffe"])
def test_a_url_can_have_any_character_except_a_control_character(character: str) -> None:
    """This includes characters that only newer versions of Unicode name, and the end of a URL."""
    for url in (f"http://images.example/{character}b.jpg", f"{URL}{character}"):
        assert parse(f"{url}\t1:1").source == url


@pytest.mark.parametrize(("source", "kind"), [
    ("n01440764_10026.JPEG", "a list of file names, such as Tencent's train_im_list_tiny.txt"),
    ("images/a.jpg", "a list of file names"), ("/home/a.jpg", "a list of file names"),
    ("images.example/a.jpg", "a list of file names"),
    ("n00000003/n00000003_1.JPEG", "a list of ImageNet ids is expected under the name train_image_id_from_imagenet"),
    ("ftp://images.example/a.jpg", ""), ("http:///a.jpg", ""), ("http://", ""), ("https://?a", "")])
def test_an_invalid_url_is_malformed_and_the_kind_of_list_is_named(source: str, kind: str) -> None:
    with pytest.raises(MalformedLine, match=f"expected an http or https URL, found '.*'(; {kind}|$)") as error:
        parse(f"{source}\t1:1")
    assert repr(source) in str(error.value) and kind in str(error.value)


@pytest.mark.parametrize("source", ["HTTP://images.example/a.jpg", "https://h", "http://[::1]/a", "http://h/a b.jpg"])
def test_other_spellings_of_a_url_are_accepted(source: str) -> None:
    assert parse(f"{source}\t1:1").source == source


def test_a_url_in_a_list_of_imagenet_ids_is_named() -> None:
    with pytest.raises(MalformedLine, match="a list of URLs is expected under the name train_urls_from_openimages"):
        parse(f"{URL}\t1:1", "imagenet")


@pytest.mark.parametrize("line", [f"{URL} 5:0.5 1:1", f"{URL}   1:1.0  5:5e-1", f" {URL} 5:0.5 1:1"])
def test_spaces_separate_fields_if_the_url_has_no_space(line: str) -> None:
    assert parse(line) == ListEntry(1, URL, LABELS)


def test_spaces_can_separate_an_imagenet_id_and_its_labels() -> None:
    assert parse("n00000003/n00000003_12.JPEG 5:0.5 1:1", "imagenet").labels == LABELS


@pytest.mark.parametrize("line", [f"{URL} b.jpg 5:0.5 1:1", f"{URL} 5:0.5 cat", f"{URL} 5:0.5\t1:1", f"{URL} 5 1:1",
                                  "5:0.5 1:1"])
def test_ambiguous_spaces_are_an_error_that_asks_for_tabs(line: str) -> None:
    with pytest.raises(MalformedLine, match="separated by spaces, .*: separate all fields by tabs; found") as error:
        parse(line)
    assert repr(line) in str(error.value)


def test_images_in_train_and_in_val_are_counted_and_named(
        from_release: Acquire, machine: Machine, release: Path, tmp_path: Path,
        capsys: pytest.CaptureFixture[str]) -> None:
    (release / TRAIN_URLS).write_text("".join(f"{URL}?{number}\t2:1\n" for number in [*range(50), 7]))
    (release / VAL_URLS).write_text("".join(f"{URL}?{number}\t2:1\n" for number in (90, 30, 7, 30)))
    (release / TRAIN_IDS).write_text("n00000003/n00000003_1.JPEG\t2:1\n")
    (release / VAL_IDS).write_text("n00000003/n00000003_1.JPEG\t2:0.5\nn00000003/n00000003_2.JPEG\t2:1\n")
    for _ in range(2):  # the second run reuses the finished lists
        out = acquire(from_release, machine, out=tmp_path / "lists")
        with (out / OVERLAP).open(newline="") as file:
            assert list(csv.reader(file))[1:] == [[VAL_IDS, "n00000003/n00000003_1.JPEG"], [VAL_URLS, f"{URL}?30"],
                                                  [VAL_URLS, f"{URL}?7"]]
        assert json.loads((out / STATISTICS).read_text())["in_train_and_val"] == {VAL_IDS: 1, VAL_URLS: 2}
        said = capsys.readouterr().out
        assert f"2 images of {VAL_URLS} are also in the training list, such as {URL}?30" in said
    assert len(list(read_list(out / VAL_URLS, "openimages", 5))) == 3


def test_lists_that_share_no_image_cause_no_warning(from_release: Acquire, machine: Machine, release: Path,
                                                      tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (release / VAL_IDS).unlink()
    out = acquire(from_release, machine, out=tmp_path / "lists")
    assert (out / OVERLAP).read_text() == "list,source\n"
    assert "WARNING" not in capsys.readouterr().out
