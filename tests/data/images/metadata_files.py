"""JPEG and PNG files with metadata that are damaged, large, or sound.

for name, encoded in damaged_metadata().items(): ...      # pixels: those of PLAIN[kind]
"""

import io
import struct
import zlib

import numpy as np
from PIL import Image, PngImagePlugin

_HEADER_END = 33  # of a PNG: signature and IHDR
_MARKER_END = 2  # of a JPEG: SOI


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes, error: int = 0) -> bytes:
    """A PNG's chunk; with `error` its checksum is wrong by so much."""
    checksum = zlib.crc32(name + content) ^ error
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def segment(marker: int, content: bytes) -> bytes:
    """A JPEG's segment."""
    return b"\xff" + bytes([marker]) + struct.pack(">H", 2 + len(content)) + content


def insert(encoded: bytes, part: bytes) -> bytes:
    """The file with chunks or segments where metadata begin."""
    start = _HEADER_END if encoded.startswith(b"\x89PNG") else _MARKER_END
    return encoded[:start] + part + encoded[start:]


IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8))
PLAIN = {kind: encode(IMAGE, kind) for kind in ("PNG", "JPEG")}

_LARGE = zlib.compress(bytes(2 * 2**20))
_CHUNKS = {
    "short gAMA": chunk(b"gAMA", b"\0"),
    "short cHRM": chunk(b"cHRM", b"\0"),
    "short pHYs": chunk(b"pHYs", b"\0"),
    "empty sRGB": chunk(b"sRGB", b""),
    "short acTL": chunk(b"acTL", b"\0"),
    "fcTL of a frame outside of the image": chunk(b"fcTL", b"\0" * 4 + b"\1" * 22),
    "tIME, wrong checksum": chunk(b"tIME", bytes(7), error=1),
    "tEXt, wrong checksum": chunk(b"tEXt", b"a\0b", error=1),
    "zTXt, unknown method": chunk(b"zTXt", b"a\0\7b"),
    "iCCP, unknown method": chunk(b"iCCP", b"a\0\7b"),
    "large iCCP": chunk(b"iCCP", b"a\0\0" + _LARGE),
    "large zTXt": chunk(b"zTXt", b"a\0\0" + _LARGE),
    "large iTXt": chunk(b"iTXt", b"a\0\1\0\0\0" + _LARGE),
}
_SEGMENTS = {
    "short ICC_PROFILE": segment(0xE2, b"ICC_PROFILE\0"),
    "short JFIF": segment(0xE0, b"JFIF\0"),
    "short Adobe": segment(0xEE, b"Adobe"),
    "Photoshop, cut": segment(0xED, b"Photoshop 3.0\0008BIM\x03\xed"),
    "MPF, bad entry": segment(0xE2, b"MPF\0II*\0" + struct.pack("<IH", 8, 2)
                              + struct.pack("<HHII", 0xB001, 4, 1, 2)
                              + struct.pack("<HHII", 0xB002, 7, 4, 0) + bytes(4)),
    "short ICC_PROFILE behind other bytes": segment(0xFE, b"") + b"junk"
                                            + segment(0xE2, b"ICC_PROFILE\0"),
}  # fmt: skip


def damaged_metadata() -> dict[str, bytes]:
    """Files by name, with the pixels of `PLAIN[kind]`, the name's first word."""
    files = {f"PNG {name}": insert(PLAIN["PNG"], part) for name, part in _CHUNKS.items()}
    end = PLAIN["PNG"].index(b"IEND") - 4
    behind = PLAIN["PNG"][:end] + _CHUNKS["large zTXt"] + PLAIN["PNG"][end:]
    segments = {f"JPEG {name}": insert(PLAIN["JPEG"], part) for name, part in _SEGMENTS.items()}
    return files | {"PNG large zTXt behind the pixels": behind} | segments


