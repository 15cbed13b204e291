"""The TFLite files of an export: written, compared with Keras, measured on the whole test set."""

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from candle_tf.deploy.checks.accuracy import check_accuracy
from candle_tf.deploy.checks.agreement import check_agreement
from candle_tf.deploy.checks.latency import measure_latency
from candle_tf.deploy.checks.operators import check_binary, check_stock
from candle_tf.deploy.tflite.converter import convert, convert_float, run, run_litert
from candle_tf.deploy.tflite.interpreters import KERNELS, open_compute_engine, open_litert
from candle_tf.deploy.tflite.metadata import describe_files, encode_metadata
from candle_tf.files import write_atomically
from candle_tf.metrics import Metrics
from candle_tf.stages.evaluate import Evaluation, measure
from candle_tf.stages.prepare import Data

NAMES = {"tflite": "student.lce.tflite", "tflite_float": "student.float.tflite"}
METADATA_NAME = "student.json"
# Of the kernels of the compute engine the fastest runs on all test images, the others this many.
_COMPARED = 256
_TIMED = 8


@dataclass(frozen=True)
class _CheckedFile:
    """A converted file and the results of its checks."""

    flatbuffer: bytes
    operators: dict[str, int]
    agreement: dict[str, Any]
    accuracy_change: dict[str, Any]
    metrics: Metrics


def export_tflite(
    student: tf.keras.Model, data: Data, evaluation: Evaluation, folder: Path
) -> tuple[dict[str, Any], list[Path]]:
    """Writes the file for the Larq Compute Engine, its float32 reference model, and student.json.

    Args:
        student: as evaluated.
        data: test labels, shot groups and class names.
        evaluation: the test images as the student gets them, and its logits.
        folder: of the export.

    Returns:
        What goes into export.json: for each file operators, agreement with Keras, change of
        accuracy, metrics and bytes; latency here; and the paths of what was written.

    Raises:
        ExportError: where a file is not binary, not equal to Keras, or less accurate than flipped
            signs explain.
    """
    paths = {kind: folder / name for kind, name in NAMES.items()}
    path = paths["tflite"]
    logging.info("export: converting to %s", path)
    flatbuffer = convert(student)
    counts = check_binary(flatbuffer, student, str(path))
    logits = run(flatbuffer, evaluation.pixels, source=str(path))
    files = {"tflite": _check_file(flatbuffer, counts, logits, data, evaluation, path)}
    kernels = _other_kernels(flatbuffer, evaluation, path)

    path = paths["tflite_float"]
    logging.info("export: converting to %s", path)
    reference = convert_float(student)
    counts = check_stock(reference, str(path))
    logits = run_litert(reference, evaluation.pixels, source=str(path))
    files["tflite_float"] = _check_file(reference, counts, logits, data, evaluation, path)

    for kind, file in files.items():
        write_atomically(paths[kind], file.flatbuffer)
    metadata = describe_files(
        {kind: _describe(NAMES[kind], file) for kind, file in files.items()},
        labels=data.split.class_names,
        side=evaluation.pixels.shape[1],
        image_side=data.test.images.array.shape[1],
        crop=data.test.images.original_aspect,
    )
    write_atomically(folder / METADATA_NAME, encode_metadata(metadata))
    record = _record(files)
    record["kernel_agreement"] = kernels
    record["latency"] = _latency(flatbuffer, reference, evaluation.pixels)
    return record, [*paths.values(), folder / METADATA_NAME]


def _check_file(
    flatbuffer: bytes,
    operators: dict[str, int],
    logits: np.ndarray,
    data: Data,
    evaluation: Evaluation,
    path: Path,
) -> _CheckedFile:
    agreement = check_agreement(evaluation.logits, logits, str(path))
    changes = check_accuracy(evaluation.logits, logits, data.test.labels, data.groups, str(path))
    return _CheckedFile(
        flatbuffer,
        operators,
        dataclasses.asdict(agreement),
        {name: dataclasses.asdict(change) for name, change in changes.items()},
        measure(data, logits),
    )


def _other_kernels(flatbuffer: bytes, evaluation: Evaluation, path: Path) -> dict[str, Any]:
    """Agreement with Keras on the engine's other kernels: ARM devices run the default one."""
    pixels, logits = evaluation.pixels[:_COMPARED], evaluation.logits[:_COMPARED]
    agreements = {}
    for kernel in KERNELS:
        if kernel != "indirect":
            what = f"{path} ({kernel} kernel)"
            outputs = run(flatbuffer, pixels, kernel=kernel, source=str(path))
            agreements[kernel] = dataclasses.asdict(check_agreement(logits, outputs, what))
    return agreements


def _describe(name: str, file: _CheckedFile) -> dict[str, Any]:
    return {
        "name": name,
        "sha256": hashlib.sha256(file.flatbuffer).hexdigest(),
        "bytes": len(file.flatbuffer),
        "argmax_agreement": file.agreement["argmax_agreement"],
        "accuracy": {"mean": file.metrics.mean, **file.metrics.groups},
    }


def _record(files: dict[str, _CheckedFile]) -> dict[str, Any]:
    values: dict[str, Callable[[_CheckedFile], Any]] = {
        "operators": lambda file: file.operators,
        "agreement": lambda file: file.agreement,
        "accuracy_change": lambda file: file.accuracy_change,
        "metrics": lambda file: file.metrics.to_json(),
        "bytes": lambda file: len(file.flatbuffer),
    }
    return {
        what: {kind: value(file) for kind, file in files.items()} for what, value in values.items()
    }


def _latency(flatbuffer: bytes, reference: bytes, pixels: np.ndarray) -> dict[str, Any]:
    sides = {"tflite": open_compute_engine(flatbuffer), "tflite_float": open_litert(reference)}
    return measure_latency(sides, pixels[:_TIMED], baseline="tflite_float")
