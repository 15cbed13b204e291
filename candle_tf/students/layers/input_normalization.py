"""The first layer of larq-zoo's networks: the normalisation that their weights were trained with.

x = normalize(tf.keras.Input((224, 224, 3)))   # float 0..255 to about -2..2.6
"""

import tensorflow as tf

# Of ImageNet's training images, red, green and blue, in 0..1.
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)


def normalize(pixels: tf.Tensor) -> tf.Tensor:
    """Subtracts ImageNet's mean from each colour channel and divides by its standard deviation.

    Args:
        pixels: float [N, H, W, 3], red, green, blue in 0..255.

    Returns:
        Float [N, H, W, 3], by the layer "rescale".
    """
    return tf.keras.layers.Rescaling(
        [1 / (255 * deviation) for deviation in _DEVIATION],
        offset=[-mean / deviation for mean, deviation in zip(_MEAN, _DEVIATION, strict=True)],
        name="rescale",
    )(pixels)