def sound_metadata() -> dict[str, bytes]:
    """Files as programs write them, of each kind whose metadata could decide the pixels."""
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "b")
    text.add_text("c", "d" * 99, zip=True)
    frames = [Image.new("RGB", (9, 8), colour) for colour in ("red", "lime")]
    animated = {"save_all": True, "append_images": frames}
    ink = encode(IMAGE.convert("CMYK"), "JPEG")
    adobe = ink.index(b"Adobe")
    rgb = encode(IMAGE, "JPEG", keep_rgb=True)
    return {
        "PNG": encode(IMAGE, "PNG", pnginfo=text, dpi=(72, 72), icc_profile=b"p" * 200),
        "grey PNG": encode(IMAGE.convert("L"), "PNG", pnginfo=text),
        "PNG, animated": encode(IMAGE, "PNG", **animated),
        "PNG, animated, with a default image": encode(IMAGE, "PNG", default_image=True, **animated),
        "JPEG": encode(IMAGE, "JPEG", comment=b"c", dpi=(72, 72), icc_profile=b"p" * 70_000),
        "JPEG of several images": encode(IMAGE, "MPO", **animated),
        "grey JPEG": encode(IMAGE.convert("L"), "JPEG", comment=b"c"),
        "RGB JPEG": rgb,
        "RGB JPEG that Adobe's marker makes YCbCr": insert(
            rgb.replace(segment(0xEE, b"Adobe\0\x64\0\0\0\0\0"), b""),
            segment(0xEE, b"Adobe\0\x64\0\0\0\0\1"),
        ),
        "CMYK JPEG": ink,
        "YCCK JPEG": ink[: adobe + 11] + b"\2" + ink[adobe + 12 :],
    }


def cut_pngs() -> dict[str, bytes]:
    """PNG files with all pixels, which end before the end of their last chunk."""
    png = PLAIN["PNG"]
    end = png.index(b"IEND") - 4
    frames = [Image.new("RGB", (9, 8), colour) for colour in ("red", "lime")]
    animated = encode(IMAGE, "PNG", save_all=True, append_images=frames)
    return {
        "no IEND": png[:end],
        "IEND without its name": png[: end + 4],
        "IEND without its checksum": png[:-4],
        "IEND without its last byte": png[:-1],
        "text behind the pixels, cut": png[:end] + chunk(b"tEXt", b"a\0b")[:-1],
        "no checksum of the pixels": png[: end - 4],
        "animation, cut in its second frame": animated[: animated.index(b"fdAT") + 20],
    }


def cut_jpegs() -> dict[str, bytes]:
    """JPEG files whose tail is zeros, as downloads leave it that reserve the file and stop.

    Pillow reads all of them: zeros are pixels of one colour.
    """
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    photo = encode(Image.fromarray(noise), "JPEG", quality=90)
    quarter = len(photo) // 4
    thumbnail = segment(0xE1, b"Exif\0\0" + PLAIN["JPEG"])
    return {
        "JPEG, a quarter of its bytes": photo[:quarter] + bytes(len(photo) - quarter),
        "JPEG, zeros for its end": PLAIN["JPEG"][:-2] + bytes(2),
        "JPEG with a whole thumbnail": insert(PLAIN["JPEG"][:-2] + bytes(2), thumbnail),
        "JPEG, zeros and bytes behind it": PLAIN["JPEG"][:-2] + bytes(2) + b"more",
    }


def refused_files() -> dict[str, bytes]:
    """Files that are like those of `damaged_metadata`, but whose pixels are damaged or not all."""
    png, jpeg = PLAIN["PNG"], PLAIN["JPEG"]
    start, end = png.index(b"IDAT") - 4, png.index(b"IEND") - 4
    packed = png[start + 8 : end - 4]
    halves = chunk(b"IDAT", packed[:99]), chunk(b"IDAT", packed[99:])
    scan = jpeg.index(b"\xff\xda")
    return {
        "PNG, text between the pixels": png[:start]
        + halves[0]
        + chunk(b"tEXt", b"a\0b")
        + halves[1]
        + png[end:],
        "PNG, half of the pixels": png[:start] + halves[0] + png[end:],
        "PNG, no pixels": png[:start] + png[end:],
        "PNG, wrong checksum of IHDR": png[:29] + bytes([png[29] ^ 1]) + png[30:],
        "PNG, wrong checksum of an unknown critical chunk": insert(png, chunk(b"ABCD", b"", 1)),
        "PNG, wrong checksum of tRNS": insert(png, chunk(b"tRNS", bytes(6), error=1)),
        "PNG, damaged name of its palette": encode(IMAGE.quantize(4), "PNG").replace(
            b"PLTE", b"pLTE"
        ),
        "PNG, a name that is none": insert(png, chunk(b"t\0xt", b"")),
        "PNG, a text longer than the file": insert(png, struct.pack(">I", 10**6) + b"tEXta\0b"),
        "JPEG, a comment longer than the file": insert(jpeg, b"\xff\xfe\xff\xff"),
        "JPEG without pixels": jpeg[:scan],
        "JPEG of two starts": jpeg[:2] + jpeg,
        "JPEG without a frame": jpeg.replace(b"\xff\xc0", b"\xff\xfe"),
        "JPEG that is one marker": b"\xff\xd8" + b"\xff" * 9,
    }
