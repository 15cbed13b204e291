"""ReActNet's two training phases: binary activations first, then binary kernels too.

first = clone_with_float_kernels(student)   # train this in phase one
copy_weights(first, student)                # and train the student in phase two

Source: ReActNet (Liu et al., ECCV 2020) after Martinez et al., ICLR 2020.
"""

from collections.abc import Callable
from typing import Any, NoReturn

import tensorflow as tf

from candle_tf.errors import UserError
from candle_tf.students.layers.blocks import is_binary_conv


class FloatKernel(tf.keras.layers.Layer):
    """Used as a kernel quantizer that does nothing: it returns the float kernel.

    A network with it is half-trained, in float, and named like the student. Exporting, copying and
    saving a Keras model begin with its layers' configurations: this one refuses.
    """

    precision = 32

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs

    def get_config(self) -> NoReturn:
        """Refuses: `UserError`."""
        raise UserError(
            "This network has the float kernels of training phase one of --binary_steps=2, and is "
            "no binary student: train phase two, and export the network of that."
        )


def clone_with_float_kernels(student: tf.keras.Model) -> tf.keras.Model:
    """The network of training phase one: a student whose kernels, but not activations, are float.

    Args:
        student: Keras model with binary convolutions.

    Returns:
        The same architecture with the student's weights in variables of its own. Kernels keep
        their constraint. It cannot be copied, saved or exported (see `FloatKernel`).
    """
    first = _clone_with(student, lambda: {"kernel_quantizer": FloatKernel()})
    copy_weights(student, first)
    return first


def has_float_kernels(network: tf.keras.Model) -> bool:
    """Whether a network is that of training phase one."""
    return any(
        isinstance(getattr(layer, "kernel_quantizer", None), FloatKernel)
        for layer in network.layers
    )


def clone_without_kernel_constraint(student: tf.keras.Model) -> tf.keras.Model:
    """The same student and weights, whose latent weights are not clipped to a range."""
    free = _clone_with(student, lambda: {"kernel_constraint": None})
    free.set_weights(student.get_weights())
    return free


def copy_weights(source: tf.keras.Model, target: tf.keras.Model) -> None:
    """Copies the weights, layer by layer, between networks that differ in kernel quantizers only.

    Of a binary convolution, kernel and bias are copied; the state of its quantizer (BNext's
    temperature) stays the target's own.

    Args:
        source: where the weights come from.
        target: a network with layers of the same names.
    """
    for layer in source.layers:
        copy = target.get_layer(layer.name)
        if hasattr(layer, "kernel_quantizer"):
            copy.kernel.assign(layer.kernel.numpy())
            if layer.use_bias:
                copy.bias.assign(layer.bias.numpy())
        else:
            copy.set_weights(layer.get_weights())


def _clone_with(student: tf.keras.Model, changes: Callable[[], dict[str, Any]]) -> tf.keras.Model:
    def clone(layer: Any) -> Any:
        config = layer.get_config()
        if is_binary_conv(layer):
            config.update(changes())
        return layer.__class__.from_config(config)

    return tf.keras.models.clone_model(student, clone_function=clone)
