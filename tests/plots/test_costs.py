"""The estimates of costs and scaling agree with the published training, and with hand-computed examples."""

import dataclasses

import pytest

from mlimages.plots.scaling import costs
from mlimages.plots.scaling.costs import DatasetVolume, ScalingModel

SMALL = DatasetVolume(downloaded=1000, archived=500, downloaded_bytes=300.0, archived_bytes=100.0, share_ok=0.9)
MODEL = ScalingModel(images_per_second=100.0, batch=50, gradient_bytes=200e6, link_bytes_per_second=1e9,
                     hop_seconds=0.0, message_bytes=50e6, overlap=0.0, record_bytes=1000.0,
                     images_per_second_per_core=200.0)


def test_the_published_training_is_25_images_a_second_and_device() -> None:
    images = 10_706_941 + 6_902_811
    each = costs.images_per_second(images, epochs=60, hours=90, devices=128)
    assert each == pytest.approx(25.5, abs=0.05)
    assert costs.training_hours(images, epochs=60, images_per_second=each * 128) == pytest.approx(90)


def test_storage_counts_live_urls_and_records_with_original_or_smaller_images() -> None:
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


def test_one_replica_sends_nothing_and_many_send_almost_twice_the_gradients() -> None:
    alone = MODEL.step(1)
    assert (alone.sent_bytes, alone.all_reduce_seconds, alone.efficiency) == (0, 0, 1)
    assert alone.images_per_second == 100
    assert MODEL.step(1000).sent_bytes == pytest.approx(400e6, rel=0.002)


def test_the_all_reduce_costs_the_time_that_the_backward_pass_does_not_hide() -> None:
    exposed, hidden = MODEL.step(2), dataclasses.replace(MODEL, overlap=1.0).step(2)
    assert exposed.exposed_seconds == exposed.all_reduce_seconds == pytest.approx(0.2)
    assert exposed.efficiency == pytest.approx(0.5 / 0.7)
    assert hidden.exposed_seconds == 0
    assert hidden.images_per_second == 200


def test_more_replicas_are_never_more_efficient_but_need_more_of_the_storage() -> None:
    slow = dataclasses.replace(MODEL, hop_seconds=1e-4)
    steps = [slow.step(replicas) for replicas in (1, 8, 64, 128)]
    efficiencies = [step.efficiency for step in steps]
    assert efficiencies == sorted(efficiencies, reverse=True)
    assert steps[-1].read_bytes_per_second > steps[0].read_bytes_per_second
    assert steps[0].cores_per_replica == 0.5
