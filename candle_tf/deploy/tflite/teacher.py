"""The calibrated teacher as a full-integer TFLite file: what one could ship in place of a student.

flatbuffer = convert_teacher(teacher.encoder, classifier, images)
run_litert(flatbuffer, pixels)          # logits, float32 [N, classes]
"""

import warnings
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from candle_tf.runtime_messages import drop_runtime_messages


def convert_teacher(
    encoder: tf.keras.Model, classifier: tf.keras.Model, images: np.ndarray
) -> bytes:
    """Converts encoder and classifier, with weights and activations quantized to 8 bits.

    The file takes "pixels", uint8 `[1, S, S, 3]`, and gives logits, float32 `[1, classes]`; between
    them all operators work on integers. Post-training quantization: Jacob et al., "Quantization and
    Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018.

    Args:
        encoder: from pixels, float32 `[N, H, W, 3]` in 0..255, to features.
        classifier: from features to "logits".
        images: that the ranges of the activations are measured on, uint8 `[K, S, S, 3]`; best
            training images.

    Returns:
        The content of the file.

    Raises:
        ValueError: where there is no image.
        Exception: what TensorFlow's converter raises for an operator that it cannot quantize.
    """
    if not len(images):
        raise ValueError("at least one image is needed to measure ranges on")
    pixels = tf.keras.Input(images.shape[1:], batch_size=1, name="pixels")
    model = tf.keras.Model(pixels, classifier(encoder(pixels))["logits"])

    def representative() -> Iterator[list[np.ndarray]]:
        for image in images:
            yield [image[None].astype(np.float32)]

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.uint8
    with drop_runtime_messages(), warnings.catch_warnings():
        # It expects ranges of the input from whoever quantizes by hand, and measures them anyway.
        warnings.filterwarnings("ignore", "Statistics for quantized inputs were expected")
        return converter.convert()
