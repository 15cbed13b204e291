"""BNext's annealing of binary kernels over a training: ramps at first, exact signs at its end.

annealing = Annealing(find_annealed_quantizers(student), epochs=100, fraction=0.8)
fit(trainer, ..., callbacks=[annealing])
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import tensorflow as tf

from candle_tf.students.layers.blocks import binary_layers

# Part of the first temperature that is left when signs become exact: at 0.01 all but the smallest
# weights are saturated, and little changes in that moment. BNext's own factor, 0.9 an epoch,
# reaches it after 44 epochs; a short training with it would change abruptly.
FINAL_TEMPERATURE = 0.01


class AnnealedQuantizer(Protocol):
    """A kernel quantizer with a temperature, its only state; at 0 it is the sign."""

    temperature: tf.Variable

    def anneal(self, factor: float) -> None:
        """Multiplies the temperature."""

    def set_exact_sign(self) -> None:
        """Makes the kernels exact signs."""


def find_annealed_quantizers(student: tf.keras.Model) -> list[AnnealedQuantizer]:
    """The annealed kernel quantizers of a student, each once; none for most students."""
    quantizers = [layer.kernel_quantizer for layer in binary_layers(student)]
    return list({id(each): each for each in quantizers if hasattr(each, "anneal")}.values())


class Annealing(tf.keras.callbacks.Callback):
    """Lowers the temperature before each epoch, to exact signs for the last part of the training.

    The temperature falls by one factor an epoch to `FINAL_TEMPERATURE` of its start. It is part of
    the checkpoints, so a resumed run anneals as one that was not interrupted. Validation always
    runs with exact signs: epochs are selected by the network that would be exported. Signs are
    much larger than ramps at first, so that it needs batch-norm statistics of their own:
    `batch_norm_statistics.ReestimateBatchNorm`.

    Args:
        quantizers: to anneal.
        epochs: of the whole training.
        fraction: part of the training that is annealed, in [0, 1); the last epoch never is.

    Attributes:
        annealed_epochs: how many of the first epochs end before kernels are exact signs.
    """

    def __init__(
        self, quantizers: Sequence[AnnealedQuantizer], epochs: int, fraction: float
    ) -> None:
        super().__init__()
        self.quantizers = list(quantizers)
        self.annealed_epochs = min(round(fraction * epochs), epochs - 1)
        self._temperatures: list[Any] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Sets the temperature of `epoch`, counted from 0, from that of the epoch before."""
        for quantizer in self.quantizers:
            if epoch >= self.annealed_epochs:
                quantizer.set_exact_sign()
            elif epoch > 0:
                quantizer.anneal(FINAL_TEMPERATURE ** (1 / self.annealed_epochs))

    def on_test_begin(self, logs: Any = None) -> None:  # noqa: ARG002
        self._temperatures = [quantizer.temperature.numpy() for quantizer in self.quantizers]
        set_exact_signs(self.quantizers)

    def on_test_end(self, logs: Any = None) -> None:  # noqa: ARG002
        for quantizer, temperature in zip(self.quantizers, self._temperatures, strict=True):
            quantizer.temperature.assign(temperature)


def set_exact_signs(quantizers: Sequence[AnnealedQuantizer]) -> None:
    """Makes all kernels exact signs."""
    for quantizer in quantizers:
        quantizer.set_exact_sign()


@contextmanager
def keep_exact_signs(quantizers: Sequence[AnnealedQuantizer]) -> Iterator[None]:
    """Makes all kernels exact signs; at the end their temperatures are what they were."""
    temperatures = [quantizer.temperature.numpy() for quantizer in quantizers]
    set_exact_signs(quantizers)
    try:
        yield
    finally:
        for quantizer, temperature in zip(quantizers, temperatures, strict=True):
            quantizer.temperature.assign(temperature)
