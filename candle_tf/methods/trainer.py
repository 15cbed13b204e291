"""The trainer every method shares: a `keras.Model` whose `train_step` moves all parameter groups.

A method says what its losses are. Which variables minimize or maximize the total loss, and by which
optimizer, is given as parameter groups. Running under `fit`, a trainer works with callbacks,
progress bars, TensorBoard and tf.distribute strategies.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from candle_tf.methods.class_accuracy import MeanClassAccuracy
from candle_tf.methods.fused_adam import FusedAdam
from candle_tf.methods.parameter_groups import ParameterGroup
from candle_tf.methods.weight_average import WeightAverage
from candle_tf.students.fused_forward import forward_of, is_native

# The total loss among a method's losses: the column of steps.csv and history.csv, and
# TensorBoard's tag.
TOTAL_LOSS = "objective"

Batch = Mapping[str, tf.Tensor]


class Trainer(tf.keras.Model):
    """One gradient tape, one total loss, one optimizer step of every parameter group.

    It is built and compiled by its constructor: every optimizer's slots exist then, and checkpoints
    hold them from the start.

    Args:
        network: what is trained; from `batch["inputs"]` to a dictionary with "logits" `[B, C]`.
        classes: C.
        parameter_groups: at least one; the optimizer of the first counts the steps.
        name: the Keras name.
        xla: whether XLA compiles the training step.

    Attributes:
        weight_average: of all variables that minimize the total loss, see `average_weights`.

    Raises:
        ValueError: for no group at all, or a variable that is in two.
    """

    def __init__(
        self,
        network: tf.keras.Model,
        classes: int,
        parameter_groups: Sequence[ParameterGroup],
        *,
        name: str,
        xla: bool = False,
    ) -> None:
        super().__init__(name=name)
        _refuse_overlaps(parameter_groups)
        self.network = network
        self._val_accuracy = MeanClassAccuracy(classes)
        self._val_loss = tf.keras.metrics.Mean(name="loss")
        self.parameter_groups = tuple(parameter_groups)
        # Not of the class: Keras would leave it out of checkpoints.
        self.weight_average: WeightAverage | None = None
        for attribute, optimizer in _checkpoint_names(parameter_groups).items():
            setattr(self, attribute, optimizer)
        # Outside the scope the slots would be shared, and every replica would update them.
        with self.distribute_strategy.scope():
            for group in parameter_groups:
                group.optimizer.build(group.variables)
                if isinstance(group.optimizer, FusedAdam):
                    group.optimizer.native = is_native(network)
        self.compile(optimizer=parameter_groups[0].optimizer, jit_compile=xla)
        self.distribute_reduction_method = "sum"

    def compute_losses(self, batch: Batch, training: bool) -> dict[str, tf.Tensor]:
        """Scalars of one batch by name; `TOTAL_LOSS` is minimized, or maximized.

        Args:
            batch: "inputs" and "labels" (int `[B]`), and what else the method asks of its batches.
            training: whether the student's batch norm uses and updates batch statistics.
        """
        raise NotImplementedError

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Logits `[B, C]` of inputs."""
        return self.forward(inputs, training)["logits"]

    def forward(self, inputs: tf.Tensor, training: bool) -> Mapping[str, tf.Tensor]:
        """The network's outputs, by the native operators where its layers say so."""
        outputs: Mapping[str, tf.Tensor] = forward_of(self.network, training)(inputs)
        return outputs

    def train_step(self, data: Batch) -> dict[str, tf.Tensor]:
        """One optimizer step of every group; returns the losses of this step, not running means.

        All gradients are taken before any group moves. Under a tf.distribute strategy the losses
        are shares that add up to the mean over replicas.
        """
        replicas = self.distribute_strategy.num_replicas_in_sync
        with tf.GradientTape() as tape:
            losses = self.compute_losses(data, training=True)
            # Gradients are summed over replicas; a mean over each must not grow with their number.
            total_loss = losses[TOTAL_LOSS] / replicas
        groups = self.parameter_groups
        gradients = tape.gradient(total_loss, [group.variables for group in groups])
        for group, gradient in zip(groups, gradients, strict=True):
            signed = [-g for g in gradient] if group.maximize else gradient
            group.optimizer.apply_gradients(zip(signed, group.variables, strict=True))
        if self.weight_average is not None:
            self.weight_average.update(self._minimizing_variables, self.optimizer.iterations)
        return {name: value / replicas for name, value in losses.items()}

    def average_weights(self, decay: float) -> None:
        """From here on every step updates averages of the weights (`weight_average`).

        Args:
            decay: in (0, 1).
        """
        self.weight_average = WeightAverage(self._minimizing_variables, decay)

    def exchange_average(self) -> None:
        """Exchanges the weights and their averages."""
        if self.weight_average is None:
            raise ValueError("no average was asked for: call `average_weights` first")
        self.weight_average.exchange(self._minimizing_variables)

    @property
    def _minimizing_variables(self) -> list[tf.Variable]:
        groups = self.parameter_groups
        return [v for group in groups if not group.maximize for v in group.variables]

    def test_step(self, data: Batch) -> dict[str, tf.Tensor]:
        """Cross-entropy and mean class accuracy on validation images."""
        logits = self(data["inputs"], training=False)
        labels = data["labels"]
        cross_entropies = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        self._val_loss.update_state(cross_entropies)
        self._val_accuracy.update_state(labels, logits)
        return {metric.name: metric.result() for metric in (self._val_loss, self._val_accuracy)}

    @property
    def metrics(self) -> list[Any]:
        """What Keras resets before each validation."""
        return [self._val_loss, self._val_accuracy]


def _checkpoint_names(groups: Sequence[ParameterGroup]) -> dict[str, Any]:
    """Optimizers by the attribute under which checkpoints hold their state.

    The names are part of the checkpoints' format: runs begun before load by them.
    """
    names = {}
    for maximize, first, more in (
        (False, "_optimizer", "_other_optimizer"),
        (True, "_balance_optimizer", "_other_balance_optimizer"),
    ):
        optimizers = [group.optimizer for group in groups if group.maximize == maximize]
        for number, optimizer in enumerate(optimizers):
            suffix = f"_{number}" if number > 1 else ""
            names[f"{more}{suffix}" if number else first] = optimizer
    return names


def _refuse_overlaps(groups: Sequence[ParameterGroup]) -> None:
    if not groups:
        raise ValueError("a trainer needs at least one parameter group")
    owned = set()
    for variable in (variable for group in groups for variable in group.variables):
        if variable.ref() in owned:
            raise ValueError(f"{variable.name} is in two parameter groups")
        owned.add(variable.ref())
