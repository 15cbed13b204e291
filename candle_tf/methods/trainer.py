"""The trainer every method shares: a `keras.Model` whose `train_step` plays one round.

A method says what the objective is and who moves on it (`players`): most have one player that
descends; CANDLE has a second one that ascends. Running under `fit`, it works with callbacks,
progress bars, TensorBoard and tf.distribute strategies.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from candle_tf.methods.class_accuracy import MeanClassAccuracy

Batch = Mapping[str, tf.Tensor]


@dataclass(frozen=True)
class Player:
    """Variables that one optimizer moves, down the objective or (`ascends`) up."""

    optimizer: tf.keras.optimizers.Optimizer
    variables: list[tf.Variable]
    ascends: bool = False


class Trainer(tf.keras.Model):
    """One tape, one objective, every player a step.

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

    def terms(self, batch: Batch, training: bool) -> dict[str, tf.Tensor]:
        """Scalars of one batch by name; "objective" is the one that is played on.

        Args:
            batch: "inputs" and "labels" (int [B]), and what else the method asks of its batches.
            training: whether the student's batch norm uses and updates batch statistics.
        """
        raise NotImplementedError

    def players(self) -> list[Player]:
        """Who moves on the objective."""
        raise NotImplementedError

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
        players = self.players()
        gradients = tape.gradient(objective, [player.variables for player in players])
        for player, gradient in zip(players, gradients, strict=True):
            signed = [-g for g in gradient] if player.ascends else gradient
            player.optimizer.apply_gradients(zip(signed, player.variables, strict=True))
        return {name: value / replicas for name, value in terms.items()}

    def test_step(self, data: Batch) -> dict[str, tf.Tensor]:
        """Cross-entropy and mean class accuracy on validation pictures."""
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

    def ready(self) -> "Trainer":
        """Builds and compiles, so that checkpoints hold every optimizer slot from the start."""
        players = self.players()
        # Outside the scope the slots would be shared, and every replica would update them.
        with self.distribute_strategy.scope():
            for player in players:
                player.optimizer.build(player.variables)
        self.compile(optimizer=players[0].optimizer)
        self.distribute_reduction_method = "sum"
        return self


def adam(rate: "float | tf.keras.optimizers.schedules.LearningRateSchedule") -> Any:
    """Keras's Adam; XLA off, as it is slower on CPUs and TensorFlow's own kernels serve GPUs."""
    return tf.keras.optimizers.Adam(rate, jit_compile=False)


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
