"""A network that an earlier run trained as the teacher: --teacher=run:FOLDER.

    refuse_bad_run_teachers(settings)              # before anything is computed
    refuse_seen_images(settings, data.split)       # when the split is known

It may be a float network (`--student=float_resnet18`) or a larger binary student. Its classifier is
left out: a new one is calibrated on its features, as of every teacher.
"""

from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from candle_tf.data.splits.split import Split
from candle_tf.errors import UserError
from candle_tf.methods.annealing import find_annealed_quantizers, set_exact_signs
from candle_tf.stages.earlier_run import EarlierRun
from candle_tf.teachers.backbones import Backbone
from candle_tf.teachers.settings import TeacherChoice, TeacherSettings, split_teachers

_PREFIX = "run:"


def load_run(choice: str, weights: str, sha256: str) -> Backbone:
    """What stands behind "run:<folder>" in `teachers.registry.TEACHERS`.

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
    network = run.load_network()
    set_exact_signs(find_annealed_quantizers(network))
    side = run.image_size

    def resize(pixels: tf.Tensor) -> tf.Tensor:
        resized = tf.image.resize(pixels, (side, side), antialias=True)
        return tf.ensure_shape(resized, (None, side, side, 3))

    return Backbone(tf.keras.Model(network.input, network.output["features"]), resize)


def refuse_bad_run_teachers(settings: TeacherSettings) -> None:
    """Loads those of the teachers that are runs, to see whether they can be.

    Raises:
        UserError: as `load_run`.
    """
    for folder, teacher in _runs(settings):
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
