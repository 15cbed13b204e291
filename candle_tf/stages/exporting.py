"""Last stage: write the SavedModel and the LCE file, and let neither out unchecked."""

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from candle_tf.deploy import saved_model, tflite
from candle_tf.deploy.verify import (
    ExportError,
    check_agreement,
    check_binary,
    check_saved_model,
)
from candle_tf.files import write_atomically
from candle_tf.run_folder import RunFolder
from candle_tf.stages.evaluation import Evaluation
from candle_tf.stages.prepare import Data
from candle_tf.teachers.weights import fingerprint

STAGE = "export"
TFLITE_NAME = "student.lce.tflite"
# The gate compares this many test pictures; the file's accuracy is measured on all of them.
_COMPARED = 256


@dataclass(frozen=True)
class Exported:
    """What was written and how it was checked.

    Attributes:
        saved_model: the numbered folder.
        tflite: the LCE file.
        record: its export.json: operators of the file, agreement of both with Keras, sizes.
    """

    saved_model: Path
    tflite: Path
    record: dict[str, Any]


def export(
    student: tf.keras.Model, data: Data, evaluation: Evaluation, folder: RunFolder
) -> Exported:
    """Exports the student, unless an earlier call exported this very one.

    Args:
        student: as evaluated.
        data: class names, and the test pictures before they were resized.
        evaluation: the test pictures as the student sees them, and the student's answers to them.
        folder: of the run.

    Raises:
        ExportError: where a file is not binary or not equal to Keras; names the layer.
        UserError: where an earlier export is damaged.
    """
    record_path = folder.export_path / "export.json"
    identity = fingerprint(student)
    if folder.finished(STAGE):
        record = json.loads(record_path.read_text())
        if record["student"] == identity:
            return _exported(record, folder)
    pixels, logits = evaluation.pixels[:_COMPARED], evaluation.logits[:_COMPARED]

    path = folder.export_path / TFLITE_NAME
    logging.info("export: converting to %s", path)
    flatbuffer = tflite.convert(student)
    record = {"student": identity, "operators": check_binary(flatbuffer, student, str(path))}
    answers = tflite.run(flatbuffer, pixels, source=str(path))
    record["tflite_agreement"] = dataclasses.asdict(check_agreement(logits, answers, str(path)))
    write_atomically(path, flatbuffer)

    version = saved_model.export_saved_model(
        student,
        folder.export_path / "saved_model",
        data.split.class_names,
        picture_side=data.test.pictures.canvas.shape[1],
    )
    logging.info("export: checking %s in stock TensorFlow", version)
    try:
        pictures = data.test.batch(np.arange(len(pixels)))["pictures"]
        agreement = check_saved_model(version, pixels, logits, pictures)
    except ExportError:
        shutil.rmtree(version)  # a server takes the highest number it finds
        raise
    record["saved_model_agreement"] = dataclasses.asdict(agreement)
    record["saved_model"] = version.name
    record["bytes"] = {"saved_model": _size(version), "tflite": len(flatbuffer)}
    write_atomically(record_path, (json.dumps(record, indent=2) + "\n").encode())
    folder.record(STAGE, [record_path, path, *_files(version)])
    return _exported(record, folder)


def tflite_logits(exported: Exported, pixels: np.ndarray) -> np.ndarray:
    """The converted file's own answers, float32 [N, C], for pixels uint8 [N, S, S, 3]."""
    flatbuffer = exported.tflite.read_bytes()
    return tflite.run(flatbuffer, pixels, source=str(exported.tflite))


def _exported(record: dict[str, Any], folder: RunFolder) -> Exported:
    version = folder.export_path / "saved_model" / record["saved_model"]
    return Exported(version, folder.export_path / TFLITE_NAME, record)


def _files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in _files(directory))
