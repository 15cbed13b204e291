"""What --student_weights stands for: shipped weights, larq-zoo's, a file's, or a run's."""

from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from candle_tf.data.splits.split import load_split
from candle_tf.errors import UserError
from candle_tf.files import read_json_object
from candle_tf.methods.checkpoints import Checkpoints
from candle_tf.students.settings import StudentSettings
from candle_tf.students.weights.larq_zoo import larq_zoo_file
from candle_tf.students.weights.loading import (
    StartingWeights,
    load_weights_file,
    shipped_weights,
    start_from,
)
from candle_tf.students.weights.spec import StudentSpec, parse_spec

PRETRAINED, LARQ_ZOO = "pretrained", "larq_zoo"
# Of a network whose classifier is not used.
_ANY_CLASSES = 2


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
    """The best epoch of a run, or of a pretraining."""
    if sha256:
        raise UserError(
            f"--student_weights_sha256={sha256} is for a file, and --student_weights={path} is the "
            "folder of a run, whose checkpoints have checksums of their own. Leave it out."
        )
    found = run_spec(path)
    if (found.name, found.width) != (spec.name, spec.width):
        raise UserError(
            f"--student_weights={path} is a run of {found}, and the student is {spec}: give "
            f"--student={found.name} --width={found.width:g}, or other weights."
        )
    split = path / "split.json"
    class_names = load_split(split).class_names if split.exists() else None
    classes = _ANY_CLASSES if class_names is None else len(class_names)
    network = spec.build(image_size, classes)
    read_best_epoch(path, network)
    return StartingWeights(network, class_names, str(path))


def run_spec(path: Path) -> StudentSpec:
    """The student of a run's folder, or of a pretraining's.

    Raises:
        UserError: where the folder is neither.
    """
    remedy = f"--student_weights={path} is no folder of a run: give what --run_dir named."
    settings = read_json_object(path / "config.json", remedy)
    try:
        return parse_spec(*(settings[name] for name in ("student", "width", "stem_stride")))
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{path / 'config.json'} holds no settings of a run ({type(error).__name__}: {error}). "
            f"{remedy}"
        ) from error


def read_best_epoch(path: Path, network: tf.keras.Model) -> int:
    """Puts the weights of a run's best epoch into a network of its architecture.

    Returns:
        The epoch, counted from 1.

    Raises:
        UserError: where there is no epoch yet, or a file is missing or damaged.
    """
    trainer = tf.Module()
    trainer.network = network
    checkpoints = Checkpoints(path / "student" / "checkpoints", trainer)
    if not checkpoints.epochs_done:
        raise UserError(f"--student_weights={path}: no epoch of its student is finished yet.")
    checkpoints.read_network(checkpoints.best_epoch)
    return checkpoints.best_epoch
