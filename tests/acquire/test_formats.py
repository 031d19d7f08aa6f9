"""List lines are parsed, and errors quote what is wrong."""

import random
import tracemalloc
from pathlib import Path

import pytest

from mlimages.acquire import formats
from mlimages.acquire.formats import (
    LISTS,
    MAX_LINE_BYTES,
    Labels,
    LineParser,
    ListEntry,
    MalformedLine,
    Origin,
    format_line,
    line_offsets,
    list_file,
    raw_lines,
    read_list,
)
from mlimages.core.errors import UserError

URL = "http://images.example/a.jpg"


def _parse(line: str | bytes, classes: int = 10) -> ListEntry:
    return LineParser("openimages", classes).parse(line if isinstance(line, bytes) else line.encode(), 1)


def test_a_released_line_is_parsed() -> None:
    assert _parse(f"{URL}\t5:0.9\t2:1\t7:0.25") == ListEntry(1, URL, Labels((2, 5, 7), (1.0, 0.9, 0.25)))


def test_a_label_without_a_confidence_has_confidence_1() -> None:
    assert _parse(f"{URL}\t5\t2:0.5").labels == Labels((2, 5), (0.5, 1.0))


def test_a_class_named_twice_has_the_greater_confidence() -> None:
    assert _parse(f"{URL}\t5:0.3\t5:0.8\t5:0.1").labels == Labels((5,), (0.8,))


def test_confidences_at_both_ends_of_the_range_are_kept() -> None:
    assert _parse(f"{URL}\t1:0\t2:1.0\t3:1e-3").labels.confidences == (0.0, 1.0, 0.001)


def test_a_canonical_line_parses_to_the_same_entry_and_stays_the_same() -> None:
    entry = _parse(f" {URL} \t5:0.30\t 2 \t7:0.1")
    assert format_line(entry) == f"{URL}\t2:1\t5:0.3\t7:0.1\n"
    assert _parse(format_line(entry).rstrip()) == entry


@pytest.mark.parametrize("text", ["nan", "-nan", "inf", "-0.1", "1.01", "high", "1,0", "0x1", "\u0661", "\uff11",
                                  "0_1", ".", "1e"])
def test_an_invalid_confidence_is_rejected_and_quoted(text: str) -> None:
    with pytest.raises(MalformedLine, match=f"confidence '{text}' is not a number from 0 to 1"):
        _parse(f"{URL}\t1:0.5\t2:{text}")


@pytest.mark.parametrize("index", ["10", "11166", "9999999999999999999999999"])
def test_a_class_outside_the_dictionary_is_rejected(index: str) -> None:
    with pytest.raises(MalformedLine, match=f"class {index} is not in the dictionary of 10 classes"):
        _parse(f"{URL}\t{index}:0.5")


@pytest.mark.parametrize("pair", ["-1:0.5", ":0.5", "2:", "cat:0.5", "1.0:0.5", "", "²:1"])
def test_an_invalid_pair_is_rejected_and_quoted(pair: str) -> None:
    with pytest.raises(MalformedLine, match="expected class:confidence, found") as error:
        _parse(f"{URL}\t{pair}\t1:1")
    assert repr(pair) in str(error.value)


@pytest.mark.parametrize("line", ["", URL, "\t1:1", "  \t1:1", "<!DOCTYPE html>"])
def test_a_line_without_an_image_or_labels_is_rejected(line: str) -> None:
    with pytest.raises(MalformedLine, match="expected an image and its labels"):
        _parse(line)


def test_control_characters_are_rejected() -> None:
    for character in ("\0", "\x1b", "\r", "\x0b", "\x7f", "\x80", "\x85", "\x9f"):
        with pytest.raises(MalformedLine, match="holds a control character"):
            _parse(f"http://images.example/{character}a.jpg\t1:1")


def test_invalid_utf8_is_rejected_with_its_position() -> None:
    with pytest.raises(MalformedLine, match="not UTF-8 at byte 7"):
        _parse(b"http://\xff.example/a.jpg\t1:1")


@pytest.mark.parametrize("source", ["n1/n1_2.JPEG", "n00000003/n00000004_1.JPEG", "../n00000003_1.JPEG", URL])
def test_an_invalid_imagenet_id_is_rejected(source: str) -> None:
    with pytest.raises(MalformedLine, match="expected an ImageNet id"):
        LineParser("imagenet", 10).parse(f"{source}\t1:1".encode(), 1)


def test_an_imagenet_id_is_parsed() -> None:
    entry = LineParser("imagenet", 10).parse(b"n00000003/n00000003_12.JPEG\t1:1", 4)
    assert entry == ListEntry(4, "n00000003/n00000003_12.JPEG", Labels((1,), (1.0,)))


def test_line_ends_and_a_byte_order_mark_make_no_difference(tmp_path: Path) -> None:
    lines = [f"{URL}\t1:1", f"{URL}?2\t2:0.5", f"{URL}?3\t3:0.5"]
    contents = ["\n".join(lines) + "\n", "\r\n".join(lines) + "\r\n", "\ufeff" + "\n".join(lines), " \t\n".join(lines)]
    for number, content in enumerate(contents):
        (tmp_path / str(number)).write_bytes(content.encode())
        assert [raw.decode() for _, raw in raw_lines(tmp_path / str(number))] == lines


