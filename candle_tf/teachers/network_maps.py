"""The maps of a network that all later layers are computed from, and their heights.

tensors = cut_tensors(network)                     # Keras tensors [N, H, W, C]
map_heights(network, tensors)                      # of an image of MEASURED_SIDE pixels
"""

from collections.abc import Sequence

import tensorflow as tf

# Side of an image whose maps are measured: a multiple of all usual strides, so that all differ.
MEASURED_SIDE = 256


def cut_tensors(network: tf.keras.Model) -> list[tf.Tensor]:
    """Maps [N, H, W, C] that every path through a network passes, in the order of computation.

    Args:
        network: a functional Keras model.

    Returns:
        Keras tensors; what only pads a map with zeros is left out.
    """
    by_depth = network._nodes_by_depth
    nodes = [
        node
        for depth in sorted(by_depth, reverse=True)
        for node in by_depth[depth]
        if not node.is_input
    ]
    last_reader = {key: place for place, node in enumerate(nodes) for key in node.flat_input_ids}
    found: list[tf.Tensor] = []
    # Tensors that are computed, and are read by nodes still to come.
    live = {str(id(tensor)) for tensor in network.inputs}
    for place, node in enumerate(nodes):
        live -= {key for key in node.flat_input_ids if last_reader[key] == place}
        outputs = tf.nest.flatten(node.outputs)
        padded = isinstance(node.layer, tf.keras.layers.ZeroPadding2D)
        if not live and len(outputs) == 1 and outputs[0].shape.rank == 4 and not padded:
            found += outputs
        live |= {key for key in node.flat_output_ids if key in last_reader}
    return found


def map_heights(network: tf.keras.Model, tensors: Sequence[tf.Tensor]) -> list[int | None]:
    """Heights of tensors for an image of `MEASURED_SIDE` pixels; nothing is computed but shapes.

    Args:
        network: functional model from pixels [N, H, W, 3] with any H and W.
        tensors: of the network.

    Returns:
        In pixels; None where it depends on more than the image's size.
    """
    if not tensors:
        return []
    model = tf.keras.Model(network.inputs, list(tensors))
    trace = tf.function(lambda pixels: tf.nest.flatten(model(pixels, training=False)))
    graph = trace.get_concrete_function(tf.TensorSpec([1, MEASURED_SIDE, MEASURED_SIDE, 3]))
    return [output.shape[1] for output in graph.structured_outputs]
