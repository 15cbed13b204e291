"""Recipes of binary networks: which optimizer moves which weights, how fast, and what decays.

recipe = Recipe("bop", steps=10_000, learning_rate=5e-3)
trainer = SupervisedTrainer(student, loss, counts, recipe.optimizer())
recipe.apply(trainer)                   # before fit
"""

from dataclasses import dataclass
from typing import Any

import larq as lq
import tensorflow as tf

from candle_tf.errors import UserError
from candle_tf.methods.fused_adam import FusedAdam
from candle_tf.methods.trainer import Trainer
from candle_tf.students.architectures.registry import binary_layers

# Rates on binary kernels as published: larq-zoo's QuickNet (Adam), and Bop's gamma.
QUICKNET_BINARY_RATE = 1e-2
BOP_GAMMA = 1e-4
_KERNELS = ("kernel", "depthwise_kernel", "pointwise_kernel")


@dataclass(frozen=True)
class Recipe:
    """How the weights of a training's descending side are moved.

    Attributes:
        name: "adam" for all; "adam_sgd": Adam on binary kernels, SGD with momentum 0.9 on the rest
            (QuickNet, Bannink et al. 2021); "bop": Bop (Helwegen et al. 2019) on binary kernels,
            which are -1 and +1 themselves then, Adam on the rest.
        steps: of the whole training; all rates fall along one cosine to 0.
        learning_rate: peak rate of what moves the rest, above 0.
        warmup_fraction: part of the steps in which the rates rise, in [0, 1).
        binary_learning_rate: peak rate on binary kernels (Bop: gamma); 0 for the published one
            (`QUICKNET_BINARY_RATE`, `BOP_GAMMA`). Not for "adam", where `learning_rate` is for all.
        bop_threshold: mean gradient beyond which Bop turns a weight, above 0.
        weight_decay: of float kernels alone, times the rate at each step (decoupled as in AdamW,
            Loshchilov & Hutter 2019): never of biases, batch norms, shifts, slopes, scales.
        binary_weight_decay: the same of the latent weights of binary kernels.
    """

    name: str
    steps: int
    learning_rate: float
    warmup_fraction: float = 0.0
    binary_learning_rate: float = 0.0
    bop_threshold: float = 1e-8
    weight_decay: float = 0.0
    binary_weight_decay: float = 0.0

    def optimizer(self) -> Any:
        """What moves everything, until `apply` takes the binary kernels from it."""
        rate = self._schedule(self.learning_rate)
        return (sgd if self.name == "adam_sgd" else adam)(rate, self.weight_decay)

    def apply(self, trainer: Trainer) -> None:
        """Settles what decays, and hands the binary kernels to their own optimizer.

        Bop's kernels become their signs. To be called before the trainer is ready.

        Raises:
            UserError: for Bop, where a kernel quantizer has other values or no gradient at +-1.
        """
        layers = binary_layers(trainer.network)
        binary = [layer.kernel for layer in layers]
        if self.weight_decay:
            _decay_only(float_kernels(trainer, binary), trainer)
        own = self._binary_optimizer()
        if own is None or not binary:
            return
        if self.name == "bop":
            for layer in layers:
                _become_signs(layer)
        trainer.set_optimizer(binary, own)

    def _binary_optimizer(self) -> Any:
        """What moves the binary kernels alone, or nothing where `optimizer()` does."""
        if self.name == "bop":
            gamma = self._schedule(self.binary_learning_rate or BOP_GAMMA)
            return Bop(threshold=self.bop_threshold, gamma=gamma)
        if self.name == "adam" and not self.binary_weight_decay:
            return None
        published = QUICKNET_BINARY_RATE if self.name == "adam_sgd" else self.learning_rate
        rate = self._schedule(self.binary_learning_rate or published)
        return adam(rate, self.binary_weight_decay)

    def _schedule(self, peak: float) -> Any:
        return cosine_schedule(peak, self.steps, self.warmup_fraction)


def adam(
    rate: "float | tf.keras.optimizers.schedules.LearningRateSchedule", weight_decay: float = 0.0
) -> Any:
    """Adam in one pass; XLA off, as it is slower on CPUs and TensorFlow's kernels serve GPUs."""
    return FusedAdam(rate, weight_decay=weight_decay or None, jit_compile=False)


def sgd(
    rate: "float | tf.keras.optimizers.schedules.LearningRateSchedule", weight_decay: float = 0.0
) -> Any:
    """Keras's SGD with momentum 0.9, XLA off as in `adam`."""
    return tf.keras.optimizers.SGD(
        rate, momentum=0.9, weight_decay=weight_decay or None, jit_compile=False
    )


class Bop(lq.optimizers.Bop):
    """larq's Bop, an optimizer of Keras's older kind, with the `build` that trainers call.

    Being of that kind it cannot share larq's CaseOptimizer with Keras's present Adam; as a second
    parameter group it can.
    """

    def build(self, variables: list[tf.Variable]) -> None:
        """Makes the moving averages, so that checkpoints hold them from the start."""
        self._create_all_weights(variables)


def cosine_schedule(peak: float, steps: int, warmup_fraction: float) -> Any:
    """Linear rise over the first part of the steps, then half a cosine down to 0.

    Args:
        peak: highest rate.
        steps: steps of the whole training; the schedule is in fractions of it.
        warmup_fraction: part of the steps in which the rate rises, in [0, 1).
    """
    # At least one step is left to fall in: Keras's cosine over 0 steps is not a number.
    warmup = min(round(warmup_fraction * steps), steps - 1)
    schedules = tf.keras.optimizers.schedules
    if warmup == 0:
        return schedules.CosineDecay(peak, decay_steps=steps)
    return schedules.CosineDecay(
        0.0, decay_steps=steps - warmup, warmup_target=peak, warmup_steps=warmup
    )


def float_kernels(trainer: Trainer, binary: list[tf.Variable]) -> list[tf.Variable]:
    """Kernels of all convolutions and dense layers of a trainer, but for the binary ones."""
    layers = [part for part in trainer.submodules if isinstance(part, tf.keras.layers.Layer)]
    kernels = {
        kernel.ref(): kernel
        for layer in layers
        for kernel in (getattr(layer, name, None) for name in _KERNELS)
        if isinstance(kernel, tf.Variable) and kernel.trainable
    }
    excluded = {kernel.ref() for kernel in binary}
    return [kernel for reference, kernel in kernels.items() if reference not in excluded]


def _decay_only(kernels: list[tf.Variable], trainer: Trainer) -> None:
    decaying = {kernel.ref() for kernel in kernels}
    for group in trainer.parameter_groups():
        if not group.maximize:
            group.optimizer.exclude_from_weight_decay(
                [variable for variable in group.variables if variable.ref() not in decaying]
            )


def _become_signs(layer: Any) -> None:
    """Makes a binary kernel its own signs; refuses a quantizer that would not leave them so."""
    signs = lq.math.sign(tf.convert_to_tensor(layer.kernel.numpy()))
    with tf.GradientTape() as tape:
        tape.watch(signs)
        quantized = layer.kernel_quantizer(signs)
    gradient = tape.gradient(quantized, signs)
    if gradient is None or not tf.reduce_all((quantized == signs) & (gradient > 0)):
        raise UserError(
            f"--optimizer=bop cannot train {layer.name}: its kernel quantizer changes weights of "
            "-1 and +1, or lets no gradient through to them. Give --optimizer=adam."
        )
    layer.kernel.assign(signs)
