"""The arithmetic of costs and scale agrees with what was published, and with what must hold of it."""

import dataclasses

import pytest

from mlimages.plots import costs
from mlimages.plots.costs import Cluster, Collection

SMALL = Collection(downloaded=1000, archived=500, downloaded_bytes=300.0, archived_bytes=100.0, share_ok=0.9)
CLUSTER = Cluster(images_per_second=100.0, batch=50, gradient_bytes=200e6, link_bytes_per_second=1e9, hop_seconds=0.0,
                  pack_bytes=50e6, overlap=0.0, record_bytes=1000.0, images_per_second_per_core=200.0)


def test_the_published_training_is_25_images_a_second_and_device() -> None:
    images = 10_706_941 + 6_902_811
    each = costs.implied_images_per_second(images, epochs=60, hours=90, devices=128)
    assert each == pytest.approx(25.5, abs=0.05)
    assert costs.training_hours(images, epochs=60, images_per_second=each * 128) == pytest.approx(90)


def test_storage_counts_what_is_still_there_and_records_as_they_are_kept_or_made_smaller() -> None:
    kept = costs.storage(SMALL, label_bytes=10.0)
    assert (kept.archive, kept.shards, kept.records) == (50_000, 270_000, 320_000 + 14_000)
    assert kept.total == 654_000
    assert costs.storage(SMALL, label_bytes=10.0, record_image_bytes=20.0).records == 1400 * 30


@pytest.mark.parametrize(("rate", "connections", "machine", "hours"), [
    (10.0, 100, 1000.0, 1000 / 10 / 3600), (1000.0, 2, 1000.0, 1000 / 20 / 3600), (1000.0, 100, 5.0, 1000 / 5 / 3600)])
def test_a_download_is_as_fast_as_the_narrowest_of_rate_connections_and_machine(rate: float, connections: int,
                                                                                machine: float, hours: float) -> None:
    assert costs.download_hours(SMALL, requests_per_second=rate, connections=connections, seconds_per_answer=0.1,
                                images_per_second=machine) == pytest.approx(hours)


def test_one_replica_exchanges_nothing_and_many_send_almost_twice_the_gradients() -> None:
    alone = costs.scale(CLUSTER, 1)
    assert (alone.sent_bytes, alone.exchange_seconds, alone.efficiency) == (0, 0, 1)
    assert alone.images_per_second == 100
    assert costs.ring_bytes(200e6, 1000) == pytest.approx(400e6, rel=0.002)


def test_the_exchange_costs_what_the_backward_pass_does_not_hide() -> None:
    open_, hidden = costs.scale(CLUSTER, 2), costs.scale(dataclasses.replace(CLUSTER, overlap=1.0), 2)
    assert open_.exposed_seconds == open_.exchange_seconds == pytest.approx(0.2)
    assert open_.efficiency == pytest.approx(0.5 / 0.7)
    assert hidden.exposed_seconds == 0
    assert hidden.images_per_second == 200


def test_more_replicas_are_never_more_efficient_but_need_more_of_the_storage() -> None:
    some = costs.scales(dataclasses.replace(CLUSTER, hop_seconds=1e-4), [1, 8, 64, 128])
    efficiencies = [one.efficiency for one in some]
    assert efficiencies == sorted(efficiencies, reverse=True)
    assert some[-1].read_bytes_per_second > some[0].read_bytes_per_second
    assert some[0].cores_per_replica == 0.5
