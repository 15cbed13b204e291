"""The trainer every method shares: a `keras.Model` whose `train_step` plays one round.

A method says what the total loss is and which parameter groups step on it: most have one that
minimizes; CANDLE has a second one that maximizes. Running under `fit`, it works with callbacks,
progress bars, TensorBoard and tf.distribute strategies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf

from candle_tf.methods.class_accuracy import MeanClassAccuracy

Batch = Mapping[str, tf.Tensor]


@dataclass(frozen=True)
class ParameterGroup:
    """Variables that one optimizer moves, down the objective or (`maximize`) up."""

    optimizer: tf.keras.optimizers.Optimizer
    variables: list[tf.Variable]
    maximize: bool = False


class Trainer(tf.keras.Model):
    """One tape, one objective, every parameter group a step.

    Args:
        network: what is trained; from `batch["inputs"]` to a dictionary with "logits" [B, C].
        classes: C.
        name: the Keras name.
    """

    def __init__(self, network: tf.keras.Model, classes: int, name: str) -> None:
        super().__init__(name=name)
        self.network = network
        self._val_accuracy = MeanClassAccuracy(classes)
        self._val_loss = tf.keras.metrics.Mean(name="loss")
        self._other_optimizer: Any = None
        self._own_optimizer_variables: frozenset[Any] = frozenset()

    def terms(self, batch: Batch, training: bool) -> dict[str, tf.Tensor]:
        """Scalars of one batch by name; "objective" is the one that is played on.

        Args:
            batch: "inputs" and "labels" (int [B]), and what else the method asks of its batches.
            training: whether the student's batch norm uses and updates batch statistics.
        """
        raise NotImplementedError

    def parameter_groups(self) -> list[ParameterGroup]:
        """Who moves on the objective."""
        raise NotImplementedError

    def set_optimizer(self, variables: Sequence[tf.Variable], optimizer: Any) -> None:
        """Gives some of the descending variables to an optimizer of their own.

        All still move at once, on the same gradients. To be called before `ready`.

        Args:
            variables: of the parameter groups that descend.
            optimizer: anything with `build(variables)` and `apply_gradients(pairs)`.

        Raises:
            ValueError: for a variable that no parameter group descends with.
        """
        descending = {
            v.ref() for p in self.parameter_groups() if not p.maximize for v in p.variables
        }
        strangers = [variable.name for variable in variables if variable.ref() not in descending]
        if strangers:
            raise ValueError(f"{strangers[0]} is not among the variables that descend")
        self._own_optimizer_variables = frozenset(variable.ref() for variable in variables)
        self._other_optimizer = optimizer

    def moves(self) -> list[ParameterGroup]:
        """The parameter groups; those of `set_optimizer` are taken out and come last."""
        parameter_groups = self.parameter_groups()
        if self._other_optimizer is None:
            return parameter_groups
        kept, given = [], []
        for group in parameter_groups:
            taken = [] if group.maximize else self._taken(group)
            given += taken
            rest = {variable.ref() for variable in group.variables} - {v.ref() for v in taken}
            kept.append(replace(group, variables=[v for v in group.variables if v.ref() in rest]))
        return [*kept, ParameterGroup(self._other_optimizer, given)]

    def _taken(self, group: ParameterGroup) -> list[tf.Variable]:
        return [
            variable
            for variable in group.variables
            if variable.ref() in self._own_optimizer_variables
        ]

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Logits [B, C] of inputs."""
        return self.network(inputs, training=training)["logits"]

    def train_step(self, data: Batch) -> dict[str, tf.Tensor]:
        """One round; returns the terms of this very step, not running means.

        Under a tf.distribute strategy the terms are shares that add up to the mean over replicas.
        """
        replicas = self.distribute_strategy.num_replicas_in_sync
        with tf.GradientTape() as tape:
            terms = self.terms(data, training=True)
            # Gradients are summed over replicas; a mean over each must not grow with their number.
            objective = terms["objective"] / replicas
        parameter_groups = self.moves()
        gradients = tape.gradient(objective, [group.variables for group in parameter_groups])
        for group, gradient in zip(parameter_groups, gradients, strict=True):
            signed = [-g for g in gradient] if group.maximize else gradient
            group.optimizer.apply_gradients(zip(signed, group.variables, strict=True))
        return {name: value / replicas for name, value in terms.items()}

    def test_step(self, data: Batch) -> dict[str, tf.Tensor]:
        """Cross-entropy and mean class accuracy on validation images."""
        logits = self(data["inputs"], training=False)
        labels = data["labels"]
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        self._val_loss.update_state(losses)
        self._val_accuracy.update_state(labels, logits)
        return {metric.name: metric.result() for metric in (self._val_loss, self._val_accuracy)}

    @property
    def metrics(self) -> list[Any]:
        """What Keras resets before each validation."""
        return [self._val_loss, self._val_accuracy]

    def ready(self, xla: bool = False) -> "Trainer":
        """Builds and compiles, so that checkpoints hold every optimizer slot from the start.

        Args:
            xla: whether XLA compiles the training step.
        """
        parameter_groups = self.moves()
        # Outside the scope the slots would be shared, and every replica would update them.
        with self.distribute_strategy.scope():
            for group in parameter_groups:
                group.optimizer.build(group.variables)
        self.compile(optimizer=parameter_groups[0].optimizer, jit_compile=xla)
        self.distribute_reduction_method = "sum"
        return self
