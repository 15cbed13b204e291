"""Random views of pictures, drawn statelessly: the same seed, picture and view number always give
the same crop and flip, whatever was drawn before.

    box, flip = draw_view("pad_crop_flip", seed=0, key=key, view=3)
    student_sees = render(picture, box, flip, size=64)
    teacher_sees = render(picture, box, flip, size=160)      # the very same view
"""

import tensorflow as tf

PAD = 1 / 8  # 4 of 32 pixels, as is usual since ResNet on CIFAR (He et al. 2016)
CROP_AREA = (0.35, 1.0)
CROP_ASPECT = (3 / 4, 4 / 3)


def whole_box() -> tf.Tensor:
    """The box that is the whole picture: [top, left, bottom, right] = [0, 0, 1, 1]."""
    return tf.constant([0.0, 0.0, 1.0, 1.0])


def draw_view(
    augmentation: str, seed: int | tf.Tensor, key: tf.Tensor, view: int | tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws a view.

    Args:
        augmentation: "none" (whole picture), "pad_crop" (shifted by up to 1/8 of its side, black
            beyond the border), "pad_crop_flip" (and mirrored half of the time) or
            "random_resized_crop_flip" (35 % to all of the area, aspect 3/4 to 4/3, mirrored half of
            the time).
        seed: the run's seed.
        key: int64 scalar, the picture's key.
        view: number of the view, from 0.

    Returns:
        box: float32 [4], top, left, bottom, right as fractions of the picture's sides; may reach
            beyond the picture.
        flip: bool scalar, whether to mirror left and right.
    """
    # One Philox draw per view: the picture's key and the view number are its two seeds.
    mixed = tf.bitwise.bitwise_xor(
        tf.cast(key, tf.int64), tf.cast(seed, tf.int64) * tf.constant(0x9E3779B97F4A7C1, tf.int64)
    )
    numbers = tf.random.stateless_uniform(
        [5], seed=tf.stack([mixed, tf.cast(view, tf.int64)]), alg="philox"
    )
    flip = numbers[4] < 0.5
    if augmentation == "none":
        return whole_box(), tf.constant(False)
    if augmentation == "pad_crop":
        return _shifted(numbers), tf.constant(False)
    if augmentation == "pad_crop_flip":
        return _shifted(numbers), flip
    if augmentation == "random_resized_crop_flip":
        return _resized_crop(numbers), flip
    raise ValueError(f"unknown augmentation {augmentation!r}")


def _shifted(numbers: tf.Tensor) -> tf.Tensor:
    offset = PAD * (2.0 * numbers[:2] - 1.0)
    return tf.concat([offset, offset + 1.0], axis=0)


def _resized_crop(numbers: tf.Tensor) -> tf.Tensor:
    area = CROP_AREA[0] + numbers[0] * (CROP_AREA[1] - CROP_AREA[0])
    low, high = tf.math.log(CROP_ASPECT[0]), tf.math.log(CROP_ASPECT[1])
    root_aspect = tf.exp(0.5 * (low + numbers[1] * (high - low)))
    height = tf.minimum(tf.sqrt(area) / root_aspect, 1.0)
    width = tf.minimum(tf.sqrt(area) * root_aspect, 1.0)
    top, left = numbers[2] * (1.0 - height), numbers[3] * (1.0 - width)
    return tf.stack([top, left, top + height, left + width])


def render(picture: tf.Tensor, box: tf.Tensor, flip: tf.Tensor, size: int) -> tf.Tensor:
    """Cuts a box out of a picture and resizes it, antialiased.

    Args:
        picture: uint8 or float [H, W, 3].
        box: float32 [4] as `draw_view` gives it; what lies beyond the picture is black.
        flip: bool scalar.
        size: side of the result in pixels.

    Returns:
        float32 [size, size, 3] in 0..255.
    """
    sides = tf.cast(tf.shape(picture)[:2], tf.float32)
    scale = size / ((box[2:] - box[:2]) * sides)
    translation = -box[:2] * sides * scale
    cut = tf.raw_ops.ScaleAndTranslate(
        images=tf.cast(picture, tf.float32)[tf.newaxis],
        size=[size, size],
        scale=scale,
        translation=translation,
        kernel_type="triangle",
        antialias=True,
    )[0]
    return tf.where(flip, tf.reverse(cut, axis=[1]), cut)


def render_views(
    pictures: tf.Tensor,
    keys: tf.Tensor,
    numbers: tf.Tensor,
    augmentation: str,
    seed: int,
    size: int,
    mirrored: bool = False,
) -> tf.Tensor:
    """Draws and renders one view of each picture.

    Args:
        pictures: uint8 [B, H, W, 3].
        keys: int64 [B].
        numbers: int64 [B], which view of each.
        augmentation, seed: as in `draw_view`.
        size: side of the result in pixels.
        mirrored: mirror every view once more, left and right.

    Returns:
        float32 [B, size, size, 3] in 0..255.
    """

    def one(item: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tf.Tensor:
        picture, key, number = item
        box, flip = draw_view(augmentation, seed, key, number)
        return render(picture, box, tf.not_equal(flip, mirrored), size)

    signature = tf.TensorSpec([size, size, 3], tf.float32)
    return tf.map_fn(one, (pictures, keys, numbers), fn_output_signature=signature)
