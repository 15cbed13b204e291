"""A backbone's maps at earlier strides, beside its last ones.

    model = with_earlier_maps(backbone, 2, "efficientnet_lite0")
    last, earlier = model(pixels)            # [N, H / 32, W / 32, 1280], [N, H / 16, W / 16, 672]

The last layers of a network know what tells its own classes apart; earlier ones also textures and
small shapes, which images unlike ImageNet's may need. The map of a stride is the last one at it
that all later layers are computed from: of an inverted residual block with a stride its expansion,
as in MobileNetV3's detectors (Howard et al. 2019, section 6.3), else a block's output.
"""

import tensorflow as tf

from candle_tf.errors import UserError

# Of an image whose maps are measured: a multiple of all usual strides, so that all differ.
_SIDE = 256
# A stride begins where a map is that many times as high as that of the next one. 2 but for the
# borders, which some networks cut off.
_RATIO = 1.5


def with_earlier_maps(backbone: tf.keras.Model, layers: int, name: str) -> tf.keras.Model:
    """The same network with further outputs; no weight is copied or added.

    Args:
        backbone: functional model from pixels [N, H, W, 3] with any H and W to maps [N, h, w, d] or
            features [N, d].
        layers: outputs in all, 1 or more.
        name: of the teacher, for messages.

    Returns:
        The backbone itself for 1; else a model with a list of outputs: the backbone's own, then
        maps [N, h, w, d] at ever earlier strides.

    Raises:
        UserError: where the backbone has not so many strides, or its layers cannot be told.
    """
    if layers == 1:
        return backbone
    maps = _last_maps(backbone) if _is_functional(backbone) else []
    if len(maps) < layers:
        raise UserError(
            f"--teacher_layers={layers} needs maps at {layers} strides, and teacher {name!r} has "
            f"{len(maps)}: give at most --teacher_layers={max(1, len(maps))}, or another teacher. "
            "(A transformer's layers, and a network that is no functional Keras model, have none.)"
        )
    return tf.keras.Model(
        backbone.inputs, [backbone.outputs[0], *maps[1:layers]], name=backbone.name, trainable=False
    )


def _is_functional(backbone: tf.keras.Model) -> bool:
    return bool(getattr(backbone, "_is_graph_network", False))


def _last_maps(backbone: tf.keras.Model) -> list[tf.Tensor]:
    """The last map at each stride above 1, from the network's end to its beginning.

    A map at stride 1 has seen next to nothing of the image.
    """
    found: list[tf.Tensor] = []
    height = 0
    for tensor, side in reversed(_sizes(backbone, _cut_tensors(backbone))):
        if (not found or side >= _RATIO * height) and side < _SIDE:
            found.append(tensor)
            height = side
    return found


def _cut_tensors(backbone: tf.keras.Model) -> list[tf.Tensor]:
    """Maps which every path through the network passes, in order; without padded ones."""
    # Layers come in an order in which each is computed after those it needs.
    places = {id(layer): place for place, layer in enumerate(backbone.layers)}
    last_use = [0] * len(places)
    for place, layer in enumerate(backbone.layers):
        for node in layer.inbound_nodes:
            for before in tf.nest.flatten(node.inbound_layers):
                if id(before) in places:
                    used = places[id(before)]
                    last_use[used] = max(last_use[used], place)
    tensors, reach = [], 0
    for place, layer in enumerate(backbone.layers):
        # No layer before this one is needed after it.
        if reach <= place and len(layer.inbound_nodes) == 1:
            outputs = tf.nest.flatten(layer.inbound_nodes[0].outputs)
            # Zeros around a map would count as a part of it.
            padded = isinstance(layer, tf.keras.layers.ZeroPadding2D)
            if len(outputs) == 1 and outputs[0].shape.rank == 4 and not padded:
                tensors += outputs
        reach = max(reach, last_use[place])
    return tensors


def _sizes(backbone: tf.keras.Model, tensors: list[tf.Tensor]) -> list[tuple[tf.Tensor, int]]:
    """Tensors and their heights for an image of `_SIDE` pixels; nothing is computed."""
    if not tensors:
        return []
    model = tf.keras.Model(backbone.inputs, tensors)
    trace = tf.function(lambda pixels: tf.nest.flatten(model(pixels, training=False)))
    graph = trace.get_concrete_function(tf.TensorSpec([1, _SIDE, _SIDE, 3]))
    heights = [output.shape[1] for output in graph.structured_outputs]
    return [(t, side) for t, side in zip(tensors, heights, strict=True) if side is not None]
