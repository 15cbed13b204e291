"""HEIC and AVIF images: recognised by their first bytes, decoded where a decoder is installed.

    kind = find_heif_kind(data)                     # "HEIC", "AVIF" or ""
    image = Image.open(file, formats=[require_decoder(kind, "cat.heic")])

Both are kinds of one container (ISO/IEC 23008-12). Pillow decodes AVIF itself since version 11.3,
HEIC with the plugin pillow-heif. The graph of an exported model decodes neither.
"""

import functools
import importlib
from typing import Any

from PIL import Image, features

from candle_tf.errors import UserError

_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_AVIF_BRANDS = (b"avif", b"avis")
_NEUTRAL_BRANDS = (b"mif1", b"msf1")
_ORIENTATION = 0x0112

_REMEDIES = {
    "HEIC": "python -m pip install pillow-heif",
    "AVIF": "python -m pip install 'pillow>=11.3', or pillow-avif-plugin",
}


def find_heif_kind(data: bytes) -> str:
    """The kind by the brands in a file's first box: "HEIC", "AVIF", or "" for other bytes."""
    if data[4:8] != b"ftyp":
        return ""
    end = min(int.from_bytes(data[:4], "big"), 256)
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, end, 4))]
    for brand in brands:
        if brand in _AVIF_BRANDS:
            return "AVIF"
        if brand in _HEIC_BRANDS:
            return "HEIC"
    return "HEIC" if brands[0] in _NEUTRAL_BRANDS else ""


def require_decoder(kind: str, origin: str) -> str:
    """Pillow's name of the format, for `Image.open`.

    Args:
        kind: "HEIC" or "AVIF".
        origin: where the image came from, for messages.

    Raises:
        UserError: where no decoder is installed; names the package.
    """
    name = find_decoders()[kind]
    if not name:
        raise UserError(
            f"{origin}: {kind} images need a package that is not installed "
            f"({_REMEDIES[kind]}): install it, or convert the image to JPEG or PNG."
        )
    return name


@functools.cache
def find_decoders() -> dict[str, str]:
    """Pillow's names of both formats, by kind; "" where no decoder is installed."""
    heif = _import("pillow_heif")
    if heif is not None:
        heif.register_heif_opener()
    has_avif = features.check("avif") or _import("pillow_avif") is not None
    return {"HEIC": "HEIF" if heif is not None else "", "AVIF": "AVIF" if has_avif else ""}


def read_avif_orientation(image: Image.Image) -> int:
    """The orientation as EXIF counts, which Pillow makes of an AVIF's rotation; 1 where unreadable.

    (pillow-heif gives a HEIC image upright.)
    """
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged metadata is no reason to refuse an image
        return 1


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
