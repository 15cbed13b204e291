"""The TFLite files of an export: written, compared with Keras, measured on the whole test set."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from candle_tf.deploy.checks.accuracy import check_accuracy
from candle_tf.deploy.checks.agreement import largest_differences, measure_agreement
from candle_tf.deploy.checks.errors import REFUSED, ExportError
from candle_tf.deploy.checks.latency import measure_latency
from candle_tf.deploy.checks.operators import check_binary, check_stock
from candle_tf.deploy.checks.signs import check_signs
from candle_tf.deploy.tflite.converter import convert, convert_float, run, run_litert
from candle_tf.deploy.tflite.interpreters import (
    KERNELS,
    Interpreter,
    open_compute_engine,
    open_litert,
)
from candle_tf.deploy.tflite.metadata import describe_files, encode_metadata
from candle_tf.files import write_atomically
from candle_tf.metrics import Metrics
from candle_tf.stages.evaluate import Evaluation, measure
from candle_tf.stages.prepare import Data

NAMES = {"tflite": "student.lce.tflite", "tflite_float": "student.float.tflite"}
METADATA_NAME = "student.json"
# Of the kernels of the compute engine the fastest runs on all test images, the others this many.
_COMPARED = 256
# The signs of all activations are compared on the images that differ most, and on as many others.
_TRACED = 24
_TIMED = 8


@dataclass(frozen=True)
class _CheckedFile:
    """A converted file and the results of its checks."""

    flatbuffer: bytes
    operators: dict[str, int]
    agreement: dict[str, Any]
    signs: dict[str, Any]
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
        ExportError: where a file is not binary, does not compute what the student computes, or is
            less accurate than signs at their threshold explain. The file is kept under another
            name.
    """
    paths = {kind: folder / name for kind, name in NAMES.items()}
    files = {}
    flatbuffer = _convert(convert, student, paths["tflite"])
    with keep_on_refusal(paths["tflite"], flatbuffer):
        files["tflite"], kernels = _check_binary_file(
            flatbuffer, student, data, evaluation, str(paths["tflite"])
        )
    reference = _convert(convert_float, student, paths["tflite_float"])
    with keep_on_refusal(paths["tflite_float"], reference):
        what = str(paths["tflite_float"])
        counts = check_stock(reference, what)
        logits = run_litert(reference, evaluation.pixels, source=what)
        files["tflite_float"] = _check_file(
            reference, counts, logits, student, data, evaluation, what, open_litert
        )

    for kind, file in files.items():
        write_atomically(paths[kind], file.flatbuffer)
    metadata = describe_files(
        {kind: _describe(NAMES[kind], file) for kind, file in files.items()},
        labels=data.split.class_names,
        side=evaluation.pixels.shape[1],
        image_side=data.test.images.array.shape[1],
        crop=data.test.images.original_aspect,
        groups=data.groups,
    )
    write_atomically(folder / METADATA_NAME, encode_metadata(metadata))
    record = _record(files)
    record["kernel_agreement"] = kernels
    record["latency"] = _latency(flatbuffer, reference, evaluation.pixels)
    return record, [*paths.values(), folder / METADATA_NAME]


@contextmanager
def keep_on_refusal(path: Path, flatbuffer: bytes) -> Iterator[None]:
    """Keeps a file that is refused, under a name that no device or program takes for a model."""
    kept = path.with_name(path.name + REFUSED)
    try:
        yield
    except ExportError as error:
        write_atomically(kept, flatbuffer)
        raise ExportError(f"{error} The file is kept as {kept}.") from error
    kept.unlink(missing_ok=True)


def _convert(converter: Callable[[Any], bytes], student: tf.keras.Model, path: Path) -> bytes:
    logging.info("export: converting to %s", path)
    return converter(student)


def _check_binary_file(
    flatbuffer: bytes, student: tf.keras.Model, data: Data, evaluation: Evaluation, what: str
) -> tuple[_CheckedFile, dict[str, Any]]:
    """Checks of the file for the engine, and its agreement with Keras on the other kernels."""
    counts = check_binary(flatbuffer, student, what)
    logits = run(flatbuffer, evaluation.pixels, source=what)
    checked = _check_file(
        flatbuffer, counts, logits, student, data, evaluation, what, open_compute_engine
    )
    return checked, _check_other_kernels(flatbuffer, student, evaluation, what)


def _check_file(
    flatbuffer: bytes,
    operators: dict[str, int],
    logits: np.ndarray,
    student: tf.keras.Model,
    data: Data,
    evaluation: Evaluation,
    what: str,
    open_file: Callable[[bytes, str], Interpreter],
) -> _CheckedFile:
    """The signs of all activations tell whether it is the student; the accuracy decides."""
    agreement = measure_agreement(evaluation.logits, logits, what)
    traced = largest_differences(evaluation.logits, logits, _TRACED)
    signs = check_signs(flatbuffer, student, evaluation.pixels[traced], what, open_file)
    changes = check_accuracy(evaluation.logits, logits, data.test.labels, data.groups, what)
    return _CheckedFile(
        flatbuffer,
        operators,
        dataclasses.asdict(agreement),
        dataclasses.asdict(signs),
        {name: dataclasses.asdict(change) for name, change in changes.items()},
        measure(data, logits),
    )


def _check_other_kernels(
    flatbuffer: bytes, student: tf.keras.Model, evaluation: Evaluation, path: str
) -> dict[str, Any]:
    """Agreement with Keras on the engine's other kernels: ARM devices run the default one."""
    pixels, logits = evaluation.pixels[:_COMPARED], evaluation.logits[:_COMPARED]
    agreements = {}
    for kernel in KERNELS:
        if kernel == "indirect":
            continue
        what = f"{path} ({kernel} kernel)"
        outputs = run(flatbuffer, pixels, kernel=kernel, source=path)
        agreements[kernel] = dataclasses.asdict(measure_agreement(logits, outputs, what))
        traced = largest_differences(logits, outputs, _TRACED // 3)
        open_file = partial(open_compute_engine, kernel=kernel)
        check_signs(flatbuffer, student, pixels[traced], what, open_file)
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
        "signs": lambda file: file.signs,
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
