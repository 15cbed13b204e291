"""The graphs that a SavedModel carries against Pillow's decoding and resizing, bit by bit."""

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_sample_images

from candle_tf.data.images.decode import MAX_PIXELS, decode_image
from candle_tf.data.images.orientation import MAX_SEGMENTS
from candle_tf.data.images.orientation import read_orientation as read_from_bytes
from candle_tf.data.images.store import stretch
from candle_tf.deploy.preprocessing.decode import decode as decode_in_graph
from candle_tf.deploy.preprocessing.orientation import apply_orientation, read_orientation
from candle_tf.deploy.preprocessing.stretch import stretch as stretch_in_graph
from candle_tf.errors import UserError
from tests.data.images.exif_blocks import files_with_blocks
from tests.data.images.metadata_files import cut_jpegs, cut_pngs, damaged_metadata, sound_metadata

ORIENTATION = 0x0112


@tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
def in_graph(encoded):
    return decode_in_graph(encoded, tf.constant(3))


@tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
def orientation_in_graph(encoded):
    return read_orientation(encoded, tf.equal(tf.strings.substr(encoded, 1, 3), "PNG"))


@pytest.fixture(scope="module")
def resize_in_graph():
    functions = {}

    def run(image: np.ndarray, side: int) -> np.ndarray:
        if side not in functions:
            spec = tf.TensorSpec([None, None, 3], tf.uint8)
            functions[side] = tf.function(
                lambda image: stretch_in_graph(image, side), input_signature=[spec], autograph=False
            )
        return functions[side](image).numpy()

    return run


def photograph(height: int, width: int, number: int = 0) -> np.ndarray:
    image = Image.fromarray(load_sample_images().images[number])
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))


def noise(*shape: int, kind: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(kind).max + 1, shape, kind)


def encode(image: Image.Image | np.ndarray, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def png_of_few_bits(values: np.ndarray, bits: int) -> bytes:
    """A grey PNG of 1, 2 or 4 bits a pixel, which Pillow reads but does not write."""
    lines = []
    for row in values:
        text = "".join(format(value, f"0{bits}b") for value in row)
        text += "0" * (-len(text) % 8)
        lines.append(b"\0" + int(text, 2).to_bytes(len(text) // 8, "big"))
    height, width = values.shape
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"".join(lines)))
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [1, 32, 160])
def test_stretch_is_pillows(resize_in_graph, side):
    rng = np.random.default_rng(side)
    shapes = [(1, 1), (1, 700), (700, 1), (side, side), (2 * side, side), (side, 333)]
    shapes += [tuple(rng.integers(1, 700, 2)) for _ in range(12)]
    for height, width in shapes:
        for image in (noise(height, width, 3), noise(height, width, 3) // 128 * 255):
            expected = stretch(image, side)
            actual = resize_in_graph(image, side)
            np.testing.assert_array_equal(actual, expected, err_msg=f"{height} x {width}")


@pytest.mark.parametrize("quality", [20, 75, 95])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpegs_are_decoded_as_in_training(quality, subsampling, progressive):
    for number, shape in enumerate([(213, 320), (97, 131)]):
        encoded = encode(photograph(*shape, number), "JPEG", quality=quality,
                         subsampling=subsampling, progressive=progressive)  # fmt: skip
        np.testing.assert_array_equal(in_graph(encoded), decode_image(encoded, "x"))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpegs_of_other_colour_spaces(mode):
    encoded = encode(Image.fromarray(photograph(97, 131)).convert(mode), "JPEG")
    np.testing.assert_array_equal(in_graph(encoded), decode_image(encoded, "x"))


def _pngs() -> dict[str, bytes]:
    photo = Image.fromarray(photograph(41, 61))
    opacity = Image.fromarray(noise(41, 61))
    see_through = photo.convert("RGBA")
    see_through.putalpha(opacity)
    grey = photo.convert("L")
    modes = {mode: photo.convert(mode) for mode in ("RGB", "L", "P", "1")}
    modes |= {"RGBA": see_through, "LA": see_through.convert("LA"), "PA": see_through.quantize(50)}
    modes |= {f"P of {n} colours": photo.quantize(n) for n in (2, 4, 16)}
    modes["16-bit grey"] = Image.fromarray(noise(41, 61, kind=np.uint16))
    pngs = {name: encode(image, "PNG") for name, image in modes.items()}
    for bits in (1, 2, 4):
        values = noise(41, 61) >> (8 - bits)
        pngs[f"{bits}-bit grey"] = png_of_few_bits(values, bits)
    pngs["interlaced"] = _interlace()
    pngs["P, one colour clear"] = encode(photo.quantize(16), "PNG", transparency=3)
    pngs["L, one grey clear"] = encode(grey, "PNG", transparency=grey.getpixel((5, 5)))
    pngs["RGB, one colour clear"] = encode(photo, "PNG", transparency=photo.getpixel((5, 5)))
    for channels in (2, 3, 4):
        wide = noise(41, 61, channels, kind=np.uint16)
        pngs[f"16-bit, {channels} channels"] = tf.io.encode_png(wide).numpy()
    return pngs


def _interlace() -> bytes:
    """Adam7 of an 8-bit grey image, which Pillow reads but does not write."""
    values = noise(41, 61)
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
              (1, 0, 2, 1)]  # fmt: skip
    lines = [b"\0" + row.tobytes() for y, x, dy, dx in passes for row in values[y::dy, x::dx]]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 61, 41, 8, 0, 0, 0, 1))
    body = chunk(b"IDAT", zlib.compress(b"".join(lines)))
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")


