"""Pretrained teachers: a frozen encoder from pixels to pooled features, by name.

    teacher = load_teacher("efficientnet_lite0")                       # offline
    teacher = load_teacher("keras_cv:resnet50_imagenet")               # through the network
    teacher = load_teacher("keras_applications:ResNet152", weights="resnet152_notop.h5")
    teacher = load_teacher("efficientnet_lite0+efficientnet_lite2")    # both, side by side
    teacher.features(pixels)                                           # [N, teacher.feature_size]

A teacher is frozen for good: no batch-norm statistic, dropout mask or gradient of its own, whatever
the training flag of the call or of the model around it says.
"""

import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import keras_cv
import numpy as np
import tensorflow as tf
from absl import logging

from candle_tf.errors import UserError, find_user_error
from candle_tf.registry import refuse_signature
from candle_tf.teachers.earlier_maps import with_earlier_maps
from candle_tf.teachers.efficientnet_lite import efficientnet_lite, normalise, package_weights
from candle_tf.teachers.feature_parts import FeaturePart, side_by_side
from candle_tf.teachers.folding import fold_batch_norms
from candle_tf.teachers.registry import OFFLINE_TEACHER, OWN_TEACHERS, TEACHERS
from candle_tf.teachers.settings import TeacherChoice, TeacherSettings, split_teachers
from candle_tf.weight_files.checksums import fingerprint, verified_bytes, verify
from candle_tf.weight_files.keras_h5 import load_h5

Preprocess = Callable[[tf.Tensor], tf.Tensor]


@dataclass(frozen=True)
class Backbone:
    """What a function of `registry.TEACHERS` returns.

    Attributes:
        model: functional model from preprocessed pixels to maps [N, h, w, d] or features [N, d].
            (--teacher_layers above 1 needs its layers; else any Keras model will do.)
        preprocess: from pixels float32 [N, H, W, 3] in 0..255 to what `model` takes.
        foldable: whether all of its layers allow `folding.fold_batch_norms`.
    """

    model: tf.keras.Model
    preprocess: Preprocess
    foldable: bool = False


