"""Checkpoints of a finished training, restored as the network is measured and exported.

checkpoints = TrainedCheckpoints(folder, trainer, student)
checkpoints.restore(checkpoints.best_epoch)
"""

from pathlib import Path
from typing import Any

import tensorflow as tf
from absl import logging

from candle_tf.methods.annealing import find_annealed_quantizers, set_exact_signs
from candle_tf.methods.checkpoints import Checkpoints
from candle_tf.students.dead_channels import silence_dead_channels


class TrainedCheckpoints(Checkpoints):
    """Checkpoints whose files hold what was trained, and whose network is finished when restored.

    Args:
        folder: where the files are kept.
        trainer: as in `Checkpoints`.
        network: the student in `trainer`.
    """

    def __init__(self, folder: Path, trainer: Any, network: tf.keras.Model) -> None:
        super().__init__(folder, trainer)
        self._network = network

    def restore(self, epoch: int) -> None:
        """As `Checkpoints.restore`; then finishes the network."""
        super().restore(epoch)
        finish_network(self._network)


def finish_network(network: tf.keras.Model) -> None:
    """Makes a network what is shipped of it: annealed kernels are exact signs, and channels that
    are constant have no scale.

    Args:
        network: with the weights of a training.
    """
    set_exact_signs(find_annealed_quantizers(network))
    silenced = silence_dead_channels(network)
    if silenced:
        logging.info(
            "%s: %d channels were the same for all images of the last steps; they are constant "
            "from here on",
            *(network.name, silenced),
        )