PNGS = _pngs()


@pytest.mark.parametrize("name", PNGS)
def test_pngs_are_decoded_as_in_training(name):
    expected = decode_image(PNGS[name], name)
    assert expected.shape == (41, 61, 3)
    np.testing.assert_array_equal(in_graph(PNGS[name]), expected)


def test_every_opacity_is_rounded_as_in_training():
    colours, opacities = np.meshgrid(np.arange(256), np.arange(256))
    rgba = np.stack([colours, colours[::-1], colours.T, opacities], axis=-1).astype(np.uint8)
    encoded = encode(rgba, "PNG")
    np.testing.assert_array_equal(in_graph(encoded), decode_image(encoded, "x"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_orientation_is_applied(kind, order):
    image = photograph(48, 64)
    seen = set()
    for number in range(10):
        exif = Image.Exif()
        exif.endian = order
        exif[0x010F] = "maker"
        exif[ORIENTATION] = number
        encoded = encode(image, kind, exif=exif)
        upright_image = in_graph(encoded).numpy()
        np.testing.assert_array_equal(upright_image, decode_image(encoded, "x"), str(number))
        seen.add(upright_image.tobytes())
    assert len(seen) == 8


def test_orientation_that_is_not_there_or_damaged_is_upright():
    encoded = encode(photograph(8, 8), "JPEG")
    exif = b"Exif\0\0" + b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif
    with_exif = encoded[:2] + segment + encoded[2:]
    assert int(read_orientation(with_exif, tf.constant(False))) == 6
    filled = encoded[:2] + b"\xff\xff" + segment + encoded[2:]
    assert int(read_orientation(filled, tf.constant(False))) == 6
    for damaged in (encoded, encoded[:2], with_exif[:20], with_exif[:30]):
        assert int(read_orientation(damaged, tf.constant(False))) not in range(2, 9)
    far = with_exif.replace(b"II*\0\x08\0\0\0", b"II*\0\xf0\xff\xff\x7f")
    assert int(read_orientation(far, tf.constant(False))) == 1
    png = b"\x89PNG\r\n\x1a\n" + b"\xff\xff\xff\xffIHDR"
    assert int(read_orientation(png, tf.constant(True))) == 1


MEGABYTE = 10**6
# What a file may hold any number of before its pixels, and where: behind so many bytes.
REPEATED = {
    "fill bytes": ("JPEG", 2, b"\xff"),
    "JPEG segments": ("JPEG", 2, b"\xff\xe5\x00\x02"),
    "PNG chunks": ("PNG", 33, chunk(b"teSt", b"")),
}


def with_orientation(kind: str) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    return encode(photograph(48, 64), kind, exif=exif)


def insert(what: str, count: int) -> bytes:
    """A file of orientation 6 with `count` fill bytes, segments or chunks before its Exif."""
    kind, start, repeated = REPEATED[what]
    encoded = with_orientation(kind)
    return encoded[:start] + count * repeated + encoded[start:]


def test_any_number_of_fill_bytes_is_skipped():
    # With a step for each byte, the graph took four minutes.
    filled = insert("fill bytes", MEGABYTE)
    np.testing.assert_array_equal(in_graph(filled), in_graph(with_orientation("JPEG")))
    np.testing.assert_array_equal(decode_image(filled, "x"), in_graph(filled))
    only_fill = filled[:MEGABYTE]
    assert int(orientation_in_graph(only_fill)) == read_from_bytes(only_fill) == 1


@pytest.mark.parametrize("what", ["JPEG segments", "PNG chunks"])
def test_an_orientation_behind_too_many_segments_is_not_used(what):
    # Before the Exif, Pillow writes APP0 and IHDR.
    last = MAX_SEGMENTS - 2
    for count, expected in ((last, 6), (last + 1, 1), (MEGABYTE // 4, 1)):
        encoded = insert(what, count)
        assert int(orientation_in_graph(encoded)) == expected, count
        assert read_from_bytes(encoded) == expected, count
        np.testing.assert_array_equal(in_graph(encoded), decode_image(encoded, "x"))


def damaged_headers(count: int) -> Iterator[bytes]:
    """JPEG and PNG headers of random segments and chunks, fill bytes, wrong lengths and ends."""
    random = np.random.default_rng(0)
    tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"

    def segment() -> bytes:
        marker = int(random.choice([0xE1, 0xE1, 0xE2, 0xDA, 0, 0xD0, 0xFF]))
        content = b"Exif\0\0" + tiff if random.random() < 0.4 else random.bytes(4)
        length = len(content) + 2 if random.random() < 0.8 else int(random.integers(40))
        fill = b"\xff" * int(random.choice([1, 1, 2, 50]))
        return fill + bytes([marker]) + struct.pack(">H", length) + content

    def part() -> bytes:
        name = [b"eXIf", b"tEXt", b"IDAT", b"tR\0S"][random.choice(4, p=[0.3, 0.5, 0.1, 0.1])]
        length = int(random.choice([0, 9, 2**31 - 9, 2**31 - 1, 2**31, 2**32 - 1]))
        whole = chunk(name, tiff)
        return whole if random.random() < 0.8 else struct.pack(">I", length) + whole[4:]

    for number in range(count):
        start, one = ((b"\xff\xd8", segment), (b"\x89PNG\r\n\x1a\n", part))[number % 2]
        data = start + b"".join(one() for _ in range(random.integers(8)))
        end = int(random.integers(len(start), len(data) + 1)) if random.random() < 0.3 else None
        yield data[:end]


def test_damaged_headers_give_the_orientation_of_training():
    found = [(int(orientation_in_graph(data)), read_from_bytes(data), data)
             for data in damaged_headers(600)]  # fmt: skip
    assert not [each for each in found if each[0] != each[1]]
    assert {1, 6} <= {orientation for orientation, _, _ in found}


def test_orientations_turn_as_exif_says():
    # Where the stored image's first row and first column are, from EXIF 2.3, table of tag 274.
    image = np.zeros((2, 3, 3), np.uint8)
    image[0] = 1
    image[:, 0] += 2
    for number, row, column in [
        (1, np.s_[0], np.s_[:, 0]), (2, np.s_[0], np.s_[:, -1]), (3, np.s_[-1], np.s_[:, -1]),
        (4, np.s_[-1], np.s_[:, 0]), (5, np.s_[:, 0], np.s_[0]), (6, np.s_[:, -1], np.s_[0]),
        (7, np.s_[:, -1], np.s_[-1]), (8, np.s_[:, 0], np.s_[-1]),
    ]:  # fmt: skip
        turned = apply_orientation(tf.constant(image), tf.constant(number)).numpy()
        assert (turned[row] % 2 == 1).all(), number
        assert (turned[column] >= 2).all(), number


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        (b"", "is no JPEG or PNG"),
        (b"\xff\xd8", "is no JPEG or PNG"),
        (b"GIF89a and so on", "is no JPEG or PNG"),
        (encode(noise(4, 4, 3), "WEBP"), "is no JPEG or PNG"),
        (encode(noise(4, 4, 3), "BMP"), "is no JPEG or PNG"),
        (b"\0\0\0\x18ftypheic", "is HEIC or AVIF, which is not decoded here: send a JPEG or PNG"),
        (encode(noise(40, 40, 3), "JPEG")[:-300], "JPEG"),
        (encode(noise(40, 40, 3), "JPEG")[:30], "JPEG"),
        (encode(noise(40, 40, 3), "PNG")[:-300], "PNG"),
        (b"\x89PNG\r\n\x1a\n", "pixels"),
        (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">II", 10**5, 10**5)), "pixels"),
        (encode(noise(4, 4, 3), "JPEG").replace(b"\0\x04\0\x04", b"\x7f\xff\x7f\xff"), "pixels"),
    ],
)
def test_bad_images_are_refused(encoded, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message) as refusal:
        in_graph(encoded)
    if message.startswith("is ") or message == "pixels":
        assert "[image] [3]" in str(refusal.value)


