"""What else a user might take: MobileNetV2 in int8, for its size and speed alone.

path.write_bytes(int8_mobilenet(side=64, classes=101, alpha=0.35))
"""

from collections.abc import Iterator

import numpy as np


def int8_mobilenet(side: int, classes: int, alpha: float) -> bytes:
    """MobileNetV2 with random weights, quantized after training to int8, uint8 images in.

    Neither weights nor the random images that its ranges are taken from mean anything: it is to be
    timed and weighed, and knows no class.

    Args:
        side: of the input in pixels.
        classes: number of classes.
        alpha: multiplier of the channels.

    Returns:
        The content of a TFLite file that stock LiteRT runs.
    """
    import tensorflow as tf

    # Below 32 pixels Keras refuses the shape itself, not the network.
    network = tf.keras.applications.MobileNetV2(
        input_shape=(max(side, 32), max(side, 32), 3), weights=None, classes=classes, alpha=alpha
    )
    pixels = tf.keras.Input((side, side, 3), batch_size=1)
    scaled = tf.keras.layers.Rescaling(1 / 127.5, offset=-1.0)(pixels)
    if side < 32:
        scaled = tf.keras.layers.ZeroPadding2D(((0, 32 - side), (0, 32 - side)))(scaled)
    model = tf.keras.Model(pixels, network(scaled))

    def images() -> Iterator[list[np.ndarray]]:
        rng = np.random.default_rng(0)
        for _ in range(8):
            yield [rng.integers(0, 256, (1, side, side, 3)).astype(np.float32)]

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = images
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.uint8
    converter.inference_output_type = tf.uint8
    return converter.convert()
