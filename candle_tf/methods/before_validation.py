"""A Keras callback that runs once an epoch, when its last step is done."""

from typing import Any

import tensorflow as tf


class BeforeValidation(tf.keras.callbacks.Callback):
    """Calls `run` after an epoch's last step: before its validation, or without any before it is
    saved. Of several such callbacks each runs in the order in which `fit` has them."""

    def __init__(self) -> None:
        super().__init__()
        self._epoch = 0
        self._is_done = False

    def run(self, epoch: int) -> None:
        """What is done; epochs are counted from 0."""
        raise NotImplementedError

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        self._epoch, self._is_done = epoch, False

    def on_test_begin(self, logs: Any = None) -> None:  # noqa: ARG002
        self._run_once()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        self._run_once()

    def _run_once(self) -> None:
        if not self._is_done:
            self._is_done = True
            self.run(self._epoch)
