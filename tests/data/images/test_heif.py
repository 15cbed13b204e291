"""HEIC and AVIF: decoded where a decoder is installed, and else told which package is missing."""

import importlib
import io

import numpy as np
import pytest
from PIL import Image

from candle_tf.data.images import heif
from candle_tf.data.images.decode import MAX_PIXELS, decode_image
from candle_tf.data.images.heif import find_decoders, find_heif_kind
from candle_tf.data.images.scan import scan_images
from candle_tf.data.sources.registry import open_source
from candle_tf.errors import UserError

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
# The kinds by Pillow's name, with options for a file that loses little.
KINDS = {"AVIF": {"quality": 100, "subsampling": "4:4:4"}, "HEIF": {"quality": -1}}


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    if request.param not in find_decoders().values():
        pytest.skip(f"no decoder for {request.param} is installed")
    return request.param


def quarters() -> np.ndarray:
    """A wide image with another colour in each quarter, uint8 [48, 80, 3]."""
    pixels = np.zeros((48, 80, 3), np.uint8)
    pixels[:24, :40], pixels[:24, 40:] = (220, 30, 30), (30, 220, 30)
    pixels[24:, :40], pixels[24:, 40:] = (30, 30, 220), (220, 220, 30)
    return pixels


def encode(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **{**KINDS[kind], **options})
    return buffer.getvalue()


def test_pixels_are_those_of_the_image(kind):
    data = encode(quarters(), kind)
    assert find_heif_kind(data) == {"AVIF": "AVIF", "HEIF": "HEIC"}[kind]
    decoded = decode_image(data, "x")
    assert decoded.dtype == np.uint8
    assert decoded.flags.writeable
    assert np.abs(decoded.astype(int) - quarters()).mean() < 2


def test_the_top_is_up(kind):
    """Rotated as a telephone stores it: by a property of the file, not by EXIF."""
    exif = Image.Exif()
    exif[0x0112] = 6
    decoded = decode_image(encode(quarters(), kind, exif=exif.tobytes()), "x")
    assert decoded.shape == (80, 48, 3)
    assert np.abs(decoded.astype(int) - np.rot90(quarters(), -1)).mean() < 2


def test_transparency_is_on_white(kind):
    pixels = np.dstack([quarters(), np.zeros((48, 80), np.uint8)])
    assert (decode_image(encode(pixels, kind), "x") > 250).all()


def test_a_damaged_file_is_named(kind):
    data = encode(quarters(), kind)
    for damaged in (data[: len(data) // 2], data[:40], data[:12]):
        with pytest.raises(UserError, match=r"^a/b: not a readable image \(\w"):
            decode_image(damaged, "a/b")


def test_a_folder_of_them_is_a_data_set(tmp_path, kind):
    ending = {"AVIF": "avif", "HEIF": "HEIC"}[kind]
    for label in ("ant", "bee"):
        (tmp_path / "data" / label).mkdir(parents=True)
        (tmp_path / "data" / label / f"1.{ending}").write_bytes(encode(quarters(), kind))
    with open_source("folder", str(tmp_path / "data")) as source:
        assert source.train.ids == (f"ant/1.{ending}", f"bee/1.{ending}")
        assert source.read_image(source.train.ids[0]).shape == (48, 80, 3)


@pytest.mark.parametrize(
    ("kind", "data", "remedy"),
    [
        ("HEIC", HEIC, "python -m pip install pillow-heif"),
        ("HEIC", b"\0\0\0\x18ftypmif1\0\0\0\0mif1miaf", "python -m pip install pillow-heif"),
        ("AVIF", b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", "'pillow>=11.3', or pillow-avif-plugin"),
    ],
)
def test_a_missing_decoder_is_told(without_decoders, kind, data, remedy):  # noqa: ARG001
    with pytest.raises(UserError) as refusal:
        decode_image(data, "a/b.heic")
    message = str(refusal.value)
    assert message.startswith(f"a/b.heic: {kind} images need a package that is not installed (")
    assert remedy in message
    assert message.endswith("install it, or convert the image to JPEG or PNG.")


@pytest.fixture
def without_decoders(monkeypatch):
    """As if neither plugin were installed, and Pillow were built without AVIF."""

    def refuse(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", refuse)
    monkeypatch.setattr(heif.features, "check", lambda _: False)
    find_decoders.cache_clear()
    yield
    find_decoders.cache_clear()


def test_images_are_read_again_once_their_decoder_is_installed(tmp_path, monkeypatch):
    if not find_decoders()["AVIF"]:
        pytest.skip("no decoder for AVIF is installed")
    for label in ("ant", "bee"):
        (tmp_path / "data" / label).mkdir(parents=True)
        (tmp_path / "data" / label / "1.avif").write_bytes(encode(quarters(), "AVIF"))
    with open_source("folder", str(tmp_path / "data")) as source:
        ids = source.train.ids
        with monkeypatch.context() as patch:
            patch.setattr(heif.features, "check", lambda _: False)
            find_decoders.cache_clear()
            assert scan_images(source, ids, tmp_path / "cache").bad == ids
        find_decoders.cache_clear()
        assert scan_images(source, ids, tmp_path / "cache").bad == ()


@pytest.mark.parametrize(
    "data", [b"", b"ftyp", b"\0\0\0\x18ftypisom\0\0\0\0mp41isom", b"\xff" * 99]
)
def test_other_bytes_are_neither(data):
    assert find_heif_kind(data) == ""


def test_a_bomb_is_refused_before_it_is_decoded(kind, monkeypatch):
    monkeypatch.setattr("candle_tf.data.images.decode.MAX_PIXELS", 48 * 80 - 1)
    assert MAX_PIXELS > 48 * 80
    with pytest.raises(UserError, match="80 x 48 is more than"):
        decode_image(encode(quarters(), kind), "x")
