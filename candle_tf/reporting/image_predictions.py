"""test_predictions.csv of a run: what each model said of every test image.

validation_predictions.csv holds the same of the student and the validation images.

image,class,teacher,student
cat/17.jpg,cat,cat,dog
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from candle_tf.errors import UserError
from candle_tf.files import write_atomically
from candle_tf.reporting.csv_columns import csv_line

TEST = "test_predictions.csv"
VALIDATION = "validation_predictions.csv"
_GIVEN = ("image", "class")


@dataclass(frozen=True)
class ImagePredictions:
    """The file's content.

    Attributes:
        images: N ids.
        classes: N names, of the images' own classes.
        predicted: by model, N class names.
    """

    images: tuple[str, ...]
    classes: tuple[str, ...]
    predicted: dict[str, tuple[str, ...]]

    def correct(self, model: str) -> np.ndarray:
        """Whether a model was right, bool `[N]`."""
        return np.array(self.classes) == np.array(self.predicted[model])


def write_image_predictions(
    path: Path,
    images: Sequence[str],
    labels: np.ndarray,
    predicted: Mapping[str, np.ndarray],
    class_names: Sequence[str],
) -> None:
    """Writes the file.

    Args:
        path: of the file.
        images: N ids.
        labels: int `[N]`.
        predicted: by model, classes int `[N]`.
        class_names: C names.
    """
    names = np.array(class_names)
    columns = [names[classes] for classes in predicted.values()]
    rows = zip(images, names[labels], *columns, strict=True)
    text = "".join(map(csv_line, [(*_GIVEN, *predicted), *rows]))
    write_atomically(path, text.encode(errors="surrogateescape"))


def read_image_predictions(path: Path) -> ImagePredictions:
    """Reads what `write_image_predictions` wrote.

    Raises:
        UserError: where the file is missing or damaged.
    """
    try:
        with path.open(newline="", errors="surrogateescape") as file:
            rows = list(csv.reader(file, strict=True))
        head = rows[0]
        columns = list(zip(*rows[1:], strict=True))
    except (OSError, IndexError, ValueError, csv.Error) as error:
        raise UserError(
            f"{path} cannot be read ({error}): start the run again to write it again."
        ) from error
    if tuple(head[:2]) != _GIVEN or len(columns) != len(head):
        raise UserError(f"{path} is damaged: start the run again to write it again.")
    return ImagePredictions(columns[0], columns[1], dict(zip(head[2:], columns[2:], strict=True)))
