"""A subset of the lists is reproducible, nested in larger ones, and includes descendants of the chosen classes."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from mlimages.acquire.formats import LISTS, STATISTICS, read_list
from mlimages.acquire.run import acquire
from mlimages.core.errors import UserError
from mlimages.core.params import Acquire, Machine
from mlimages.core.publish import MANIFEST

TRAIN_URLS, VAL_URLS = LISTS[1].name, LISTS[3].name
URL = "http://images.example/{}.jpg"


@pytest.fixture
def many(from_release: Acquire, release: Path) -> Acquire:
    """The release with 2,000 training and 1,000 validation URLs; classes 2, 3 and 4 in turn."""
    for name, lines in ((TRAIN_URLS, 2000), (VAL_URLS, 1000)):
        (release / name).write_text("".join(f"{URL.format(number)}\t{2 + number % 3}:0.9\n"
                                            for number in range(lines)))
    return from_release


def _taken(out: Path, name: str = TRAIN_URLS) -> list[str]:
    return [entry.source for entry in read_list(out / name, "openimages", 5)]


def _statistics(out: Path, name: str = TRAIN_URLS) -> dict[str, Any]:
    return json.loads((out / STATISTICS).read_text())["lists"][name]


def test_a_limit_takes_the_first_lines_of_each_list(many: Acquire, machine: Machine, tmp_path: Path) -> None:
    out = acquire(dataclasses.replace(many, limit=3), machine, out=tmp_path / "lists")
    assert _taken(out) == _taken(out, VAL_URLS) == [URL.format(number) for number in range(3)]
    assert _statistics(out)["images"] == 3


def test_with_a_limit_the_malformed_fraction_is_still_of_the_whole_list(many: Acquire, machine: Machine, release: Path,
                                                                        tmp_path: Path) -> None:
    lines = (release / TRAIN_URLS).read_text().splitlines()
    (release / TRAIN_URLS).write_text("\n".join(["no labels", *lines[1:]]) + "\n")
    out = acquire(dataclasses.replace(many, limit=3), machine, out=tmp_path / "lists")
    assert _taken(out) == [URL.format(number) for number in (1, 2, 3)]
    assert _statistics(out)["malformed_lines"] == 1


def test_a_sample_takes_its_fraction_of_each_list(many: Acquire, machine: Machine, tmp_path: Path) -> None:
    out = acquire(dataclasses.replace(many, sample=0.25), machine, out=tmp_path / "lists")
    assert 420 < len(_taken(out)) < 580  # 500, plus or minus four standard deviations
    assert len(_taken(out)) + _statistics(out)["not_selected_lines"] == 2000
    everything = acquire(dataclasses.replace(many, sample=1.0), machine, out=tmp_path / "all")
    assert len(_taken(everything)) == 2000


def test_a_sample_is_reproducible_and_nested_in_a_larger_one(many: Acquire, machine: Machine,
                                                                             tmp_path: Path) -> None:
    def take(name: str, **changes: Any) -> Path:
        return acquire(dataclasses.replace(many, **changes), machine, out=tmp_path / name)

    tenth = take("tenth", sample=0.1)
    assert (take("again", sample=0.1) / MANIFEST).read_bytes() == (tenth / MANIFEST).read_bytes()
    assert set(_taken(tenth)) < set(_taken(take("fifth", sample=0.2)))
    other = set(_taken(take("other", sample=0.1, seed=1)))
    assert len(other & set(_taken(tenth))) < len(other) / 2


def test_classes_include_their_descendants(many: Acquire, machine: Machine, tmp_path: Path) -> None:
    def classes(*wnids: str) -> set[int]:
        out = acquire(dataclasses.replace(many, classes=list(wnids)), machine, out=tmp_path / "-".join(wnids))
        return {entry.labels.classes[0] for entry in read_list(out / TRAIN_URLS, "openimages", 5)}

    assert classes("n00000002") == {2, 3}  # animal: cat and dog
    assert classes("n00000003") == {2}
    assert classes("n00000003", "n00000005") == {2, 4}
    assert classes("n00000001") == {2, 3, 4}  # thing: everything


def test_a_limit_counts_only_selected_lines(many: Acquire, machine: Machine, tmp_path: Path) -> None:
    out = acquire(dataclasses.replace(many, classes=["n00000005"], limit=2), machine, out=tmp_path / "lists")
    assert _taken(out) == [URL.format(number) for number in (2, 5)]


def test_an_unknown_class_is_an_error_that_names_the_nearest(many: Acquire, machine: Machine,
                                                                     tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"acquire\.classes names n0000003, .* 5 classes; the nearest is n00000003"):
        acquire(dataclasses.replace(many, classes=["n0000003"]), machine, out=tmp_path / "lists")


def test_a_subset_without_images_of_a_part_is_an_error(many: Acquire, machine: Machine, release: Path,
                                                         tmp_path: Path) -> None:
    (release / VAL_URLS).write_text(f"{URL.format(0)}\t4:1\n")
    (release / LISTS[2].name).unlink()
    with pytest.raises(UserError, match=r"no line of the part `val` is left: .*acquire\.classes = \['n00000002'\]"):
        acquire(dataclasses.replace(many, classes=["n00000002"]), machine, out=tmp_path / "lists")
    assert not (tmp_path / "lists").exists()


def test_missing_ancestors_are_added_with_the_highest_confidence_of_their_descendants(
        from_release: Acquire, machine: Machine, release: Path, tmp_path: Path) -> None:
    (release / TRAIN_URLS).write_text(f"{URL.format(0)}\t2:0.5\t3:0.7\n{URL.format(1)}\t2:0.9\t1:0.3\n"
                                      f"{URL.format(2)}\t2:0.7\t3:0.5\n{URL.format(3)}\t0:0.1\t2:0.9\t1:0.2\n")
    out = acquire(dataclasses.replace(from_release, complete_ancestors=True), machine, out=tmp_path / "lists")
    assert (out / TRAIN_URLS).read_text() == (
        f"{URL.format(0)}\t0:0.7\t1:0.7\t2:0.5\t3:0.7\n{URL.format(1)}\t0:0.9\t1:0.3\t2:0.9\n"
        f"{URL.format(2)}\t0:0.7\t1:0.7\t2:0.7\t3:0.5\n{URL.format(3)}\t0:0.1\t1:0.2\t2:0.9\n")
    assert _statistics(out)["ancestors_added"] == 5
    assert _statistics(out)["labels_per_image"] == {"3": 2, "4": 2}
    plain = acquire(from_release, machine, out=tmp_path / "plain")
    assert _statistics(plain)["ancestors_added"] == 0
