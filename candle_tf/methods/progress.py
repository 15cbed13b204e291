"""Progress of a training as a Keras callback: rate, time left, epoch, loss, validation."""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
from absl import logging

from candle_tf.methods.trainer import TOTAL_LOSS
from candle_tf.metrics import SCORE
from candle_tf.progress import SECONDS, Progress


class ProgressLog(tf.keras.callbacks.Callback):
    """Tells where a training is, on a bar or in lines (see `candle_tf.progress`), and its end.

    Args:
        title: what is trained.
        first_epoch: the epoch that comes first now, counted from 0.
        epochs: of the whole training.
        steps: of an epoch.
        batch_size: images in a step.
        unit: what a batch consists of.
        seconds: between two lines.
        sides: of the images in each epoch, in pixels, where it changes: the time left is told by
            their pixels.
    """

    def __init__(
        self,
        title: str,
        *,
        first_epoch: int,
        epochs: int,
        steps: int,
        batch_size: int,
        unit: str = "images",
        seconds: float = SECONDS,
        sides: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self._epochs, self._batch_size, self._title = epochs, batch_size, title
        total = (epochs - first_epoch) * steps * batch_size
        self._pixels = [side**2 * batch_size for side in sides]
        self._progress = Progress(
            title, total, unit, seconds, work=steps * sum(self._pixels[first_epoch:])
        )
        self._epoch = first_epoch
        self._accuracy = ""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float]) -> None:  # noqa: ARG002
        note = f"epoch {self._epoch + 1} of {self._epochs}, loss {float(logs[TOTAL_LOSS]):.3f}"
        pixels = self._pixels[self._epoch] if self._pixels else 0
        self._progress.advance(self._batch_size, note + self._accuracy, work=pixels)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:  # noqa: ARG002
        if SCORE in logs:
            self._accuracy = f", validation {100 * float(logs[SCORE]):.1f} %"

    def on_train_end(self, logs: Any = None) -> None:  # noqa: ARG002
        if self._epoch + 1 < self._epochs:
            return  # images of another size follow
        self._progress.close()
        logging.info(
            "%s: %s; epoch %d of %d%s",
            *(self._title, self._progress.summary(), self._epoch + 1, self._epochs, self._accuracy),
        )
