"""Fifth stage: write SavedModel and TFLite files, and check each of them."""

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from candle_tf.data.augment.evaluation import render_evaluation
from candle_tf.deploy.binarize import make_deployable
from candle_tf.deploy.checks.agreement import Agreement
from candle_tf.deploy.checks.errors import REFUSED, ExportError
from candle_tf.deploy.checks.saved_model import BATCH_SIZE, check_saved_model
from candle_tf.deploy.saved_model.writer import export_saved_model
from candle_tf.files import read_json_object, write_atomically
from candle_tf.metrics import Metrics
from candle_tf.run_folder import RunFolder
from candle_tf.stages.disk_space import require_export_space
from candle_tf.stages.evaluate import Evaluation
from candle_tf.stages.export_tflite import NAMES, export_tflite
from candle_tf.stages.prepare import Data
from candle_tf.stages.train import Trained
from candle_tf.weight_files.checksums import fingerprint

STAGE = "export"
# The SavedModel is compared with Keras on this many test images.
_COMPARED = 256
# An export of an earlier format is made again.
_FORMAT = 2


@dataclass(frozen=True)
class Exported:
    """What was written and how it was checked.

    Attributes:
        saved_model: the numbered folder.
        tflite: the LCE file.
        record: its export.json: agreement of all with Keras, operators and accuracy of the TFLite
            files, latency of those here, sizes.
    """

    saved_model: Path
    tflite: Path
    record: dict[str, Any]

    @property
    def metrics(self) -> dict[str, Metrics]:
        """Metrics of the TFLite files on the test set: "tflite" and "tflite_float"."""
        return {name: Metrics.from_json(value) for name, value in self.record["metrics"].items()}


def export(trained: Trained, data: Data, evaluation: Evaluation, folder: RunFolder) -> Exported:
    """Exports the student of the evaluated epoch, unless an earlier call exported the same one.

    Args:
        trained: the student; it is restored to `evaluation.selected_epoch`.
        data: class names, and the test images before they were resized.
        evaluation: the selected epoch, the test images as the student gets them, and its logits.
        folder: of the run.

    Raises:
        ExportError: where a file is not binary or does not compute what the student computes; names
            the layer. The file is kept under another name.
        UserError: where an earlier export or a checkpoint is damaged.
    """
    trained.checkpoints.restore(evaluation.selected_epoch)
    student = trained.student
    record_path = folder.export_path / "export.json"
    identity = fingerprint(student)
    if folder.is_finished(STAGE):
        record = read_json_object(record_path, "Delete it to export again.")
        if record["student"] == identity and record.get("format") == _FORMAT:
            return _open_export(record, folder)
    require_export_space(student.count_params(), folder)
    # The files of an earlier epoch are replaced one by one.
    folder.forget_stage(STAGE)
    record, written = export_tflite(student, data, evaluation, folder.export_path)
    record.update(student=identity, format=_FORMAT)
    agreements = []

    def check(written: Path) -> None:
        agreements.append(_check_saved_model(written, student, data, evaluation, base))

    base = folder.export_path / "saved_model"
    version = export_saved_model(
        student,
        base,
        data.split.class_names,
        image_side=data.test.images.array.shape[1],
        original_aspect=data.test.images.original_aspect,
        check=check,
    )
    record["agreement"]["saved_model"] = dataclasses.asdict(agreements[0])
    record["saved_model"] = version.name
    record["bytes"]["saved_model"] = _size(version)
    write_atomically(record_path, (json.dumps(record, indent=2) + "\n").encode())
    folder.record(STAGE, [record_path, *written, *_files(version)])
    return _open_export(record, folder)


def _check_saved_model(
    written: Path, student: tf.keras.Model, data: Data, evaluation: Evaluation, base: Path
) -> Agreement:
    """Checks a SavedModel that has no number yet; one that is refused is kept beside all numbers.

    It is compared with the Keras model that was saved, in batches of the same size: the same graph
    rounds alike, so no activation is on the other side of its threshold. That this model computes
    what the student computes is what the checks of the TFLite files show.
    """
    logging.info("export: checking %s in stock TensorFlow", base)
    pixels = evaluation.pixels[:_COMPARED]
    images = data.test.batch(np.arange(len(pixels)))["images"]
    if data.test.images.original_aspect:
        # The stored squares are sent, and the centre of a square is another part of it.
        square = {"images": images, "aspects": np.ones(len(images), np.float32)}
        pixels = render_evaluation(square, pixels.shape[1]).numpy().astype(np.uint8)
    logits = make_deployable(student).predict(pixels, batch_size=BATCH_SIZE, verbose=0)
    kept = base.with_name(base.name + REFUSED)
    shutil.rmtree(kept, ignore_errors=True)
    try:
        return check_saved_model(written, pixels, logits, images, str(base))
    except ExportError as error:
        written.rename(kept)
        raise ExportError(f"{error} The SavedModel is kept as {kept}.") from error


def _open_export(record: dict[str, Any], folder: RunFolder) -> Exported:
    version = folder.export_path / "saved_model" / record["saved_model"]
    return Exported(version, folder.export_path / NAMES["tflite"], record)


def _files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in _files(directory))