def test_as_many_pixels_as_training_takes():
    side = int(MAX_PIXELS**0.5)
    header = chunk(b"IHDR", struct.pack(">II", side, side))
    with pytest.raises(tf.errors.InvalidArgumentError) as refusal:
        in_graph(b"\x89PNG\r\n\x1a\n" + header)
    assert "pixels:" not in str(refusal.value)


@pytest.mark.parametrize(("name", "encoded"), [*damaged_metadata().items(),
                                               *sound_metadata().items()])  # fmt: skip
def test_metadata_give_the_same_pixels_as_in_training(name, encoded):
    np.testing.assert_array_equal(in_graph(encoded), decode_image(encoded, name))


KEYS = [chunk(b"tRNS", struct.pack(">HHH", *noise(8, 9, 3)[0, column])) for column in (0, 1)]


@pytest.mark.parametrize("chunks", [
    (b"".join(KEYS), b""),
    (b"", KEYS[0]),
    ((MAX_SEGMENTS - 2) * chunk(b"teSt", b"") + KEYS[0], b""),
    ((MAX_SEGMENTS - 1) * chunk(b"teSt", b"") + KEYS[0], b""),
], ids=["two", "behind the pixels", "the last that is read", "behind too many chunks"])  # fmt: skip
def test_a_transparent_colour_is_used_where_it_is_in_training(chunks):
    before, behind = chunks
    encoded = encode(noise(8, 9, 3), "PNG")
    end = encoded.index(b"IEND") - 4
    encoded = encoded[:33] + before + encoded[33:end] + behind + encoded[end:]
    np.testing.assert_array_equal(in_graph(encoded), decode_image(encoded, "x"))


