"""`data.images.decode.decode_image` as a TensorFlow graph, for JPEG and PNG.

image = decode(encoded, index)       # string scalar to uint8 [H, W, 3]

The same bytes give the same pixels as in training. TensorFlow and Pillow both decode JPEG with
libjpeg-turbo; set to transform accurately and to interpolate colour, they agree bit by bit.
"""

import tensorflow as tf

from candle_tf.data.images.decode import MAX_PIXELS
from candle_tf.deploy.preprocessing.file_bytes import chunk_start
from candle_tf.deploy.preprocessing.orientation import apply_orientation, read_orientation

_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
_HEIF_BOX = b"ftyp"
# Places in a PNG's header, which every PNG begins with.
_WIDTH, _HEIGHT, _DEPTH, _COLOUR = 16, 20, 24, 25
_GREY = 0
_WITH_OPACITY = (4, 6)


def decode(encoded: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """Decodes one JPEG or PNG.

    As `decode_image`: the EXIF orientation is applied; grey, palette and CMYK images become RGB;
    16-bit grey is scaled from 0..65535 to 0..255; transparency is composited on white.

    Args:
        encoded: the whole file, a string scalar.
        index: of the image in its batch, int32 scalar, for messages.

    Returns:
        uint8 `[H, W, 3]`, RGB.

    Raises:
        tf.errors.InvalidArgumentError: when run, for what is no JPEG or PNG, is damaged, or holds
            more than `MAX_PIXELS` pixels.
    """
    is_png = tf.equal(tf.strings.substr(encoded, 0, len(_PNG)), _PNG)
    is_jpeg = tf.equal(tf.strings.substr(encoded, 0, len(_JPEG)), _JPEG)
    box = tf.strings.substr(encoded + b"\x00" * 8, 4, 4)
    kind = tf.where(
        tf.equal(box, _HEIF_BOX),
        "is HEIC or AVIF, which is not decoded here: send a JPEG or PNG",
        "is no JPEG or PNG",
    )
    refusal = [tf.constant("image"), index, kind]
    with tf.control_dependencies([tf.debugging.Assert(is_png | is_jpeg, refusal)]):
        encoded = tf.identity(encoded)
    pixels = tf.cond(is_png, lambda: _png_pixels(encoded), lambda: _jpeg_pixels(encoded))
    refusal = [
        tf.constant("image"), index, tf.constant(f"has more than {MAX_PIXELS} pixels:"), pixels
    ]  # fmt: skip
    sound = (pixels > 0) & (pixels <= MAX_PIXELS)
    with tf.control_dependencies([tf.debugging.Assert(sound, refusal)]):
        encoded = tf.identity(encoded)
    image = tf.cond(is_png, lambda: _png(encoded), lambda: _jpeg(encoded))
    return apply_orientation(image, read_orientation(encoded, is_png))


def _jpeg_pixels(encoded: tf.Tensor) -> tf.Tensor:
    shape = tf.image.extract_jpeg_shape(encoded, output_type=tf.int64)
    return shape[0] * shape[1]


def _png_pixels(encoded: tf.Tensor) -> tf.Tensor:
    width, height = (_header(encoded, place, 4) for place in (_WIDTH, _HEIGHT))
    return width * height


def _header(encoded: tf.Tensor, place: int, width: int) -> tf.Tensor:
    """A whole number in a PNG's header, int64; 0 where the file ends before it."""
    padded = tf.strings.substr(encoded, 0, 32) + tf.constant(b"\x00" * 32)
    digits = tf.cast(tf.io.decode_raw(tf.strings.substr(padded, place, width), tf.uint8), tf.int64)
    powers = tf.constant([256**power for power in reversed(range(width))], tf.int64)
    return tf.reduce_sum(digits * powers)


def _jpeg(encoded: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_jpeg(
        encoded, channels=3, dct_method="INTEGER_ACCURATE", fancy_upscaling=True
    )


def _png(encoded: tf.Tensor) -> tf.Tensor:
    depth, colour = (_header(encoded, place, 1) for place in (_DEPTH, _COLOUR))
    # Asked for the opacity of an image of less than 8 bits that has none, TensorFlow gives one
    # that is not opaque.
    see_through = chunk_start(tf.io.decode_raw(encoded, tf.uint8), b"tRNS") > 0
    # Pillow, in training, cannot tell which pixels have the transparent colour of 16 bits.
    see_through &= tf.not_equal(depth, 16)
    see_through |= tf.reduce_any(tf.equal(colour, _WITH_OPACITY))
    wide_grey = tf.equal(depth, 16) & tf.equal(colour, _GREY)
    return tf.case(
        [(wide_grey, lambda: _wide_grey(encoded)), (see_through, lambda: _on_white(encoded))],
        default=lambda: tf.io.decode_png(encoded, channels=3),
    )


def _wide_grey(encoded: tf.Tensor) -> tf.Tensor:
    values = tf.io.decode_png(encoded, channels=1, dtype=tf.uint16)
    scaled = tf.cast(tf.round(tf.cast(values, tf.float64) / 257.0), tf.uint8)
    return tf.tile(scaled, [1, 1, 3])


def _on_white(encoded: tf.Tensor) -> tf.Tensor:
    image = tf.cast(tf.io.decode_png(encoded, channels=4), tf.int32)
    colours, opacity = image[..., :3], image[..., 3:]
    # Rounded as Pillow rounds it.
    return tf.cast((colours * opacity + 255 * (255 - opacity) + 127) // 255, tf.uint8)
