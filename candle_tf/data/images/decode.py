"""Encoded image bytes to RGB pixels.

    pixels = decode_image(Path("cat.jpg").read_bytes(), "cat.jpg")   # uint8 [H, W, 3]

All sources use it, so the same bytes give the same pixels from a folder and from an archive.
"""

import io

import numpy as np
from PIL import Image

from candle_tf.data.images.heif import find_heif_kind, read_avif_orientation, require_decoder
from candle_tf.data.images.metadata import drop_metadata, is_cut_off
from candle_tf.data.images.orientation import read_orientation, read_tiff_orientation, upright
from candle_tf.errors import UserError

# A part of the key of every cache of decoded images: raise it with every change of the pixels that
# `decode_image` gives, or of what it refuses. tests/data/images/test_version.py compares them with
# a fingerprint stored for this version.
DECODE_VERSION = 6

# 89,478,485 pixels, 268 MB as RGB: above it Pillow itself warns of a decompression bomb.
MAX_PIXELS = 1024**3 // 4 // 3

# Bytes of pixels per byte of the file. A large image with a higher ratio has one colour, or is a
# bomb; a photograph has about 10.
MAX_RATIO = 500
_RATIO_FREE_PIXELS = 2**24

# Only these decoders run, whatever format the bytes claim; and of HEIC or AVIF its own.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
# Needed as Image.open does not load decoders when it is given a list of formats.
Image.init()


def decode_image(data: bytes, origin: str) -> np.ndarray:
    """Decodes one JPEG, PNG, WebP, BMP, GIF, AVIF or, with pillow-heif, HEIC image.

    The EXIF orientation is applied, other metadata is not used. Grey, palette and CMYK images
    become RGB (colour profiles are not applied, and Adobe's inverted CMYK is recognised by its
    marker). 16-bit images become 8 bit: grey is rounded, colours keep their upper byte.
    Transparency is composited on white, but for the one transparent colour of a 16-bit PNG, which
    is not used. Of an animation the first frame is used.

    Args:
        data: The whole encoded file.
        origin: Where the bytes came from, for messages.

    Returns:
        uint8 [H, W, 3], RGB, 0..255, writable.

    Raises:
        UserError: If the data has another format, or one whose decoder is not installed, is damaged
            or truncated, has more than `MAX_PIXELS` pixels, or over 16 million with a ratio above
            `MAX_RATIO`.
    """
    kind = find_heif_kind(data)
    formats = (require_decoder(kind, origin),) if kind else _FORMATS
    try:
        with Image.open(io.BytesIO(drop_metadata(data)), formats=formats) as image:
            _refuse_bomb(image.size, len(data), origin)
            image.load()
            if is_cut_off(data):
                raise OSError("image file is truncated: it has no end")
            avif = kind == "AVIF"
            orientation = read_avif_orientation(image) if avif else read_orientation(data)
            return np.array(_to_rgb(upright(image, orientation)))
    except UserError:
        raise
    # Decoders raise almost anything on damaged bytes, also TypeError, KeyError and MemoryError.
    except Exception as error:
        raise UserError(
            f"{origin}: not a readable image ({_reason(error, data, formats)}): "
            "replace the file or take it out of the data set."
        ) from error


def convert_image(image: Image.Image, origin: str) -> np.ndarray:
    """The pixels of Pillow's image, as `decode_image` gives them of its file.

    The EXIF orientation that the image still has is applied; the image itself stays as it is.

    Args:
        image: as opened, or of any mode but F (numbers without a range).
        origin: what it is, for messages.

    Returns:
        uint8 [H, W, 3], RGB, 0..255, writable.

    Raises:
        UserError: for an image without pixels, of more than `MAX_PIXELS`, of a mode that has no
            RGB, or whose file is damaged.
    """
    width, height = image.size
    if not 0 < width * height <= MAX_PIXELS:
        raise UserError(
            f"{origin}: {width} x {height} pixels; give an image of 1 to {MAX_PIXELS:,}."
        )
    if image.mode == "F":
        raise UserError(f"{origin}: mode F has no range of values; give mode RGB or L.")
    try:
        # Before the rest is read: what a PNG says behind its pixels is not used.
        orientation = _orientation_of(image)
        image.load()
        return np.array(_to_rgb(upright(_without_wide_opacity(image), orientation)))
    except Exception as error:  # as above
        raise UserError(
            f"{origin}: no readable image of mode {image.mode} ({type(error).__name__}: {error}): "
            "give one that can be converted to RGB."
        ) from error


def _orientation_of(image: Image.Image) -> int:
    """The EXIF orientation of an opened image, by the rules of `read_orientation`."""
    if image.format == "AVIF":
        return read_avif_orientation(image)
    return read_tiff_orientation(image.info.get("exif") or b"")


def _without_wide_opacity(image: Image.Image) -> Image.Image:
    """Without the one transparent colour of 16 bits, which Pillow compares with those of 8."""
    colour = image.info.get("transparency")
    if not isinstance(colour, tuple) or max(colour) < 256:
        return image
    copy = image.copy()
    del copy.info["transparency"]
    return copy


def _refuse_bomb(size: tuple[int, int], encoded: int, origin: str) -> None:
    width, height = size
    pixels = width * height
    if pixels > MAX_PIXELS:
        raise UserError(
            f"{origin}: {width} x {height} is more than {MAX_PIXELS:,} pixels: "
            "make the image smaller or take it out of the data set."
        )
    if pixels > _RATIO_FREE_PIXELS and 3 * pixels > MAX_RATIO * encoded:
        raise UserError(
            f"{origin}: {encoded:,} bytes hold {width} x {height} pixels, over {MAX_RATIO} times "
            "as many bytes: make the image smaller or take it out of the data set."
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    """The image in mode RGB, composited on white where it is transparent."""
    if image.mode.startswith("I"):
        # Pillow's own conversion clips at 255 instead of scaling.
        wide = np.asarray(image).astype(np.float64)
        grey = np.clip(np.rint(wide / 257.0), 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _reason(error: BaseException, data: bytes, formats: tuple[str, ...]) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        known = [name for name in formats if _begins_as(name, data)]
        return f"damaged {known[0]} data" if known else "no JPEG, PNG, WebP, BMP or GIF data"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _begins_as(name: str, data: bytes) -> bool:
    """Whether the first bytes are those of a format, in Pillow's opinion."""
    accept = Image.OPEN[name][1]
    return accept is not None and bool(accept(data[:16]))
