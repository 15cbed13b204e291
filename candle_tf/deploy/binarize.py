"""The copy of a student that is shipped: one bit per binary weight, nothing of the training.

model = make_deployable(student)
model(pixels)                           # the student's logits, float [N, classes]
"""

from typing import Any

import tensorflow as tf

from candle_tf.errors import UserError
from candle_tf.students.layers.annealed_sign import find_inexact_layers
from candle_tf.students.layers.blocks import is_binary_conv


def make_deployable(student: tf.keras.Model) -> tf.keras.Model:
    """Copies a student with its binary kernels in their quantized form.

    The kernels hold the kernel quantizer's two values per output channel, and the copy's layers
    have no kernel quantizer any more: nothing is quantized again at inference, and the latent
    weights are gone. The student is left as it is.

    Args:
        student: Keras model from pixels, float32 `[N, H, W, 3]` in 0..255, to a dictionary with
            "logits" (float `[N, classes]`).

    Returns:
        Keras model from the same pixels to the student's logits, float32 `[N, classes]`, with the
        student's layer names.

    Raises:
        UserError: for a student in mixed precision, which the converter cannot take, and for one
            whose kernels are not annealed to signs yet.
    """
    _refuse_mixed_precision(student)
    _refuse_inexact_kernels(student)
    copy = tf.keras.models.clone_model(student, clone_function=_without_kernel_quantizer)
    for layer in student.layers:
        weights = layer.get_weights()
        if is_binary_conv(layer):
            # The kernel comes first, then what else the layer has (a bias).
            weights[0] = layer.kernel_quantizer(tf.constant(weights[0])).numpy()
        shipped = copy.get_layer(layer.name)
        # A quantizer's own variables (a temperature) come last, and are gone with it.
        shipped.set_weights(weights[: len(shipped.weights)])
    return tf.keras.Model(copy.input, copy.output["logits"], name=student.name)


def _refuse_mixed_precision(student: tf.keras.Model) -> None:
    for layer in student.layers:
        if layer.compute_dtype in ("float16", "bfloat16"):
            raise UserError(
                f"The student computes in {layer.compute_dtype} (layer {layer.name}), which cannot "
                "be exported: build it in float32, load the same weights, and export that."
            )


def _refuse_inexact_kernels(student: tf.keras.Model) -> None:
    names = find_inexact_layers(student)
    if names:
        raise UserError(
            f"The kernels of {len(names)} layers, the first {names[0]}, are not annealed to signs "
            "yet: train the student to the end of its annealing, and export that."
        )


def _without_kernel_quantizer(layer: Any) -> Any:
    config = layer.get_config()
    if is_binary_conv(layer):
        config.update(kernel_quantizer=None, kernel_constraint=None)
    return layer.__class__.from_config(config)
