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
from candle_tf.files import require_free_space
from candle_tf.run_folder import RunFolder
from candle_tf.students.analysis.preflight import refuse_unconvertible

_FLOAT_BYTES = 4
# Graphs, warm-up requests and student.json.
_OVERHEAD = 2**24
# Offsets in a TFLite file have 31 bits.
_TFLITE_LIMIT = 2**31


def check_export_requirements(
    config: Config, class_names: Sequence[str], folder: RunFolder
) -> None:
    """Refuses a run whose export would fail for a reason that is known before it.

    Only for a student that is not trained yet: it is built once for this, and the random state is
    set again as at the start of the run.

    Args:
        config: the run's settings.
        class_names: one name per class.
        folder: of the run.

    Raises:
        UserError: for class names that a label file cannot hold; a converter or an interpreter that
            cannot be imported; a Python that cannot start another; a student that would not stay
            binary, or is larger than a TFLite file may be; folders that cannot be written, or have
            no room.
    """
    if "student" in folder.manifest().get("stages", {}):
        return
    encode_labels(class_names, len(class_names))
    compute_engine()
    import_litert()
    if not sys.executable:
        raise UserError(
            "Python does not know its own program (sys.executable is empty), so the export could "
            "not be checked in a process of its own: run this with the python command."
        )
    temporary = Path(tempfile.gettempdir())
    for place in (folder.export_path, folder.export_path / "saved_model", temporary):
        require_writable(place)
    student = config.student.build(len(class_names))
    refuse_unconvertible(student)
    size = weights_size(student.count_params())
    tf.keras.utils.set_random_seed(config.run.seed)
    # The SavedModel and the float32 file; and in the other folder what is being converted.
    require_free_space(folder.export_path, 2 * size + _OVERHEAD, "The export")
    require_free_space(temporary, size + _OVERHEAD, "Converting the student")


def weights_size(parameters: int) -> int:
    """Bytes of a student's weights in float32.

    Raises:
        UserError: for more than a TFLite file may hold.
    """
    size = _FLOAT_BYTES * parameters
    if size + _OVERHEAD > _TFLITE_LIMIT:
        raise UserError(
            f"The student has {parameters / 1e6:,.0f} M parameters, {size / 1e9:.1f} GB in "
            "float32; a TFLite file holds at most 2 GB. Give a smaller --width or --student."
        )
    return size


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
