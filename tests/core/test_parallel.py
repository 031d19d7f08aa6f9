"""The map over threads keeps the order, limits the units that have begun, and ends at the first error."""

import dataclasses
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from mlimages.core.errors import UserError
from mlimages.core.parallel import map_units, open_worker_pool, ordered_map
from mlimages.core.params import Machine


def test_results_have_the_order_of_the_units() -> None:
    last = threading.Event()

    def work(unit: int) -> int:
        if unit == 0:
            assert last.wait(20), "the later units must run while the first one is waited for"
        if unit == 7:
            last.set()
        return unit * unit

    assert list(ordered_map(work, range(8), workers=8, window=8)) == [n * n for n in range(8)]


def test_at_most_the_window_is_begun_and_not_yet_yielded() -> None:
    taken = 0

    def units() -> Iterator[int]:
        nonlocal taken
        for unit in range(100):
            taken += 1
            yield unit

    leads = [taken - yielded for yielded, _ in enumerate(ordered_map(abs, units(), workers=2, window=5))]
    assert len(leads) == 100
    assert max(leads) <= 6  # five have begun, and one waits


def test_as_many_units_run_at_once_as_there_are_workers() -> None:
    barrier = threading.Barrier(4)
    assert len(list(ordered_map(lambda _: barrier.wait(20), range(8), workers=4, window=8))) == 8


def test_the_first_error_is_raised_after_the_results_before_it_and_nothing_later_begins() -> None:
    begun = []

    def work(unit: int) -> int:
        begun.append(unit)
        if unit == 3:
            raise ZeroDivisionError("unit 3")
        return unit

    results = []
    with pytest.raises(ZeroDivisionError, match="unit 3"):
        for result in ordered_map(work, range(1000), workers=1, window=4):
            results.append(result)
    assert results == [0, 1, 2]
    assert max(begun) <= 7


def test_an_error_in_the_units_is_raised() -> None:
    def units() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(ordered_map(abs, units(), workers=2, window=2))


def test_a_map_that_is_closed_early_cancels_units_that_have_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    under_way, cancelled = threading.Event(), threading.Semaphore(0)
    cancel = Future.cancel

    def counted(future: Future[int]) -> bool:
        cancelled.release()
        return cancel(future)

    def work(unit: int) -> int:
        begun.append(unit)
        if unit == 1:  # it runs when the map is closed, and ends after the eight units behind it are cancelled
            under_way.set()
            for _ in range(8):
                cancelled.acquire(timeout=2)
        return unit

    monkeypatch.setattr(Future, "cancel", counted)
    results = ordered_map(work, range(1000), workers=1, window=10)
    next(results)
    assert under_way.wait(20)
    results.close()  # type: ignore[attr-defined]
    assert begun == [0, 1]


def test_no_units_give_no_results() -> None:
    assert list(ordered_map(abs, [], workers=2, window=2)) == []


def test_without_ray_the_error_says_what_to_install(machine: Machine,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    on_ray = dataclasses.replace(machine, engine="ray")
    with pytest.raises(UserError, match="pip install -r requirements-ray.txt"):
        list(map_units(abs, [1], machine=on_ray, ahead=1))
    with pytest.raises(UserError, match="pip install -r requirements-ray.txt"), open_worker_pool(lambda: abs, on_ray):
        pytest.fail("it began")


def test_the_address_of_a_ray_cluster_that_does_not_answer_is_reported(machine: Machine) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install -r requirements-ray.txt")
    nowhere = dataclasses.replace(machine, engine="ray", ray_address="127.0.0.1:9")
    with pytest.raises(UserError, match=r"nothing listens at machine.ray_address = 127.0.0.1:9 .* `ray start --head"):
        list(map_units(abs, [1], machine=nowhere, ahead=1))
