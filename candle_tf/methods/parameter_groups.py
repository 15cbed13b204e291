"""Parameter groups: which optimizer moves which variables, as `optax.partition` assigns them.

groups = build_parameter_groups(student, OptimizerSettings("bop"), steps=10_000)
trainer = SupervisedTrainer(student, loss, counts, groups)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import larq as lq
import tensorflow as tf

from candle_tf.errors import UserError
from candle_tf.methods.optimizers import Bop, adam, rate_schedule, sgd
from candle_tf.methods.settings import OptimizerSettings
from candle_tf.students.layers.blocks import binary_layers

# Peak rates of binary kernels as published: larq-zoo's QuickNet (Adam), and Bop's gamma.
QUICKNET_BINARY_RATE = 1e-2
BOP_GAMMA = 1e-4
_KERNELS = ("kernel", "depthwise_kernel", "pointwise_kernel")


@dataclass(frozen=True)
class ParameterGroup:
    """Variables that one optimizer moves.

    Attributes:
        variables: each belongs to one group only.
        optimizer: anything with `build(variables)` and `apply_gradients(pairs)`.
        maximize: whether it maximizes the total loss; otherwise it minimizes it.
    """

    variables: list[tf.Variable]
    optimizer: Any
    maximize: bool = False


def build_parameter_groups(
    network: tf.keras.Model,
    settings: OptimizerSettings,
    *,
    steps: int,
    projector: tf.keras.layers.Layer | None = None,
    map_projectors: Sequence[tf.keras.layers.Layer] = (),
    balancer: tf.keras.layers.Layer | None = None,
    balance_learning_rate: float = 0.0,
) -> list[ParameterGroup]:
    """The groups of one training: all trainable variables, each in one group.

    "adam" is for all weights. "adam_sgd" (QuickNet, Bannink et al. 2021) has Adam for binary
    kernels and SGD with momentum 0.9 for the rest. "bop" (Helwegen et al. 2019) has Bop for binary
    kernels, which become their signs, and Adam for the rest. A binary learning rate of 0 stands for
    the published one (`QUICKNET_BINARY_RATE`, `BOP_GAMMA`). Weight decay is of kernels only, times
    the rate at each step (decoupled as in AdamW, Loshchilov & Hutter 2019): never of biases, batch
    norms, shifts, slopes, scales.

    Args:
        network: the student.
        settings: of what minimizes the total loss.
        steps: of the whole training; all rates of `settings` fall to 0 alike.
        projector: trained with the student, built.
        map_projectors: the same, of maps (`map_loss`).
        balancer: maximizes the total loss, built; none where lambda is fixed.
        balance_learning_rate: constant rate of the balancer, above 0 if there is one.

    Returns:
        The student's and projectors' weights, without the binary kernels where those have a group
        of their own; then the group of the binary kernels; then that of the balancer.

    Raises:
        UserError: for Bop, where a kernel quantizer has other values or no gradient at +-1.
    """
    parts = [network, *([] if projector is None else [projector]), *map_projectors]
    layers = binary_layers(network)
    binary = [layer.kernel for layer in layers]
    binary_optimizer = _build_binary_optimizer(settings, steps) if binary else None
    own_group = [] if binary_optimizer is None else binary
    variables = _without([v for part in parts for v in part.trainable_variables], own_group)
    groups = [ParameterGroup(variables, _build_float_optimizer(settings, steps))]
    if settings.weight_decay:
        decayed = _without(find_kernels(parts), binary)
        groups[0].optimizer.exclude_from_weight_decay(_without(variables, decayed))
    if binary_optimizer is not None:
        if settings.optimizer == "bop":
            for layer in layers:
                _replace_kernel_by_signs(layer)
        groups.append(ParameterGroup(binary, binary_optimizer))
    if balancer is not None:
        optimizer = adam(balance_learning_rate)
        groups.append(ParameterGroup(balancer.trainable_variables, optimizer, maximize=True))
    return groups


def find_kernels(parts: Sequence[tf.Module]) -> list[tf.Variable]:
    """Trainable kernels of all convolutions and dense layers in `parts`, each once."""
    layers = [
        module
        for part in parts
        for module in (part, *part.submodules)
        if isinstance(module, tf.keras.layers.Layer)
    ]
    kernels = {
        kernel.ref(): kernel
        for layer in layers
        for kernel in (getattr(layer, name, None) for name in _KERNELS)
        if isinstance(kernel, tf.Variable) and kernel.trainable
    }
    return list(kernels.values())


def _build_float_optimizer(settings: OptimizerSettings, steps: int) -> Any:
    """The optimizer of everything that has no optimizer of its own."""
    build = sgd if settings.optimizer == "adam_sgd" else adam
    rate = _schedule(settings, settings.learning_rate, steps)
    return build(rate, settings.weight_decay, settings.clip_norm)


def _build_binary_optimizer(settings: OptimizerSettings, steps: int) -> Any:
    """The optimizer of the binary kernels alone; None where the float optimizer moves them."""
    name, rate = settings.optimizer, settings.binary_learning_rate
    if name == "bop":
        gamma = _schedule(settings, rate or BOP_GAMMA, steps)
        return Bop(threshold=settings.bop_threshold, gamma=gamma)
    if name == "adam" and not settings.binary_weight_decay:
        return None
    published = QUICKNET_BINARY_RATE if name == "adam_sgd" else settings.learning_rate
    schedule = _schedule(settings, rate or published, steps)
    return adam(schedule, settings.binary_weight_decay, settings.clip_norm)


def _schedule(settings: OptimizerSettings, peak: float, steps: int) -> Any:
    return rate_schedule(settings.rate_decay, peak, steps, settings.warmup_fraction)


def _without(variables: list[tf.Variable], excluded: list[tf.Variable]) -> list[tf.Variable]:
    references = {variable.ref() for variable in excluded}
    return [variable for variable in variables if variable.ref() not in references]


def _replace_kernel_by_signs(layer: Any) -> None:
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
