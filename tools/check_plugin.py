"""Feeds every part that plugins register one tiny batch, and tells what each gave.

    python -m tools.check_plugin --plugin=my_parts

A line for every part, in seconds and without data: what was checked, or what is wrong. The checks
are those of a training. What needs the data of flags (`--data_dir`), or more parts, is not called.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from absl import flags

from candle_tf import app
from candle_tf.data.augment.augmentation import WHOLE, Augmentation, refuse_no_operation
from candle_tf.data.augment.settings import OPERATIONS, AugmentSettings
from candle_tf.data.augment.views import first_views
from candle_tf.data.images.store import ImageStore
from candle_tf.data.samplers import SAMPLERS
from candle_tf.data.sources.registry import SOURCES, open_source
from candle_tf.data.subset import Subset
from candle_tf.errors import UserError, find_user_error
from candle_tf.methods.calibration import build_calibration_loss, refuse_calibration_arguments
from candle_tf.methods.checked_distillation import try_balance, try_feature_loss, try_logit_loss
from candle_tf.methods.checked_losses import try_loss, try_losses
from candle_tf.methods.long_tail.settings import BaselineSettings
from candle_tf.methods.registry import (
    BALANCES,
    CALIBRATION_LOSSES,
    FEATURE_LOSSES,
    LOGIT_LOSSES,
    METHODS,
)
from candle_tf.methods.settings import BalanceSettings, CalibrationSettings
from candle_tf.plugins import import_plugins
from candle_tf.registry import Registry, refuse_signature
from candle_tf.students.analysis.preflight import refuse_unconvertible
from candle_tf.students.architectures.registry import STUDENTS, build_student
from candle_tf.students.layers.blocks import binary_layers
from candle_tf.teachers.backbones import load_teacher
from candle_tf.teachers.registry import TEACHERS

_SIDE = 32
_IMAGES = 5
# Training images of each of three classes.
_COUNTS = np.array([50, 20, 3])


def check_student(name: str) -> str:
    """Builds it small, for three classes, and runs it on random pixels."""
    student = build_student(name, (_SIDE, _SIDE, 3), len(_COUNTS), width=0.25, stem_stride=1)
    what = f"student {STUDENTS.title(name)}"
    try:
        refuse_unconvertible(student)
    except UserError as error:
        # Its message has the name of the Keras model alone, which a user may never have given.
        raise UserError(f"{what}: {error}") from error
    outputs = student(_pixels().astype(np.float32), training=False)
    for each, values in outputs.items():
        _require_finite(f"{what}: {each!r}", values)
    shapes = ", ".join(f"{each} {list(values.shape)}" for each, values in sorted(outputs.items()))
    return f"{shapes}, {len(binary_layers(student))} binary layers"


def check_method(name: str) -> str:
    """Computes its losses, where they need nothing else."""
    try_losses(name, BaselineSettings(), BalanceSettings().temperature, _COUNTS)
    return "its arguments, and losses float32 [B] where they need no queue"


def check_calibration_loss(name: str) -> str:
    """Computes it."""
    settings = CalibrationSettings()
    refuse_calibration_arguments(settings, name)
    loss = build_calibration_loss(settings, _COUNTS, _COUNTS, name)
    try_loss(loss, f"calibration loss {CALIBRATION_LOSSES.title(name)}", len(_COUNTS))
    return "losses float32 [B]"


def check_teacher(name: str) -> str:
    """Loads it, where its name takes no choice, and runs it on random pixels."""
    if "<" in name:
        return "found; not loaded, as its name takes more"
    teacher = load_teacher(name)
    features = teacher.features(_pixels())
    _require_finite(f"teacher {TEACHERS.title(name)}: its features", features)
    return f"features {list(features.shape)}"


def check_source(name: str) -> str:
    """Opens it, where its name takes no choice, and reads the first image."""
    if "<" in name:
        return "found; not opened, as its name takes more"
    with open_source(name) as source:
        first = source.train.ids[0]
        shape = source.read_image(first).shape
        source.content_hash([first])
        return f"{len(source.train.ids)} images of {len(source.class_names)} classes, {shape}"


def check_operation(name: str) -> str:
    """Draws and renders views of random images."""
    refuse_no_operation(name)
    operation = OPERATIONS[name].from_settings(AugmentSettings())
    if operation is None:
        return "found; `from_settings` gives none for the default settings"
    subset = _subset()
    augmentation = Augmentation((*WHOLE.operations, operation), seed=0)
    batch = augmentation.draw(subset, first_views(np.arange(_IMAGES)))
    what = f"augmentation {OPERATIONS.title(name)}"
    _require_signature(what, batch, augmentation.signature(subset, _IMAGES))
    dataset = tf.data.Dataset.from_tensors(batch)
    pixels = next(iter(dataset.map(lambda each: augmentation.render(each, _SIDE)))).numpy()
    _require_finite(f"{what}: `apply`", pixels)
    return f"views {list(pixels.shape)} of {pixels.min():.0f} to {pixels.max():.0f}"


def check_sampler(name: str) -> str:
    """Asks for the classes' probabilities."""
    what = f"sampler {SAMPLERS.title(name)}"
    refuse_signature(what, SAMPLERS[name], "counts", "done")
    found = np.asarray(SAMPLERS[name](_COUNTS.astype(np.float64), 0.5))
    if found.shape != _COUNTS.shape or (found < 0).any() or not np.isclose(found.sum(), 1.0):
        raise UserError(f"{what} gave {found.tolist()}; asked are 3 probabilities with the sum 1.")
    return "probabilities of classes"


