"""Classifies image files with an exported student, in batches, decoding several at once."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from candle_tf.data.images.decode import decode_image
from candle_tf.data.sources.image_files import ImageFile
from candle_tf.deploy.exported_student import ExportedStudent
from candle_tf.errors import UserError

BATCH_SIZE = 64
_THREADS = max(4, os.cpu_count() or 1)


@dataclass(frozen=True)
class Prediction:
    """What a student says of one image.

    Attributes:
        name: of the image.
        classes: the k most likely class names, the most likely first; empty for a bad image.
        scores: their softmax, 0 to 1.
        error: why the image could not be classified; empty for a good one.
        image: the student's input, uint8 [S, S, 3]; None for a bad image. It is not compared.
    """

    name: str
    classes: tuple[str, ...]
    scores: tuple[float, ...]
    error: str = ""
    image: np.ndarray | None = field(default=None, repr=False, compare=False)


def predict(
    student: ExportedStudent,
    files: Sequence[ImageFile],
    top: int = 5,
    batch_size: int = BATCH_SIZE,
) -> Iterator[Prediction]:
    """One prediction for each file, in order; no more than two batches are in memory.

    Args:
        student: as loaded.
        files: the images.
        top: k, at most as many as there are classes.
        batch_size: images that the student gets at once.

    Yields:
        Predictions; of a file that cannot be read or decoded, one with an `error`.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        batches = [files[i : i + batch_size] for i in range(0, len(files), batch_size)]
        decoding = [pool.submit(_decode, student, file) for file in batches[0]] if batches else []
        for number, batch in enumerate(batches):
            inputs = [future.result() for future in decoding]
            following = batches[number + 1] if number + 1 < len(batches) else []
            decoding = [pool.submit(_decode, student, file) for file in following]
            yield from classify(student, [file.name for file in batch], inputs, top)


def _decode(student: ExportedStudent, file: ImageFile) -> np.ndarray | UserError:
    """The student's input, uint8 [S, S, 3], or why there is none."""
    try:
        return student.preprocess(decode_image(file.read(), file.name))
    except UserError as error:
        return error


def classify(
    student: ExportedStudent,
    names: Sequence[str],
    inputs: Sequence[np.ndarray | UserError],
    top: int = 5,
) -> list[Prediction]:
    """Predictions of one batch.

    Args:
        student: as loaded.
        names: of the images.
        inputs: of each the student's input, uint8 [S, S, 3], or why there is none.
        top: classes of each, at most as many as there are.
    """
    images = [image for image in inputs if isinstance(image, np.ndarray)]
    scores = iter(student.scores_of(np.stack(images)) if images else ())
    found = []
    for name, image in zip(names, inputs, strict=True):
        if isinstance(image, UserError):
            found.append(Prediction(name, (), (), error=str(image)))
            continue
        row = next(scores)
        best = np.argsort(-row, kind="stable")[:top]
        classes = tuple(student.labels[i] for i in best)
        found.append(Prediction(name, classes, tuple(float(row[i]) for i in best), image=image))
    return found
