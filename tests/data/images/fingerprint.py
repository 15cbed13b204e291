"""The fingerprint of stored images; `python -m tests.data.images.fingerprint` stores it."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from candle_tf.data.images import decode
from candle_tf.data.images import store as image_store
from candle_tf.data.images.decode import decode_image
from candle_tf.data.images.store import image_aspect, stretch
from tests.fingerprints import Fingerprint, block_means, store

PATH = Path(__file__).with_suffix(".json")
CONSTANT = "STORE_VERSION in candle_tf/data/images/store.py (DECODE_VERSION in decode.py)"
HEIGHT, WIDTH, SIDE = 24, 40, 32


def encode_files() -> dict[str, bytes]:
    """Files of each format and colour mode that decoding treats differently."""
    y, x = np.meshgrid(np.arange(HEIGHT) / HEIGHT, np.arange(WIDTH) / WIDTH, indexing="ij")
    waves = [127.5 + 120 * np.sin(a * x + b * y) for a, b in ((3, 5), (7, -2), (5, 4), (-6, 1))]
    rgba = np.stack(waves, axis=-1).astype(np.uint8)
    rgb = Image.fromarray(rgba[..., :3])
    turned = Image.Exif()
    turned[0x0112] = 6  # shown rotated by 90 degrees
    grey16 = Image.fromarray((256 * waves[0]).astype(np.uint16))
    return {
        "png": _save(rgb, "PNG"),
        "grey": _save(rgb.convert("L"), "PNG"),
        "grey, 16 bit": _save(grey16, "PNG"),
        "palette": _save(rgb.convert("P", palette=Image.Palette.ADAPTIVE), "PNG"),
        "transparent": _save(Image.fromarray(rgba), "PNG"),
        "jpeg": _save(rgb, "JPEG", quality=95),
        "turned jpeg": _save(rgb, "JPEG", quality=95, exif=turned),
        "cmyk jpeg": _save(rgb.convert("CMYK"), "JPEG", quality=95),
        "bmp": _save(rgb, "BMP"),
    }


def _save(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def fingerprint() -> Fingerprint:
    """Of decoded and stretched images of every kind, and of their aspects."""
    images = {name: decode_image(data, name) for name, data in encode_files().items()}
    found = {name: block_means(stretch(image, SIDE)[np.newaxis]) for name, image in images.items()}
    aspects = [100 * image_aspect(image) for image in images.values()]
    return {**found, "aspects": np.array([aspects])}


def version() -> str:
    """Both present versions."""
    return f"{image_store.STORE_VERSION}.{decode.DECODE_VERSION}"


if __name__ == "__main__":
    store(PATH, version(), CONSTANT, fingerprint())
