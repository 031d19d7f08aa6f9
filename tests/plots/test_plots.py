"""The plots and tables of downloads unlike the demo's."""

from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from mlimages.core.publish import write_csv
from mlimages.download.ledger import LedgerRow, Reason, write_ledger
from mlimages.download.run import REASONS
from mlimages.download.shards import ledger_path, shard_path, write_shard
from mlimages.plots import downloads


def write_images(out: Path, rows: list[LedgerRow]) -> None:
    """The files of a download that its plots read."""
    shard = shard_path(out, "train", 0)
    write_shard(shard, [])
    write_ledger(ledger_path(shard), rows)
    write_csv(out / REASONS, ("part", "reason", "lines", "meaning"), [("train", row.reason, 1, "") for row in rows])


@pytest.mark.parametrize("rows", [[], [LedgerRow(1, "http://gone.example/1.jpg", "train-00000001", Reason.DNS)]])
def test_a_download_without_any_image_is_shown(tiny_lists: Path, tmp_path: Path, rows: list[LedgerRow],
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path, rows)
    downloads.failures(tmp_path)
    downloads.hosts(tmp_path)
    downloads.contact_sheet(tmp_path, tiny_lists)
    downloads.image_bytes(tmp_path)
    assert capsys.readouterr().out == ("Downloaded images: there are none\n"
                                       "Size of the downloaded images: there are none\n")
    plt.close("all")


def test_an_image_that_came_for_many_urls_is_named(tmp_path: Path) -> None:
    # The second one differs from the first only beyond the bits that are counted first.
    often, seldom = (f"{7:016x}{end:048x}" for end in (0, 1))
    digests = [often] * 12 + [seldom] * 9 + [f"{number:016x}{0:048x}" for number in range(8, 100)]
    rows = [LedgerRow(line, f"http://a.example/{line}.jpg", "", Reason.OK, bytes=5453, sha256=digest)
            for line, digest in enumerate(digests, start=1)]
    write_images(tmp_path, rows)
    repeated = downloads.repeated_images(tmp_path)
    assert list(repeated.columns) == ["list lines", "bytes", "one of the URLs"]
    assert repeated.reset_index().values.tolist() == [[often, "12", "5,453", "http://a.example/1.jpg"]]
    write_images(tmp_path, rows[3:])
    assert downloads.repeated_images(tmp_path).empty


@pytest.mark.parametrize("sizes", [(3100, 4900), (900, 40_000), (300, 33_000_000)])
def test_the_size_labels_of_the_axis_do_not_overlap(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    write_images(tmp_path, [LedgerRow(line, "", "", Reason.OK, bytes=size) for line, size in enumerate(sizes)])
    downloads.image_bytes(tmp_path)
    canvas = FigureCanvasAgg(plt.gcf())
    canvas.draw()
    left, right = plt.gca().get_xlim()
    shown = [text for minor in (False, True) for text in plt.gca().xaxis.get_ticklabels(minor=minor)
             if text.get_text() and left <= text.get_position()[0] <= right]
    boxes = sorted((text.get_window_extent().x0, text.get_window_extent().x1) for text in shown)
    assert 3 <= len(boxes) <= 12
    assert all(before + 4 < after for (_, before), (after, _) in zip(boxes, boxes[1:], strict=False))
    plt.close("all")
