"""The stages download and convert accept the same pictures."""

import pytest
import tensorflow as tf
from tests.images.crafted import HEIGHT, OK, VERDICTS

from mlimages.convert.encode_image import to_jpeg
from mlimages.download.check_image import Limits, check_image
from mlimages.download.http.address_guard import Failure
from mlimages.images.decode import Undecodable

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow warns of damaged metadata
LIMITS = Limits(2**31, 100_000_000)


def verdict_of_download(body: bytes, shorter_side: int | None) -> tuple[str, bytes]:
    """The verdict, and the picture that is kept or the detail of the failure."""
    try:
        return OK, check_image(body, limits=LIMITS, shorter_side=shorter_side, quality=90).body
    except Failure as failure:
        return str(failure.reason), failure.detail.encode()


def verdict_of_convert(body: bytes, *, shorter_side: int | None, to_srgb: bool) -> str:
    """The verdict. An accepted picture must decode as in training."""
    try:
        jpeg = to_jpeg(body, quality=90, shorter_side=shorter_side, to_srgb=to_srgb)
    except Undecodable as error:
        assert " at 0x" not in error.detail
        return str(error.reason)
    assert tf.io.decode_jpeg(jpeg.body).shape[:2] == (jpeg.height, jpeg.width)
    return OK


@pytest.mark.parametrize("name", VERDICTS)
def test_download_and_convert_agree(name: str) -> None:
    body, expected = VERDICTS[name]
    verdict, kept = verdict_of_download(body, None)
    assert verdict == expected, kept
    for shorter_side in (None, HEIGHT):  # at its own size
        for to_srgb in (False, True):
            assert verdict_of_convert(body, shorter_side=shorter_side, to_srgb=to_srgb) == expected
    if name != "too long for a JPEG":  # the downscaled picture is not too long
        smaller, kept = verdict_of_download(body, 16)
        assert smaller == expected, kept
        assert verdict_of_convert(body, shorter_side=16, to_srgb=False) == expected
        if smaller == OK:
            assert verdict_of_convert(kept, shorter_side=None, to_srgb=False) == OK
