"""All that an export needs, checked before hours of training.

check_export_requirements(config, data.split.class_names, folder)
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from candle_tf.config import Config
from candle_tf.deploy.saved_model.labels import encode_labels
from candle_tf.deploy.tflite.interpreters import compute_engine, import_litert
from candle_tf.errors import UserError
from candle_tf.run_folder import RunFolder
from candle_tf.stages.disk_space import DiskNeeds, disk_needs
from candle_tf.students.analysis.preflight import refuse_unconvertible, warn_of_float


def check_export_requirements(
    config: Config, class_names: Sequence[str], folder: RunFolder
) -> DiskNeeds | None:
    """Refuses a run whose export would fail for a reason that is known before it.

    Only for a student that is not trained yet: it is built once for this, and the random state is
    set again as at the start of the run.

    Args:
        config: the run's settings.
        class_names: one name per class.
        folder: of the run.

    Returns:
        The room that the run needs, to be checked again when the teacher is known; None for a
        student that is trained.

    Raises:
        UserError: for class names that a label file cannot hold; a converter or an interpreter that
            cannot be imported; a Python that cannot start another; a student that would not stay
            binary, or is larger than a TFLite file may be; folders that cannot be written, or have
            no room.
    """
    if "student" in folder.manifest().get("stages", {}):
        return None
    encode_labels(class_names, len(class_names))
    compute_engine()
    import_litert()
    if not sys.executable:
        raise UserError(
            "Python does not know its own program (sys.executable is empty), so the export could "
            "not be checked in a process of its own: run this with the python command."
        )
    student = config.student.build(len(class_names))
    refuse_unconvertible(student)
    warn_of_float(config.student.student, student)
    tf.keras.utils.set_random_seed(config.run.seed)
    needs = disk_needs(config, student, folder)
    needs.require()
    # After the room: a full disk cannot be written either.
    temporary = Path(tempfile.gettempdir())
    for place in (folder.export_path, folder.export_path / "saved_model", temporary):
        require_writable(place)
    return needs


def require_writable(folder: Path) -> None:
    """Makes a folder and a file in it, and removes what it made.

    Raises:
        UserError: where it cannot.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    probe = folder / f".writable.{os.getpid()}.unfinished"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"written")
        probe.unlink()
        for each in missing:
            each.rmdir()
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written, which the export needs ({error}). Make it writable, or "
            "give another --run_dir."
        ) from error
