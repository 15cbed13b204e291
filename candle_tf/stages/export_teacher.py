"""Part of the export: the calibrated teacher as an int8 file, measured like the student.

It shows whether a binary student is worth it: what the teacher itself takes and gives once it is
quantized.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from candle_tf.config import Config
from candle_tf.data.augment.evaluation import render_evaluation
from candle_tf.data.subset import Subset
from candle_tf.deploy.checks.latency import measure_latency
from candle_tf.deploy.tflite.converter import run_litert
from candle_tf.deploy.tflite.interpreters import open_compute_engine, open_litert
from candle_tf.deploy.tflite.teacher import convert_teacher
from candle_tf.files import read_json_object, write_atomically
from candle_tf.metrics import Metrics
from candle_tf.run_folder import RunFolder
from candle_tf.stages.calibrate import Calibrated
from candle_tf.stages.evaluate import measure
from candle_tf.stages.export import Exported
from candle_tf.stages.prepare import Data
from candle_tf.teachers.feature_parts import encoder_at_resolutions
from candle_tf.weight_files.checksums import fingerprint

STAGE = "export_teacher"
NAME, RECORD_NAME = "teacher.int8.tflite", "teacher_int8.json"
# Training images that ranges are measured on; more change them little.
_REPRESENTATIVE = 128
_TIMED = 8
_BLOCK = 256
_FORMAT = 1


@dataclass(frozen=True)
class ExportedTeacher:
    """The teacher's int8 file.

    Attributes:
        record: "resolution", "bytes", "sha256" of the file, "metrics", "agreement" (share of test
            images with the float teacher's class) and "latency" (beside the student's files); or
            "error", why there is no file.
    """

    record: dict[str, Any]

    @property
    def metrics(self) -> dict[str, Metrics]:
        """Of the file on the test set, as "teacher_int8"; empty where there is none."""
        if "metrics" not in self.record:
            return {}
        return {"teacher_int8": Metrics.from_json(self.record["metrics"])}


def export_teacher(
    config: Config, data: Data, calibrated: Calibrated, exported: Exported, folder: RunFolder
) -> ExportedTeacher:
    """Writes and measures the file, unless an earlier call did for the same teacher.

    It runs at the largest resolution that the classifier was calibrated at; with
    --combine_resolutions=concatenate it makes the image smaller itself for the others. A teacher
    that cannot be quantized is no reason to lose a run: the record says why, and a later call tries
    again.

    Args:
        config: the run's settings.
        data: training images to measure ranges on, and the test set.
        calibrated: the teacher.
        exported: the student's files, which it is timed beside.
        folder: of the run.

    Raises:
        OSError: for a file that cannot be written, as on a full disk.
        MemoryError, tf.errors.ResourceExhaustedError: where there is no room to convert it.
        UserError: for a finished file that was changed since.
    """
    record_path = folder.export_path / RECORD_NAME
    resolution = max(config.calibration.calibration_resolutions)
    identity = {
        "format": _FORMAT,
        "teacher": calibrated.teacher.fingerprint,
        "classifier": fingerprint(calibrated.classifier),
        "student": exported.record["student"],
        "resolution": resolution,
    }
    if folder.is_finished(STAGE):
        record = read_json_object(record_path, "Delete it to write it again.")
        # What was an error may have been one of the machine, or of another version.
        if record["identity"] == identity and "error" not in record:
            return ExportedTeacher(record)
        # The files of the record are replaced one by one.
        folder.forget_stage(STAGE)
    path = folder.export_path / NAME
    logging.info("export: converting the teacher to %s at %d px", path, resolution)
    files = [record_path]
    try:
        flatbuffer = _convert(config, calibrated, data)
    except (OSError, MemoryError, tf.errors.ResourceExhaustedError):
        # Of the machine, not of the teacher.
        raise
    except Exception as error:  # the converter has no common type of its errors
        reason = str(error).strip().splitlines()
        record = {"error": reason[0] if reason else type(error).__name__}
        logging.warning("The teacher cannot be written as an int8 file: %s", record["error"])
    else:
        write_atomically(path, flatbuffer)
        files.append(path)
        record = _measure(flatbuffer, data, calibrated, exported, resolution)
        record["sha256"] = hashlib.sha256(flatbuffer).hexdigest()
    record["identity"] = identity
    write_atomically(record_path, (json.dumps(record, indent=2) + "\n").encode())
    folder.record(STAGE, files)
    return ExportedTeacher(record)


def _convert(config: Config, calibrated: Calibrated, data: Data) -> bytes:
    resolutions = config.calibration.calibration_resolutions
    count = min(_REPRESENTATIVE, len(data.train))
    index = np.random.default_rng(config.run.seed).choice(len(data.train), count, replace=False)
    images = _render(data.train, np.sort(index), max(resolutions))
    encoder = calibrated.teacher.inference or calibrated.teacher.encoder
    if config.calibration.combine_resolutions == "concatenate":
        encoder = encoder_at_resolutions(encoder, resolutions)
    return convert_teacher(encoder, calibrated.classifier, images)


def _measure(
    flatbuffer: bytes, data: Data, calibrated: Calibrated, exported: Exported, resolution: int
) -> dict[str, Any]:
    logits = np.concatenate(
        [
            run_litert(flatbuffer, _render(data.test, index, resolution), source=NAME)
            for index in _blocks(len(data.test))
        ]
    )
    same = logits.argmax(axis=1) == calibrated.test_logits.argmax(axis=1)
    return {
        "resolution": resolution,
        "bytes": len(flatbuffer),
        "metrics": measure(data, logits).to_json(),
        "agreement": float(same.mean()),
        "latency": _latency(flatbuffer, exported.tflite, data, resolution),
    }


def _latency(flatbuffer: bytes, student: Path, data: Data, resolution: int) -> dict[str, Any]:
    """Time of an image in the teacher's file and in the student's, in turn."""
    index = np.arange(min(_TIMED, len(data.test)))
    sides = {
        "teacher_int8": open_litert(flatbuffer, NAME),
        "tflite": open_compute_engine(student.read_bytes(), str(student)),
    }
    pixels = {
        "teacher_int8": _render(data.test, index, resolution),
        "tflite": _render(data.test, index, sides["tflite"].shape[1]),
    }
    return measure_latency(sides, pixels, baseline="teacher_int8")


def _render(subset: Subset, index: np.ndarray, side: int) -> np.ndarray:
    """Whole images, uint8 `[N, side, side, 3]`."""
    rendered = render_evaluation(subset.batch(index), side).numpy()
    return np.rint(rendered).clip(0, 255).astype(np.uint8)


def _blocks(count: int) -> list[np.ndarray]:
    return [np.arange(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK)]