@pytest.mark.parametrize("channels", [1, 3])
def test_one_transparent_colour_of_16_bits_is_not_used(channels):
    wide = noise(4, 5, channels, kind=np.uint16)
    # Pillow compares the lower bytes of the colour with the upper bytes of the pixels.
    wide[0, 1] = wide[0, 0] >> 8 | wide[0, 0] << 8
    plain = tf.io.encode_png(wide).numpy()
    key = chunk(b"tRNS", wide[0, 0].astype(">u2").tobytes())
    clear = plain[:33] + key + plain[33:]
    for image in (in_graph(plain), in_graph(clear), decode_image(clear, "x")):
        np.testing.assert_array_equal(image, decode_image(plain, "x"))


@pytest.mark.parametrize(("name", "encoded"), [*cut_pngs().items(), *cut_jpegs().items()])
def test_a_file_without_its_end_is_refused_as_in_training(name, encoded):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"PNG|JPEG"):
        in_graph(encoded)
    with pytest.raises(UserError, match=name):
        decode_image(encoded, name)


def test_damaged_exif_blocks_give_the_same_pixels_as_in_training():
    shapes = set()
    for kind, encoded in files_with_blocks(300, seed=1):
        if kind != "WEBP":
            expected = decode_image(encoded, "x")
            np.testing.assert_array_equal(in_graph(encoded).numpy(), expected)
            shapes.add(expected.shape)
    assert len(shapes) == 2, "some are rotated"
