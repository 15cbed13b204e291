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
from candle_tf.teachers.network_maps import MEASURED_SIDE, cut_tensors, map_heights

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
    tensors = cut_tensors(backbone)
    sides = map_heights(backbone, tensors)
    for tensor, side in zip(reversed(tensors), reversed(sides), strict=True):
        if side is None:
            continue
        if (not found or side >= _RATIO * height) and side < MEASURED_SIDE:
            found.append(tensor)
            height = side
    return found