class FrozenBackbone(tf.keras.layers.Layer):
    """Preprocessing, backbone and global average pooling, always in inference mode.

    Args:
        backbone: functional model from preprocessed pixels to maps [N, h, w, d] or features [N, d],
            or to a list of them, whose pooled features are then side by side.
        preprocess: from pixels float32 [N, H, W, 3] in 0..255 to what `backbone` takes.
        name: of the layer.
        scales: what the features of each output are multiplied by; by default nothing.
        title: the teacher's name and place, for messages.

    Attributes:
        sizes: features of each output; known once the layer was called.
    """

    def __init__(
        self,
        backbone: tf.keras.Model,
        preprocess: Preprocess,
        name: str = "frozen_backbone",
        scales: Sequence[float] = (),
        title: str = "",
    ) -> None:
        # float32 pixels even under a mixed-precision policy, which the backbone itself follows.
        super().__init__(trainable=False, name=name, dtype="float32")
        backbone.trainable = False
        self._backbone = backbone
        self._preprocess = preprocess
        self._scales = tuple(scales)
        self._title = title
        self.sizes: tuple[int, ...] = ()

    def call(self, pixels: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Pooled features, float32 [N, d]; `training` has no effect.

        Raises:
            UserError: while it is traced, for outputs that are neither maps nor features.
        """
        del training  # Keras passes the surrounding model's; a teacher only ever infers.
        outputs = tf.nest.flatten(self._backbone(self._preprocess(pixels), training=False))
        features = [_pool(output, self._title) for output in outputs]
        # A model that is no functional one only tells them here.
        self.sizes = tuple(int(part.shape[-1]) for part in features)
        if self._scales:
            features = [scale * part for scale, part in zip(self._scales, features, strict=True)]
        # Tapes watch every variable TensorFlow calls trainable, whatever Keras calls it.
        return tf.stop_gradient(features[0] if len(features) == 1 else tf.concat(features, 1))

    def with_scales(self, scales: Sequence[float]) -> "FrozenBackbone":
        """The same network, with other scales."""
        return FrozenBackbone(self._backbone, self._preprocess, self.name, scales, self._title)

    # Setting `trainable` on a model sets it on all layers inside, past any setter of theirs: so
    # what an optimiser may be given is decided here.
    @property
    def trainable_weights(self) -> list[tf.Variable]:
        """None, whatever `trainable` was set to."""
        return []

    @property
    def non_trainable_weights(self) -> list[tf.Variable]:
        """All weights and batch-norm statistics, in the backbone's order."""
        return list(self._backbone.weights)

    @property
    def backbone(self) -> tf.keras.Model:
        """The network, from preprocessed pixels."""
        return self._backbone

    def preprocess(self, pixels: tf.Tensor) -> tf.Tensor:
        """What the network takes of pixels float32 [N, H, W, 3] in 0..255."""
        return self._preprocess(pixels)


def _pool(output: tf.Tensor, title: str) -> tf.Tensor:
    """Maps [N, h, w, d] or features [N, d] to features, float32 [N, d]."""
    if output.shape.rank not in (2, 4) or output.shape[-1] is None:
        raise UserError(
            f"teacher {title}: its model gave an output of shape {output.shape}; asked are maps "
            "[N, h, w, d] or features [N, d], with a d that does not depend on the images."
        )
    features = tf.reduce_mean(output, axis=[1, 2]) if output.shape.rank == 4 else output
    return tf.cast(features, tf.float32)


@dataclass(frozen=True)
class Teacher:
    """A frozen, pretrained encoder, or several side by side.

    Attributes:
        name: as given to `load_teacher`.
        encoder: from RGB pixels, float32 [N, H, W, 3] in 0..255 with any H and W the backbone
            admits, to pooled features, float32 [N, feature_size]. Preprocessing is inside.
        feature_size: d_T of the paper.
        fingerprint: `checksums.fingerprint` of the encoder as it was loaded.
        inference: what `features` runs where it is not the encoder itself: the same function,
            faster.
        parts: what its features are made of, in order; one part where none is given.
        has_foreign_code: whether a function that is not this package's makes it, as a plugin's: its
            fingerprint does not tell what that does with the weights.
        checked: files of stored values that were compared with what it gives (`stored_values`).
    """

    name: str
    encoder: tf.keras.Model
    feature_size: int
    fingerprint: str
    inference: tf.keras.Model | None = None
    parts: tuple[FeaturePart, ...] = ()
    has_foreign_code: bool = False
    checked: set[Path] = field(default_factory=set, repr=False, compare=False)
    _compiled: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        encoder = self.inference or self.encoder
        compiled = tf.function(
            lambda pixels: encoder(pixels, training=False), reduce_retracing=True
        )
        object.__setattr__(self, "_compiled", compiled)
        if not self.parts:
            object.__setattr__(self, "parts", (FeaturePart(self.name, self.feature_size),))

    def features(self, pixels: tf.Tensor | np.ndarray) -> tf.Tensor:
        """Pooled features of a batch.

        Args:
            pixels: RGB, [N, H, W, 3], values in 0..255 of any numeric type.

        Returns:
            float32 [N, feature_size], without gradient.
        """
        return self._compiled(tf.cast(pixels, tf.float32))

    def with_scales(self, scales: Sequence[float]) -> "Teacher":
        """The same teacher, with its parts multiplied by constants.

        Args:
            scales: one for every part.
        """
        parts = tuple(replace(p, scale=s) for p, s in zip(self.parts, scales, strict=True))
        return replace(
            self,
            encoder=_scale_encoder(self.encoder, scales),
            inference=self.inference and _scale_encoder(self.inference, scales),
            parts=parts,
            checked=set(),
        )


def load_teacher(
    name: str, weights: str = "", weights_sha256: str = "", layers: int = 1
) -> Teacher:
    """Builds a teacher and loads its weights.

    Args:
        name: "efficientnet_lite0", "..._lite1" or "..._lite2", ImageNet weights out of an installed
            package;
            "keras_cv:<preset>", a KerasCV backbone preset, fetched;
            "keras_applications:<Name>", a `tf.keras.applications` model with ImageNet weights,
            fetched; or several of these, joined by "+".
        weights: path of a weights file to use instead of the package's or the fetched ones: a
            PyTorch file in the package's layout for an EfficientNet-Lite, else an HDF5 file of the
            backbone without its classifier. Of several teachers one for each, separated by commas,
            empty for its own.
        weights_sha256: what the SHA-256 of that file (or of the package's) must be; "" for any. Of
            several teachers as `weights`.
        layers: of each teacher, whose features are side by side: the last, and maps at earlier
            strides (`earlier_maps`).

    Raises:
        UserError: unknown name; weights that are missing, cannot be fetched, have another SHA-256
            or do not fit the architecture; a teacher without so many layers; or a function of
            `registry.TEACHERS` that takes other arguments, or gives no `Backbone`.
    """
    choices = split_teachers(name, weights, weights_sha256)
    return _teacher(name, choices, [_load_backbone(*choice) for choice in choices], layers)


def refuse_unknown_teachers(settings: TeacherSettings) -> None:
    """Refuses teachers that are known to be wrong before one is loaded.

    Raises:
        UserError: unknown name, or a function of `registry.TEACHERS` that takes other arguments.
    """
    choices = split_teachers(
        settings.teacher, settings.teacher_weights, settings.teacher_weights_sha256
    )
    for choice in choices:
        _find_loader(choice.name)


def _find_loader(name: str) -> tuple[Callable[[str, str, str], Any], str]:
    """The function of a teacher's name, and what it adds to the registered one."""
    found = TEACHERS.find(name)
    if found is None:
        raise UserError(
            f"Unknown teacher {name!r}: use one of {', '.join(TEACHERS)}, such as "
            "keras_cv:resnet50_imagenet or keras_applications:ResNet152."
        )
    kind, choice = found
    load = TEACHERS[kind]
    refuse_signature(f"teacher {TEACHERS.title(kind)}", load, "choice", "weights", "sha256")
    return load, choice


def _load_backbone(name: str, weights: str, weights_sha256: str) -> Backbone:
    load, choice = _find_loader(name)
    backbone = load(choice, weights, weights_sha256)
    if not isinstance(backbone, Backbone):
        kind = type(backbone).__name__
        raise UserError(
            f"teacher {_title(name)} returned {kind} and not a Backbone: return "
            "candle_tf.teachers.backbones.Backbone(model, preprocess)."
        )
    if not isinstance(backbone.model, tf.keras.Model) or not callable(backbone.preprocess):
        kinds = [type(part).__name__ for part in (backbone.model, backbone.preprocess)]
        raise UserError(
            f"teacher {_title(name)} returned a Backbone of {kinds[0]} and {kinds[1]}; asked are a "
            "Keras model and a function of pixels."
        )
    return backbone


def _title(name: str) -> str:
    found = TEACHERS.find(name)
    return TEACHERS.title(found[0]) if found else repr(name)


def load_configured_teacher(settings: TeacherSettings) -> Teacher:
    """The teacher that the flags name; see `load_teacher`."""
    return load_teacher(
        settings.teacher,
        settings.teacher_weights,
        settings.teacher_weights_sha256,
        settings.teacher_layers,
    )


def _teacher(
    name: str, choices: Sequence[TeacherChoice], backbones: Sequence[Backbone], layers: int
) -> Teacher:
    backbones = [
        replace(each, model=with_earlier_maps(each.model, layers, choice.name))
        for choice, each in zip(choices, backbones, strict=True)
    ]
    titles = [_title(choice.name) for choice in choices]
    encoder, inference = _encoder(_freeze(backbones, titles)), None
    if any(each.foldable for each in backbones):
        inference = _encoder(
            _freeze(
                [
                    replace(each, model=fold_batch_norms(each.model)) if each.foldable else each
                    for each in backbones
                ],
                titles,
            )
        )
    parts = tuple(
        FeaturePart(choice.name, size, layer, choice.weights)
        for choice, frozen in zip(choices, _frozen_backbones(encoder), strict=True)
        for layer, size in enumerate(frozen.sizes)
    )
    size = int(encoder.output_shape[-1])
    foreign = any(_is_foreign(choice.name) for choice in choices)
    teacher = Teacher(name, encoder, size, fingerprint(encoder), inference, parts, foreign)
    logging.info(
        "Teacher %s: %d features, weights %s", name, teacher.feature_size, teacher.fingerprint
    )
    return teacher


def _is_foreign(name: str) -> bool:
    found = TEACHERS.find(name)
    return found is None or found[0] not in OWN_TEACHERS


def _freeze(backbones: Sequence[Backbone], titles: Sequence[str]) -> list[FrozenBackbone]:
    return [
        FrozenBackbone(each.model, each.preprocess, f"frozen_backbone{number or ''}", title=title)
        for number, (each, title) in enumerate(zip(backbones, titles, strict=True))
    ]


def _encoder(frozen: Sequence[FrozenBackbone]) -> tf.keras.Model:
    pixels = tf.keras.Input((None, None, 3), dtype="float32", name="pixels")
    try:
        features = [each(pixels) for each in frozen]
    except UserError as error:
        if explained := find_user_error(error):
            raise explained from error
        raise
    return tf.keras.Model(pixels, side_by_side(features), name="teacher_encoder", trainable=False)


def _frozen_backbones(encoder: tf.keras.Model) -> list[FrozenBackbone]:
    """Those of an encoder, in the order of their features."""
    return [layer for layer in encoder.layers if isinstance(layer, FrozenBackbone)]


def _scale_encoder(encoder: tf.keras.Model, scales: Sequence[float]) -> tf.keras.Model:
    """The same encoder with one scale for each output of its backbones."""
    frozen, start = [], 0
    for each in _frozen_backbones(encoder):
        stop = start + len(each.sizes)
        frozen.append(each.with_scales(scales[start:stop]))
        start = stop
    return _encoder(frozen)


def _load_efficientnet_lite(name: str, choice: str, weights: str, sha256: str) -> Backbone:
    """EfficientNet-Lite with ImageNet weights out of an installed package, or of a file.

    Args:
        name: of the teacher.
        choice: "".
        weights, sha256: as of `load_teacher`; a PyTorch file in the package's layout.
    """
    del choice
    if weights:
        model = efficientnet_lite(name, verified_bytes(weights, sha256), weights)
    else:
        model = efficientnet_lite(name, package_weights(name, sha256) if sha256 else None)
    return Backbone(model, normalise, foldable=True)


load_efficientnet_lite0 = partial(_load_efficientnet_lite, "efficientnet_lite0")
load_efficientnet_lite1 = partial(_load_efficientnet_lite, "efficientnet_lite1")
load_efficientnet_lite2 = partial(_load_efficientnet_lite, "efficientnet_lite2")


def load_keras_cv(choice: str, weights: str, sha256: str) -> Backbone:
    """A KerasCV backbone preset; `weights` is an HDF5 file."""
    _verify_given(f"keras_cv:{choice}", weights, sha256)
    return Backbone(*_keras_cv(choice, weights))


def load_keras_applications(choice: str, weights: str, sha256: str) -> Backbone:
    """A model of `tf.keras.applications`; `weights` is an HDF5 file."""
    _verify_given(f"keras_applications:{choice}", weights, sha256)
    return Backbone(*_keras_applications(choice, weights))


def _verify_given(name: str, weights: str, sha256: str) -> None:
    if weights:
        verify(weights, sha256)
    elif sha256:
        raise UserError(
            f"A sha256 ({sha256}) was given for teacher {name!r} without a weights "
            "file: it can only be checked against a file, so give one."
        )


def _fetch_error(name: str, what: str, error: BaseException) -> UserError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    remedy = "Fetch them on another machine and give the file with --teacher_weights"
    if what == "settings":
        remedy = f"Use an architecture that is built in ({', '.join(_BUILT_IN)}; also resnet*_v2)"
    return UserError(
        f"Could not fetch the {what} of teacher {name!r} through the network ({reason}). {remedy}, "
        f"or use the offline teacher {OFFLINE_TEACHER}."
    )


# ---- tf.keras.applications


def _keras_applications(choice: str, weights: str) -> tuple[tf.keras.Model, Preprocess]:
    families = _application_families()
    if choice not in families:
        raise UserError(
            f"Unknown teacher 'keras_applications:{choice}': the names are {', '.join(families)}."
        )
    family = families[choice]
    settings = {"include_top": False, "pooling": "avg", "input_shape": (None, None, 3)}
    build = getattr(tf.keras.applications, choice)
    if weights:
        if choice.startswith("EfficientNetB"):
            # It scales its input otherwise for ImageNet weights than for any others, and a file
            # does not tell which it holds: a wrong guess would only show in the accuracy.
            raise UserError(
                f"Teacher 'keras_applications:{choice}' cannot take its weights from {weights}: "
                "Keras prepares its input rightly only for weights it fetches itself. Leave out "
                "the file, or use an EfficientNetV2."
            )
        backbone = build(weights=None, **settings)
        load_h5(backbone, weights, f"keras_applications:{choice}")
        return backbone, family.preprocess_input
    try:
        return build(weights="imagenet", **settings), family.preprocess_input
    # Keras raises a bare Exception for a failed download, so only its message tells it apart.
    except Exception as error:
        if "URL fetch failure" not in str(error):
            raise
        raise _fetch_error(f"keras_applications:{choice}", "weights", error) from error


def _application_families() -> dict[str, types.ModuleType]:
    """Name of each `tf.keras.applications` model -> the module with its `preprocess_input`."""
    families = {}
    for module in vars(tf.keras.applications).values():
        if isinstance(module, types.ModuleType) and hasattr(module, "preprocess_input"):
            for name, value in vars(module).items():
                # A NASNet only works at the one input size it is built for.
                if name[0].isupper() and callable(value) and not name.startswith("NASNet"):
                    families[name] = module
    # The one family whose models stand beside their module and not in it.
    beside = dict.fromkeys(
        ("MobileNetV3Large", "MobileNetV3Small"), tf.keras.applications.mobilenet_v3
    )
    return dict(sorted((families | beside).items()))


# ---- KerasCV


def _keras_cv(choice: str, weights: str) -> tuple[tf.keras.Model, Preprocess]:
    presets, pretrained = _keras_cv_presets()
    if choice not in presets:
        raise UserError(
            f"Unknown teacher 'keras_cv:{choice}': the presets are {', '.join(sorted(presets))}."
        )
    if not weights and choice not in pretrained:
        raise UserError(
            f"The preset of teacher 'keras_cv:{choice}' has no pretrained weights: give a weights "
            f"file with --teacher_weights, or use one of {', '.join(sorted(pretrained))}."
        )
    backbone = _known_architecture(choice) if weights else None
    if backbone is None:
        try:
            backbone = keras_cv.models.Backbone.from_preset(
                presets[choice]["kaggle_handle"], load_weights=not weights
            )
        except OSError as error:  # what the hub's client raises without a network is one
            what = "settings" if weights else "weights"
            raise _fetch_error(f"keras_cv:{choice}", what, error) from error
    if backbone.input_shape != (None, None, None, 3):
        raise UserError(
            f"Teacher 'keras_cv:{choice}' takes inputs {backbone.input_shape} and not images of "
            "any size: use a preset for image classification."
        )
    if weights:
        load_h5(backbone, weights, f"keras_cv:{choice}")
    return backbone, _rescaling(backbone)


def _keras_cv_presets() -> tuple[dict[str, Any], set[str]]:
    """All of KerasCV's backbone presets, and the names of those with weights."""
    families: list[Any] = [
        value
        for value in vars(keras_cv.models).values()
        if isinstance(value, type) and issubclass(value, keras_cv.models.Backbone)
    ]
    presets: dict[str, Any] = {}
    pretrained: set[str] = set()
    for family in families:
        presets |= family.presets
        pretrained |= set(family.presets_with_weights)
    return presets, pretrained


def _rescaling(backbone: tf.keras.Model) -> Preprocess:
    """KerasCV's backbones take 0..1, which most presets make of 0..255 themselves."""
    if backbone.include_rescaling:
        return tf.identity
    return lambda pixels: pixels / 255.0


_RESNETS = {
    "resnet18": ("basic_block", [2, 2, 2, 2]),
    "resnet34": ("basic_block", [3, 4, 6, 3]),
    "resnet50": ("block", [3, 4, 6, 3]),
    "resnet101": ("block", [3, 4, 23, 3]),
    "resnet152": ("block", [3, 8, 36, 3]),
}
_EFFICIENTNET_V2: dict[str, dict[str, list[int]]] = {
    # By stage, after arXiv 2104.00298, table 4; "filters" starts with the stem's. The first three
    # stages are fused.
    "s": {
        "repeats": [2, 4, 4, 6, 9, 15],
        "filters": [24, 24, 48, 64, 128, 160, 256],
        "expansions": [1, 4, 4, 4, 6, 6],
        "strides": [1, 2, 2, 2, 1, 2],
    },
    "m": {
        "repeats": [3, 5, 5, 7, 14, 18, 5],
        "filters": [24, 24, 48, 80, 160, 176, 304, 512],
        "expansions": [1, 4, 4, 4, 6, 6, 6],
        "strides": [1, 2, 2, 2, 1, 2, 1],
    },
    "l": {
        "repeats": [4, 7, 7, 10, 19, 25, 7],
        "filters": [32, 32, 64, 96, 192, 224, 384, 640],
        "expansions": [1, 4, 4, 4, 6, 6, 6],
        "strides": [1, 2, 2, 2, 1, 2, 1],
    },
}

_BUILT_IN = [*_RESNETS, *(f"efficientnetv2_{size}" for size in _EFFICIENTNET_V2)]


def _known_architecture(choice: str) -> tf.keras.Model | None:
    """Builds a preset's architecture with random weights; None if only the hub knows it.

    KerasCV keeps even the settings of its presets on the hub, hence this table of the families that
    teachers mostly come from.
    """
    family, _, size = choice.removesuffix("_imagenet").partition("_")
    if family in _RESNETS:
        block_type, blocks = _RESNETS[family]
        second = size == "v2"
        resnet = keras_cv.models.ResNetV2Backbone if second else keras_cv.models.ResNetBackbone
        return resnet(
            stackwise_filters=[64, 128, 256, 512],
            stackwise_blocks=blocks,
            stackwise_strides=[1, 2, 2, 2],
            block_type=block_type,
            include_rescaling=True,
        )
    if family == "efficientnetv2" and size in _EFFICIENTNET_V2:
        stages = _EFFICIENTNET_V2[size]
        count = len(stages["repeats"])
        return keras_cv.models.EfficientNetV2Backbone(
            stackwise_kernel_sizes=[3] * count,
            stackwise_num_repeats=stages["repeats"],
            stackwise_input_filters=stages["filters"][:-1],
            stackwise_output_filters=stages["filters"][1:],
            stackwise_expansion_ratios=stages["expansions"],
            stackwise_squeeze_and_excite_ratios=[0.0] * 3 + [0.25] * (count - 3),
            stackwise_strides=stages["strides"],
            stackwise_conv_types=["fused"] * 3 + ["unfused"] * (count - 3),
            width_coefficient=1.0,
            depth_coefficient=1.0,
            include_rescaling=True,
        )
    return None