def check_balance(name: str) -> str:
    """Balances two losses of a few examples."""
    try_balance(BalanceSettings(balance=name), _COUNTS)
    return "a total loss, and its lambda"


def check_feature_loss(name: str) -> str:
    """Computes it on made-up features."""
    try_feature_loss(BalanceSettings(feature_loss=name))
    return "losses float32 [B], and those of constant predictions"


def check_logit_loss(name: str) -> str:
    """Computes it on made-up logits."""
    try_logit_loss(BalanceSettings(logit_loss=name), len(_COUNTS))
    return "losses float32 [B], and those of constant predictions"


# Kind, registry, and what checks a name of it.
KINDS: list[tuple[str, Registry[Any], Callable[[str], str]]] = [
    ("student", STUDENTS, check_student),
    ("method", METHODS, check_method),
    ("teacher", TEACHERS, check_teacher),
    ("source", SOURCES, check_source),
    ("augmentation", OPERATIONS, check_operation),
    ("sampler", SAMPLERS, check_sampler),
    ("calibration loss", CALIBRATION_LOSSES, check_calibration_loss),
    ("balance", BALANCES, check_balance),
    ("feature loss", FEATURE_LOSSES, check_feature_loss),
    ("logit loss", LOGIT_LOSSES, check_logit_loss),
]


def registered_names() -> set[tuple[str, str]]:
    """Kind and name of all parts that are registered now."""
    return {(kind, name) for kind, registry, _ in KINDS for name in registry}


def check_parts(parts: set[tuple[str, str]]) -> int:
    """Prints a line for every part; the number of those that are wrong.

    Args:
        parts: kind and name, as of `registered_names`.
    """
    wrong = 0
    for kind, registry, check in KINDS:
        for name in registry:
            if (kind, name) in parts:
                found, is_right = _check(check, name, f"{kind} {registry.title(name)}")
                wrong += not is_right
                print(
                    f"ok    {kind} {registry.title(name)}: {found}"
                    if is_right
                    else f"WRONG {found}"
                )
    return wrong


def _check(check: Callable[[str], str], name: str, what: str) -> tuple[str, bool]:
    try:
        return check(name), True
    except UserError as error:
        return str(find_user_error(error) or error), False
    except Exception as error:
        # What the part itself raises may be anything.
        return f"{what} raised {type(error).__name__}: {error}", False


def _pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (_IMAGES, _SIDE, _SIDE, 3), np.uint8)


def _subset() -> Subset:
    rows = {f"{row}.png": row for row in range(_IMAGES)}
    store = ImageStore(_pixels(), np.arange(_IMAGES, dtype=np.int64), rows, digest="")
    return Subset(store, np.arange(_IMAGES), np.zeros(_IMAGES, np.int32))


def _require_finite(what: str, values: Any) -> None:
    if not np.isfinite(values).all():
        raise UserError(f"{what} gave values that are not finite.")


def _require_signature(
    what: str, batch: Mapping[str, np.ndarray], signature: Mapping[str, tf.TensorSpec]
) -> None:
    """Checks that `draw` gives what `signature` says."""
    if batch.keys() != signature.keys():
        names = sorted(batch.keys() ^ signature.keys())
        raise UserError(f"{what}: {', '.join(names)} is in `draw` or in `signature` alone.")
    for name, spec in signature.items():
        given = np.asarray(batch[name])
        if given.dtype != spec.dtype.as_numpy_dtype or not spec.shape.is_compatible_with(
            given.shape
        ):
            raise UserError(
                f"{what}: `draw` gave {name!r} as {given.dtype} {list(given.shape)}; `signature` "
                f"says {spec.dtype.name} {spec.shape}."
            )


def define_flags() -> None:
    """Defines this main's flags: when it runs, as other mains have flags of the same names."""
    flags.DEFINE_string("plugin", "", "Python modules that register parts, separated by commas")


def main() -> None:
    """Checks what --plugin registers."""
    before = registered_names()
    import_plugins(flags.FLAGS.plugin)
    parts = registered_names() - before
    if not parts:
        raise UserError(f"--plugin={flags.FLAGS.plugin} registers nothing; see docs/plugins.md.")
    if wrong := check_parts(parts):
        raise UserError(
            f"{wrong} of {len(parts)} parts of --plugin={flags.FLAGS.plugin} are wrong."
        )


if __name__ == "__main__":
    define_flags()
    app.run(lambda _: main(), needs_arguments=True)