@pytest.mark.parametrize("end", [b"\n", b""])
def test_a_line_of_10_mb_is_cut_and_the_next_line_has_the_right_number(tmp_path: Path, end: bytes) -> None:
    path = tmp_path / "list"
    with path.open("wb") as file:
        file.write(b"first\t1:1\n")
        for _ in range(160):
            file.write(b"x" * 65_536)
        file.write(end + b"next\t1:1\n")
    tracemalloc.start()
    kept = [(number, raw[:4], len(raw)) for number, raw in raw_lines(path)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    long = (2, b"xxxx", MAX_LINE_BYTES + 1)
    assert kept == [(1, b"firs", 9), long, *([(3, b"next", 8)] if end else [])]
    assert peak < 2**20


def test_a_line_that_is_too_long_is_rejected() -> None:
    longest = (f"{URL}\t1:0.".encode() + b"5" * MAX_LINE_BYTES)[:MAX_LINE_BYTES]
    assert _parse(longest).source == URL
    with pytest.raises(MalformedLine, match=f"longer than {MAX_LINE_BYTES} bytes"):
        _parse(longest + b"5")
    parser = LineParser("openimages", 10)
    assert parser.parse(b"http://".ljust(MAX_LINE_BYTES - 4, b"x") + b"\t1:1", 1).labels.classes == (1,)
    with pytest.raises(MalformedLine, match=f"longer than {MAX_LINE_BYTES} bytes"):
        parser.parse(b"http://".ljust(MAX_LINE_BYTES - 3, b"x") + b"\t1:1", 2)


def test_a_line_as_long_as_allowed_is_read(tmp_path: Path) -> None:
    for end in (b"\n", b""):
        (tmp_path / "list").write_bytes(b"x" * MAX_LINE_BYTES + end)
        lengths = [len(raw) for _, raw in raw_lines(tmp_path / "list")]
        assert lengths == [MAX_LINE_BYTES]


def test_every_part_and_origin_has_its_released_name() -> None:
    assert [list_file(part, origin) for part, origin, _ in LISTS] == [name for *_, name in LISTS]
    assert list_file("val", "openimages") == "val_urls_from_openimages.txt"


def test_a_changed_published_list_is_an_error_that_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text(f"{URL}\t1:1\n{URL}?2\t1:2\n")
    with pytest.raises(UserError, match=r"list, line 2: confidence '2' .*`dvc repro --single-item --force acquire`"):
        list(read_list(path, "openimages", 10))


def test_a_missing_published_list_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing is missing; run `dvc repro acquire`"):
        list(read_list(tmp_path / "nothing", "openimages", 10))


def test_a_long_line_is_rejected_also_if_it_is_cut_at_a_tab(tmp_path: Path) -> None:
    label = b"\t1:1"
    (tmp_path / "list").write_bytes(b"http://".ljust(MAX_LINE_BYTES - len(label), b"x") + label + b"\t2:1\n")
    [(number, raw)] = raw_lines(tmp_path / "list")
    with pytest.raises(MalformedLine):
        LineParser("openimages", 10).parse(raw, number)


def test_leading_zeros_do_not_change_a_class() -> None:
    assert _parse(f"{URL}\t00000000005:1").labels.classes == (5,)


@pytest.mark.parametrize("origin", ["openimages", "imagenet"])
def test_a_line_is_parsed_the_same_with_cached_and_new_pairs(origin: Origin) -> None:
    sources = [URL, f" {URL}", "n00000003/n00000003_1.JPEG", f"{URL}/\u00fc.jpg", "", f"{URL}/\0b", f"{URL}/a b",
               "http:///a.jpg", "HTTP://images.example", f"{URL} 1:1", "a.jpg"]
    pairs = ["1:1", "1:0.5", "2", " 2 ", "2:1.0", "007:.5", "7:5e-1", "9:-0", "10:1", "1:2", "", "x", "1:1:1", "3:nan"]
    rng = random.Random(0)  # noqa: S311
    lines = ["\t".join([rng.choice(sources), *rng.choices(pairs, k=rng.randrange(4))]) for _ in range(3000)]
    reused = LineParser(origin, 10)
    for number, line in enumerate(lines):
        assert _outcome(reused, line.encode(), number) == _outcome(LineParser(origin, 10), line.encode(), number)


def _outcome(parser: LineParser, raw: bytes, number: int) -> ListEntry | str:
    try:
        return parser.parse(raw, number)
    except MalformedLine as error:
        return str(error)


def test_the_cache_of_a_parser_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAX_PAIRS", 50)
    parser = LineParser("openimages", 10)
    for number in range(1000):
        assert parser.parse(f"{URL}\t1:0.{number:04d}".encode(), number).labels.confidences == (number / 10_000,)
        assert len(parser._pairs) <= 50


def test_a_negative_zero_is_zero() -> None:
    assert format_line(_parse(f"{URL}\t1:-0.0")) == f"{URL}\t1:0\n"


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n"])
def test_raw_lines_can_start_at_any_offset(tmp_path: Path, end: bytes) -> None:
    lengths = [0, 5, MAX_LINE_BYTES - 1, MAX_LINE_BYTES, MAX_LINE_BYTES + 1, MAX_LINE_BYTES + 2,
               2 * (MAX_LINE_BYTES + 1), 200_000, 0, 1]
    path = tmp_path / "list"
    path.write_bytes(b"\n".join(bytes([97 + number]) * length for number, length in enumerate(lengths)) + end)
    whole = list(raw_lines(path))
    for every in (1, 2, 3, 100):
        starts = list(line_offsets(path, every))
        assert len(starts) == -(-len(whole) // every)
        for number, offset in enumerate(starts):
            assert list(raw_lines(path, number * every + 1, offset)) == whole[number * every:]


def test_line_offsets_take_little_memory_for_a_line_of_10_mb(tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"x" * 10_000_000 + b"\nnext\n")
    tracemalloc.start()
    assert list(line_offsets(tmp_path / "list")) == [0, 10_000_001]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20
