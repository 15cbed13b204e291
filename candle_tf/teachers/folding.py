"""Batch norm folded into the convolution before it, for a network that only infers.

    bn(conv(x)) = gamma (k x - mean) / sqrt(variance + epsilon) + beta = k' x + b'

with k' = k gamma / sqrt(variance + epsilon), channel by channel. It saves a pass over each map:
TensorFlow fuses a bias with a depthwise convolution, and a batch norm not.
"""

import numpy as np
import tensorflow as tf

_CONVOLUTIONS = (tf.keras.layers.Conv2D, tf.keras.layers.DepthwiseConv2D)


def fold_batch_norms(backbone: tf.keras.Model) -> tf.keras.Model:
    """A copy of a functional model that gives the same maps in inference mode.

    Args:
        backbone: of Keras layers; only a batch norm that directly follows a convolution without
            activation, and is all that follows it, is folded. It is not changed.

    Returns:
        Model from the same inputs to the same outputs, to float32's rounding. It must not be
        trained: the batch statistics are gone.
    """
    norms = _foldable(backbone)
    convolutions = {convolution.name for convolution in norms.values()}

    def without_norm(layer: tf.keras.layers.Layer) -> tf.keras.layers.Layer:
        if layer.name in norms:
            return tf.keras.layers.Activation("linear", name=layer.name)
        config = layer.get_config()
        if layer.name in convolutions:
            config["use_bias"] = True
        return type(layer).from_config(config)

    copy = tf.keras.models.clone_model(backbone, clone_function=without_norm)
    for layer in backbone.layers:
        if layer.name not in convolutions and layer.name not in norms:
            copy.get_layer(layer.name).set_weights(layer.get_weights())
    for name, convolution in norms.items():
        kernel, bias = _merge(convolution, backbone.get_layer(name))
        copy.get_layer(convolution.name).set_weights([kernel, bias])
    return copy


def _foldable(backbone: tf.keras.Model) -> dict[str, tf.keras.layers.Layer]:
    """Name of each batch norm that can be folded, and its convolution."""
    found = {}
    for layer in backbone.layers:
        if type(layer) is not tf.keras.layers.BatchNormalization or len(layer.inbound_nodes) != 1:
            continue
        before = layer.inbound_nodes[0].inbound_layers
        if (
            type(before) in _CONVOLUTIONS
            and before.activation is tf.keras.activations.linear
            and len(before.outbound_nodes) == 1
            and layer.axis in (3, [3])
        ):
            found[layer.name] = before
    return found


def _merge(
    convolution: tf.keras.layers.Layer, norm: tf.keras.layers.Layer
) -> tuple[np.ndarray, np.ndarray]:
    kernel = convolution.get_weights()[0].astype(np.float64)
    channels = norm.moving_mean.shape[0]
    bias = convolution.get_weights()[1] if convolution.use_bias else np.zeros(channels)
    gamma = norm.gamma.numpy() if norm.scale else np.ones(channels)
    beta = norm.beta.numpy() if norm.center else np.zeros(channels)
    scale = gamma / np.sqrt(norm.moving_variance.numpy().astype(np.float64) + norm.epsilon)
    depthwise = type(convolution) is tf.keras.layers.DepthwiseConv2D
    factors = scale.reshape(kernel.shape[2:]) if depthwise else scale
    return kernel * factors, beta + (bias - norm.moving_mean.numpy()) * scale
