"""Part of the report: what TensorBoard shows of a run besides the curves of its stages.

tensorboard --logdir runs/quickstart
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from tensorboard.plugins.hparams import api as hparams

from candle_tf.config import Config
from candle_tf.data.pipeline import training_batches
from candle_tf.metrics import confusion_matrix
from candle_tf.reporting.mistakes import mistaken_images
from candle_tf.reporting.plots.classes import confusion_heatmap
from candle_tf.reporting.plots.examples import example_grid
from candle_tf.reporting.plots.style import to_png
from candle_tf.reporting.results import Results
from candle_tf.stages.evaluate import Evaluation
from candle_tf.stages.prepare import Data
from candle_tf.stages.student_views import student_augmentation, student_sides, student_views

_VIEWS, _CLASSES = 16, 20
# Where a run lies is no setting of its training.
_PLACES = ("run_dir", "cache_dir", "data_dir")


def write_board(
    folder: Path, config: Config, data: Data, evaluation: Evaluation, results: Results
) -> None:
    """Writes sample views, mistakes, confusion, test accuracies and hyper-parameters.

    Args:
        folder: of the events; those of an earlier report are replaced.
        config: the run's settings.
        data: the prepared split.
        evaluation: the student on the test images.
        results: of the run.
    """
    shutil.rmtree(folder, ignore_errors=True)
    step = results.selected_epoch
    labels, logits = data.test.labels, evaluation.logits
    names = data.split.class_names
    with tf.summary.create_file_writer(str(folder)).as_default():
        views = _sample_views(config, data)
        tf.summary.image("training views", views, step, max_outputs=len(views))
        _write_mistakes(evaluation, labels, names, step)
        matrix = confusion_matrix(labels, logits.argmax(axis=1), len(names))
        heatmap = confusion_heatmap(matrix, names, _CLASSES)
        tf.summary.image("confusion", _decode(heatmap), step)
        for model, metrics in results.metrics.items():
            for name, value in {"mean": metrics.mean, **metrics.groups}.items():
                tf.summary.scalar(f"test accuracy {name}/{model}", value, step)
        hparams.hparams(_hyper_parameters(config))


def _sample_views(config: Config, data: Data) -> np.ndarray:
    """The first images of the first epoch as the student sees them, uint8 `[V, S, S, 3]`."""
    batches = training_batches(
        data.train,
        image_size=student_sides(config)[0],
        augmentation=student_augmentation(config),
        sampler=config.data.sampler,
        batch_size=min(_VIEWS, config.training.batch_size),
        seed=config.run.seed,
        first_epoch=0,
        epochs=1,
        precomputed=student_views(config, data),
    )
    inputs = next(iter(batches))["inputs"].numpy()
    return np.rint(inputs).clip(0, 255).astype(np.uint8)


def _write_mistakes(
    evaluation: Evaluation, labels: np.ndarray, names: Sequence[str], step: int
) -> None:
    places = mistaken_images(labels, evaluation.logits)
    if not places:
        return
    predicted = evaluation.logits[places].argmax(axis=1)
    grid = example_grid(
        evaluation.pixels[places],
        [names[label] for label in labels[places]],
        [names[label] for label in predicted],
    )
    tf.summary.image("mistakes of the highest confidence", _decode(grid), step)


def _decode(figure: Figure) -> tf.Tensor:
    """A figure's pixels, uint8 `[1, H, W, 3]`."""
    return tf.image.decode_png(to_png(figure), channels=3)[tf.newaxis]


def _hyper_parameters(config: Config) -> dict[str, bool | int | float | str]:
    return {
        name: value if isinstance(value, (bool, int, float)) else _text(value)
        for name, value in config.to_dict().items()
        if name not in _PLACES
    }


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
