"""The trainer every method shares: a `keras.Model` whose `train_step` plays one round.

A method says what the objective is and who moves on it (`players`): most have one player that
descends; CANDLE has a second one that ascends. Running under `fit`, it works with callbacks,
progress bars, TensorBoard and tf.distribute strategies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
        self._other_optimizer: Any = None
        self._handed_over: frozenset[Any] = frozenset()

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

    def hand_over(self, variables: Sequence[tf.Variable], optimizer: Any) -> None:
        """Gives some of the descending variables to an optimizer of their own.

        All still move at once, on the same gradients. To be called before `ready`.

        Args:
            variables: of the players that descend.
            optimizer: anything with `build(variables)` and `apply_gradients(pairs)`.

        Raises:
            ValueError: for a variable that no player descends with.
        """
        descending = {v.ref() for p in self.players() if not p.ascends for v in p.variables}
        strangers = [variable.name for variable in variables if variable.ref() not in descending]
        if strangers:
            raise ValueError(f"{strangers[0]} is not among the variables that descend")
        self._handed_over = frozenset(variable.ref() for variable in variables)
        self._other_optimizer = optimizer

    def moves(self) -> list[Player]:
        """The players, with what was handed over taken out of them and at the end of the list."""
        players = self.players()
        if self._other_optimizer is None:
            return players
        kept, given = [], []
        for player in players:
            taken = [] if player.ascends else self._taken(player)
            given += taken
            rest = {variable.ref() for variable in player.variables} - {v.ref() for v in taken}
            kept.append(replace(player, variables=[v for v in player.variables if v.ref() in rest]))
        return [*kept, Player(self._other_optimizer, given)]

    def _taken(self, player: Player) -> list[tf.Variable]:
        return [variable for variable in player.variables if variable.ref() in self._handed_over]

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
        players = self.moves()
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

    def ready(self, xla: bool = False) -> "Trainer":
        """Builds and compiles, so that checkpoints hold every optimizer slot from the start.

        Args:
            xla: whether XLA compiles the training step.
        """
        players = self.moves()
        # Outside the scope the slots would be shared, and every replica would update them.
        with self.distribute_strategy.scope():
            for player in players:
                player.optimizer.build(player.variables)
        self.compile(optimizer=players[0].optimizer, jit_compile=xla)
        self.distribute_reduction_method = "sum"
        return self
