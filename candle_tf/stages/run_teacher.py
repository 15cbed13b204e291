"""A network that an earlier run trained as the teacher: --teacher=run:FOLDER.

    refuse_bad_run_teachers(settings)              # before anything is computed
    refuse_seen_images(settings, data.split)       # when the split is known

It may be a float network (`--student=float_resnet18`) or a larger binary student, at the epoch that
its run selected. Its classifier is left out: a new one is calibrated on its features, as of every
teacher.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import tensorflow as tf

from candle_tf.data.splits.split import Split
from candle_tf.errors import UserError
from candle_tf.methods.trained_checkpoints import finish_network
from candle_tf.stages.earlier_run import EarlierRun
from candle_tf.teachers.backbones import Backbone
from candle_tf.teachers.feature_parts import shrink
from candle_tf.teachers.settings import TeacherChoice, TeacherSettings, split_teachers

_PREFIX = "run:"
# How the epochs of the runs are selected; "" as the runs themselves do.
_POLICY = ContextVar("policy", default="")


def load_run(choice: str, weights: str, sha256: str) -> Backbone:
    """What stands behind `teachers.registry.RUN_TEACHER`.

    Views are resized to the size that the network was trained at.

    Args:
        choice: the folder of the run.
        weights, sha256: must be "".

    Raises:
        UserError: where the folder is no run, or has no finished epoch; where weights are given.
    """
    run = _open(choice)
    if weights or sha256:
        raise UserError(
            f"{run.given} has weights of its own: leave --teacher_weights and "
            "--teacher_weights_sha256 out."
        )
    network = run.load_network(policy=_POLICY.get())
    finish_network(network)
    side = run.image_size

    def resize(pixels: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(_resize(pixels, side), (None, side, side, 3))

    return Backbone(tf.keras.Model(network.input, network.output["features"]), resize)


def _resize(pixels: tf.Tensor, side: int) -> tf.Tensor:
    """Antialiased; of a known size by operators that TFLite has, for the teacher's int8 file."""
    given = pixels.shape[1]
    if given is None or given != pixels.shape[2]:
        return tf.image.resize(pixels, (side, side), antialias=True)
    if given == side:
        return pixels
    return shrink(pixels, side) if given > side else tf.image.resize(pixels, (side, side))


def has_run(settings: TeacherSettings) -> bool:
    """Whether a run is the teacher, or one of several."""
    return any(_runs(settings))


@contextmanager
def select_epochs_by(policy: str) -> Iterator[None]:
    """Inside, `load_run` takes another epoch than the one that its run selected.

    Args:
        policy: as --select_epoch names them.
    """
    before = _POLICY.set(policy)
    try:
        yield
    finally:
        _POLICY.reset(before)


def refuse_bad_run_teachers(settings: TeacherSettings, map_weight: float) -> None:
    """Loads those of the teachers that are runs, to see whether they can be.

    Args:
        settings: of the teachers.
        map_weight: --map_weight.

    Raises:
        UserError: as `load_run`, and for what is asked of layers before the last: a run's network
            has one size of image, and what its layers are at others is not known.
    """
    for folder, teacher in _runs(settings):
        for flag, value, none in (
            ("teacher_layers", settings.teacher_layers, 1),
            ("map_weight", map_weight, 0),
        ):
            if value != none:
                raise UserError(
                    f"--{flag}={value:g} contradicts --teacher={_PREFIX}{folder}: of a run's "
                    f"network the last features alone are used. Give --{flag}={none}, or another "
                    "--teacher."
                )
        load_run(folder, teacher.weights, teacher.sha256)


def refuse_seen_images(settings: TeacherSettings, split: Split) -> None:
    """Refuses a teacher that was trained on this run's test images.

    Raises:
        UserError: as `EarlierRun.refuse_seen_images`.
    """
    for folder, _ in _runs(settings):
        _open(folder).refuse_seen_images(split)


def _runs(settings: TeacherSettings) -> Iterator[tuple[str, TeacherChoice]]:
    """The folders of those teachers that are runs."""
    for teacher in split_teachers(
        settings.teacher, settings.teacher_weights, settings.teacher_weights_sha256
    ):
        if teacher.name.startswith(_PREFIX):
            yield teacher.name.removeprefix(_PREFIX), teacher


def _open(choice: str) -> EarlierRun:
    return EarlierRun(Path(choice).expanduser(), f"--teacher={_PREFIX}{choice}")
