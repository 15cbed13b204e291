"""What --student_weights stands for: shipped weights, larq-zoo's, a file's, or a run's."""

from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from candle_tf.data.splits.split import Split
from candle_tf.errors import UserError
from candle_tf.stages.earlier_run import EarlierRun
from candle_tf.students.settings import StudentSettings
from candle_tf.students.weights.larq_zoo import larq_zoo_file
from candle_tf.students.weights.loading import (
    StartingWeights,
    load_weights_file,
    shipped_weights,
    start_from,
)
from candle_tf.students.weights.spec import StudentSpec

PRETRAINED, LARQ_ZOO = "pretrained", "larq_zoo"


def start_student(
    settings: StudentSettings, student: tf.keras.Model, class_names: Sequence[str]
) -> None:
    """Puts the weights that --student_weights names into a new student.

    Args:
        settings: of the student.
        student: as built; unchanged without --student_weights.
        class_names: of its classes.

    Raises:
        UserError: where the weights are missing, damaged or of another student.
    """
    if settings.student_weights:
        start_from(starting_weights(settings), student, class_names)


def refuse_seen_images(settings: StudentSettings, split: Split) -> None:
    """Refuses starting weights of a run that was trained on this run's test images.

    Raises:
        UserError: as `EarlierRun.refuse_seen_images`.
    """
    path = Path(settings.student_weights).expanduser()
    if settings.student_weights not in ("", PRETRAINED, LARQ_ZOO) and path.is_dir():
        _open(path).refuse_seen_images(split)


def starting_weights(settings: StudentSettings) -> StartingWeights:
    """Loads the weights that --student_weights names.

    Raises:
        UserError: as `start_student`.
    """
    spec = StudentSpec(settings.student, settings.width, settings.stem_stride)
    given, sha256 = settings.student_weights, settings.student_weights_sha256
    if given == PRETRAINED:
        path, of_card = shipped_weights(spec)
        sha256 = sha256 or of_card
    elif given == LARQ_ZOO:
        path = larq_zoo_file(spec)
    else:
        path = Path(given).expanduser()
        if path.is_dir():
            return _of_run(path, spec, settings.image_size, sha256)
    return load_weights_file(path, spec, settings.image_size, sha256)


def _of_run(path: Path, spec: StudentSpec, image_size: int, sha256: str) -> StartingWeights:
    """The epoch that a run selected, or the best one of a pretraining."""
    if sha256:
        raise UserError(
            f"--student_weights_sha256={sha256} is for a file, and --student_weights={path} is the "
            "folder of a run, whose checkpoints have checksums of their own. Leave it out."
        )
    run = _open(path)
    found = run.spec
    if (found.name, found.width) != (spec.name, spec.width):
        raise UserError(
            f"--student_weights={path} is a run of {found}, and the student is {spec}: give "
            f"--student={found.name} --width={found.width:g}, or other weights."
        )
    return StartingWeights(run.load_network(image_size), run.class_names, str(path))


def _open(path: Path) -> EarlierRun:
    return EarlierRun(path, f"--student_weights={path}")
