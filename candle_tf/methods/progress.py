"""A line a minute in a long training: where it is, how fast, and how long it will take."""

import time
from typing import Any

import tensorflow as tf
from absl import logging

from candle_tf.methods.trainer import TOTAL_LOSS

_SECONDS = 60.0


class ProgressLog(tf.keras.callbacks.Callback):
    """Logs epoch, step, images per second, the loss of the step, and the time left.

    Args:
        epochs: of the whole training.
        steps: of an epoch.
        batch_size: images in a step.
        seconds: between two lines.
    """

    def __init__(self, epochs: int, steps: int, batch_size: int, seconds: float = _SECONDS) -> None:
        super().__init__()
        self._epochs, self._steps, self._batch_size = epochs, steps, batch_size
        self._seconds = seconds
        self._epoch = 0
        self._steps_done = 0
        self._logged = (time.monotonic(), 0)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        self._steps_done += 1
        now = time.monotonic()
        since, before = self._logged
        if now - since < self._seconds:
            return
        steps_per_second = (self._steps_done - before) / max(now - since, 1e-9)
        left = (self._epochs - self._epoch) * self._steps - batch - 1
        logging.info(
            "epoch %d of %d, step %d of %d: %.0f images/s, loss %.3f, %s left",
            self._epoch + 1,
            self._epochs,
            batch + 1,
            self._steps,
            steps_per_second * self._batch_size,
            float(logs[TOTAL_LOSS]),
            format_seconds(left / steps_per_second),
        )
        self._logged = (now, self._steps_done)


def format_seconds(seconds: float) -> str:
    """Hours and minutes, such as "3:07 h"; below a minute "40 s"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02d} h"
