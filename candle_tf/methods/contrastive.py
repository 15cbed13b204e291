"""Contrastive training of a student with a momentum encoder and a queue of keys (after MoCo).

One step, on two views of each image:

    keys k    = momentum projector(momentum encoder(second views)), normalized
    queries q = projector(student's features of the first views), normalized
    loss of the student's logits and of q . (q of the batch's other images, k, queue)
    student and projector take an optimizer step; k replace the oldest keys of the queue
    momentum encoder = m * momentum encoder + (1 - m) * student, and so the projectors

Sources: He et al., "Momentum Contrast", CVPR 2020, eq. 2, and Chen et al., "Improved Baselines with
Momentum Contrastive Learning", 2020, for the projector; with labels Cui et al., ICCV 2021. Those
move the encoder at the beginning of a step, which is the same: before the first step both encoders
are equal.

Of a binary student the momentum encoder averages latent weights: its binary kernels are the signs
of the averages, as averages of signs would not be binary. Its batch norms take the statistics of
the batch of its own activations, as in MoCo: the student's are those of other weights, of which
signs behind the batch norms would be wrong. The moving statistics that it keeps are used nowhere.

All but the student is for training alone: it is in the checkpoints and in no export.
"""

from collections.abc import Iterator, Sequence

import tensorflow as tf

from candle_tf.methods.annealing import find_annealed_quantizers
from candle_tf.methods.method import Contrast
from candle_tf.methods.parameter_groups import ParameterGroup
from candle_tf.methods.trainer import TOTAL_LOSS, Batch, Trainer
from candle_tf.students.fused_forward import training_forward

# Of queries and keys.
DIMENSIONS = 128


class KeyQueue(tf.Module):
    """The keys of the latest images, the oldest first; places that no key was in yet come before.

    Args:
        length: K, at least 1.
        dimensions: D.

    Attributes:
        keys: float32 `[K, D]`.
        labels: int32 `[K]`.
        filled: how many of the last places hold a key, int64 scalar.
    """

    def __init__(self, length: int, dimensions: int = DIMENSIONS) -> None:
        super().__init__(name="key_queue")
        self.length = length
        self.keys = tf.Variable(tf.zeros([length, dimensions]), trainable=False, name="keys")
        self.labels = tf.Variable(tf.zeros([length], tf.int32), trainable=False, name="labels")
        self.filled = tf.Variable(tf.constant(0, tf.int64), trainable=False, name="filled")

    def is_filled(self) -> tf.Tensor:
        """Which places hold a key, bool `[K]`."""
        return tf.range(self.length, dtype=tf.int64) >= self.length - self.filled

    def add(self, keys: tf.Tensor, labels: tf.Tensor) -> None:
        """Adds keys float `[B, D]` with labels int32 `[B]`; as many of the oldest are dropped."""
        self.keys.assign(tf.concat([self.keys, keys], axis=0)[-self.length :])
        self.labels.assign(tf.concat([self.labels, labels], axis=0)[-self.length :])
        count = self.filled + tf.shape(keys, tf.int64)[0]
        self.filled.assign(tf.minimum(count, self.length))


class MomentumEncoder(tf.Module):
    """A student and a projector whose weights follow those that are trained.

    The latter are arguments: tracked here as well, they would be in checkpoints by two names.

    Args:
        network: a network as the student, with variables of its own.
        projector: as the student's, with variables of its own.
        momentum: m, in [0, 1).
    """

    def __init__(
        self, network: tf.keras.Model, projector: tf.keras.layers.Layer, momentum: float
    ) -> None:
        super().__init__(name="momentum_encoder")
        self.network = network
        self.projector = projector
        self.momentum = momentum

    def copy(self, student: tf.keras.Model, projector: tf.keras.layers.Layer) -> None:
        """Sets all weights to those that are trained."""
        self.network.set_weights(student.get_weights())
        self.projector.set_weights(projector.get_weights())

    def keys(self, inputs: tf.Tensor) -> tf.Tensor:
        """Normalized keys float `[B, D]` of inputs `[B, ...]`, through which no gradient goes."""
        features = training_forward(self.network)(inputs)["features"]
        return tf.stop_gradient(tf.math.l2_normalize(self.projector(features), axis=-1))

    def update(self, student: tf.keras.Model, projector: tf.keras.layers.Layer) -> None:
        """Moves all weights by 1 - m of the way to those that are trained."""
        for own, trained in self._pairs(student, projector):
            own.assign(self.momentum * own + (1.0 - self.momentum) * trained)

    def anneal_as(self, student: tf.keras.Model) -> None:
        """Sets the temperature of annealed kernels to the student's, which changes by the epoch."""
        quantizers = (find_annealed_quantizers(each) for each in (self.network, student))
        for own, other in zip(*quantizers, strict=True):
            own.temperature.assign(other.temperature)

    def _pairs(
        self, student: tf.keras.Model, projector: tf.keras.layers.Layer
    ) -> Iterator[tuple[tf.Variable, tf.Variable]]:
        for own, trained in ((self.network, student), (self.projector, projector)):
            yield from zip(own.trainable_variables, trained.trainable_variables, strict=True)


