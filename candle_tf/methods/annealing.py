"""BNext's annealing of binary weights, run over a training: soft at first, exact signs at its end.

annealing = Annealing(annealed_quantizers(student), epochs=100, fraction=0.8)
fit(trainer, ..., callbacks=[annealing])
checkpoints = HardCheckpoints(folder, trainer, annealing.quantizers)   # for evaluation and export
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import tensorflow as tf

from candle_tf.methods.checkpoints import Checkpoints
from candle_tf.students.architectures.registry import binary_layers

# What is left of the temperature when signs become exact: of 0.01, all but the very smallest
# weights are saturated by then, and little changes in that moment. BNext's own 0.9 an epoch leaves
# it after 44 epochs; a fixed factor would leave a short training soft and jump.
FINAL_TEMPERATURE = 0.01


class AnnealedQuantizer(Protocol):
    """A kernel quantizer that a temperature, its only state, turns into the sign."""

    temperature: tf.Variable

    def anneal(self, factor: float) -> None:
        """Multiplies the temperature."""

    def harden(self) -> None:
        """Makes the kernels exact signs."""


def annealed_quantizers(student: tf.keras.Model) -> list[AnnealedQuantizer]:
    """The annealed kernel quantizers of a student, each once; none for most students."""
    quantizers = [layer.kernel_quantizer for layer in binary_layers(student)]
    return list({id(each): each for each in quantizers if hasattr(each, "anneal")}.values())


class Annealing(tf.keras.callbacks.Callback):
    """Lowers the temperature before each epoch, and hardens before the last part of the training.

    The temperature falls by one factor an epoch to `FINAL_TEMPERATURE` of its start. It is part of
    the checkpoints, so a resumed run goes on as one that was not interrupted. Validation looks at
    exact signs at any time: epochs are chosen by the network that would be shipped.

    Args:
        quantizers: to anneal.
        epochs: of the whole training.
        fraction: part of the training with soft weights, in [0, 1); the last epoch never is soft.
    """

    def __init__(
        self, quantizers: Sequence[AnnealedQuantizer], epochs: int, fraction: float
    ) -> None:
        super().__init__()
        self.quantizers = list(quantizers)
        self.soft_epochs = min(round(fraction * epochs), epochs - 1)
        self._kept: list[Any] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Sets the temperature of `epoch`, counted from 0, from that of the epoch before."""
        for quantizer in self.quantizers:
            if epoch >= self.soft_epochs:
                quantizer.harden()
            elif epoch > 0:
                quantizer.anneal(FINAL_TEMPERATURE ** (1 / self.soft_epochs))

    def on_test_begin(self, logs: Any = None) -> None:  # noqa: ARG002
        self._kept = [quantizer.temperature.numpy() for quantizer in self.quantizers]
        harden(self.quantizers)

    def on_test_end(self, logs: Any = None) -> None:  # noqa: ARG002
        for quantizer, temperature in zip(self.quantizers, self._kept, strict=True):
            quantizer.temperature.assign(temperature)


class HardCheckpoints(Checkpoints):
    """Checkpoints of a finished annealing: whichever epoch is put back has exact signs.

    Args:
        folder: where the files are kept.
        trainer: as in `Checkpoints`.
        quantizers: of the student in `trainer`.
    """

    def __init__(self, folder: Path, trainer: Any, quantizers: Sequence[AnnealedQuantizer]) -> None:
        super().__init__(folder, trainer)
        self._quantizers = list(quantizers)

    def restore(self, epoch: int) -> None:
        """Puts the trainer back to the end of `epoch`, and hardens."""
        super().restore(epoch)
        harden(self._quantizers)


def harden(quantizers: Sequence[AnnealedQuantizer]) -> None:
    """Makes all kernels exact signs."""
    for quantizer in quantizers:
        quantizer.harden()