def build_projector(student: tf.keras.Model, seed: int) -> tf.keras.Sequential:
    """An MLP d_S -> d_S -> `DIMENSIONS` with a ReLU, built, as of MoCo v2.

    Args:
        student: with the output "features" `[B, d_S]`.
        seed: of the initial weights.
    """
    size = int(student.output["features"].shape[-1])
    first, second = (tf.keras.initializers.GlorotUniform(seed + number) for number in range(2))
    projector = tf.keras.Sequential(
        [
            tf.keras.layers.Dense(
                size, "relu", kernel_initializer=first, name="hidden", dtype="float32"
            ),
            tf.keras.layers.Dense(
                DIMENSIONS, kernel_initializer=second, name="output", dtype="float32"
            ),
        ],
        name="projector",
    )
    projector.build([None, size])
    return projector


class ContrastiveTrainer(Trainer):
    """Trains a student by a `method.ContrastiveMethod`.

    Batches hold "inputs", "labels" and "second_inputs", other views of the same images.

    Args:
        student: from inputs to "features" `[B, d_S]` and "logits" `[B, C]`.
        classes: C.
        contrast: the loss, and what it is computed with.
        parameter_groups: of the trainable variables of student and projector.
        projector: of `build_projector`.
        momentum_network: a network as the student; its weights are replaced by the student's.
        xla: whether XLA compiles the training step.
    """

    def __init__(
        self,
        student: tf.keras.Model,
        classes: int,
        contrast: Contrast,
        parameter_groups: Sequence[ParameterGroup],
        *,
        projector: tf.keras.layers.Layer,
        momentum_network: tf.keras.Model,
        xla: bool = False,
    ) -> None:
        super().__init__(student, classes, parameter_groups, name="contrastive_trainer", xla=xla)
        self.projector = projector
        self.momentum_encoder = MomentumEncoder(
            momentum_network, build_projector(student, seed=0), contrast.momentum
        )
        self.momentum_encoder.copy(student, projector)
        self.queue = KeyQueue(contrast.queue_length)
        self._loss = contrast.loss

    def train_step(self, data: Batch) -> dict[str, tf.Tensor]:
        """One optimizer step, then those of the queue and of the momentum encoder."""
        self.momentum_encoder.anneal_as(self.network)
        # Outside of the gradient tape.
        keys = self.momentum_encoder.keys(data["second_inputs"])
        losses = super().train_step({**data, "keys": keys})
        self.queue.add(keys, data["labels"])
        self.momentum_encoder.update(self.network, self.projector)
        return losses

    def compute_losses(self, batch: Batch, training: bool) -> dict[str, tf.Tensor]:
        """The total loss alone, the mean over the batch.

        An example is compared with the queries of the batch's other images, the keys of all its
        images and the queue: A(i) of Cui et al.'s section on supervised contrastive learning.

        Args:
            batch: with "keys" float `[B, D]` in place of the second views.
            training: as of `Trainer.compute_losses`.
        """
        outputs, labels = self.forward(batch["inputs"], training), batch["labels"]
        queries = tf.math.l2_normalize(self.projector(outputs["features"]), axis=-1)
        others = tf.concat([queries, batch["keys"], self.queue.keys], axis=0)
        other_labels = tf.concat([labels, labels, self.queue.labels], axis=0)
        cosines = tf.matmul(queries, others, transpose_b=True)
        counted = self._mask_others(tf.shape(labels)[0])
        each = self._loss(outputs["logits"], labels, cosines, other_labels, counted)
        return {TOTAL_LOSS: tf.reduce_mean(each)}

    def _mask_others(self, size: tf.Tensor) -> tf.Tensor:
        """Which others count, bool `[B, 2 B + K]`: not an example itself, nor an empty place."""
        itself = tf.eye(size, dtype=tf.bool)
        filled = tf.broadcast_to(self.queue.is_filled(), [size, self.queue.length])
        return tf.concat([~itself, tf.ones_like(itself), filled], axis=1)
