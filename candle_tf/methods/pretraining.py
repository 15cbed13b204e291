"""Pretraining of a binary student on unlabelled images, from a frozen teacher's features.

One step, on a batch that carries the teacher's features e_T of the student's very views:

    p(e_S) = projector(student features)
    kl = mean T^2 KL(softmax(g(e_T) / T) || softmax(g(p(e_S)) / T))
    fs = mean |p(e_S) - e_T|^2 / E |e_T - mean e_T|^2                          (1 - R^2)
    L  = kl + feature_weight * fs

g is the linear classifier that the teacher was itself trained with (its source classes): frozen, so
both losses have to pass through the features. The student's own classifier is not trained at all.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from candle_tf.methods import losses
from candle_tf.methods.optimizers import adam
from candle_tf.methods.parameter_groups import ParameterGroup
from candle_tf.methods.trainer import TOTAL_LOSS, Batch, Trainer


@tf.keras.utils.register_keras_serializable("candle_tf")
class WarmupConstantDecay(tf.keras.optimizers.schedules.LearningRateSchedule):
    """Linear rise to the peak, constant, then linear fall to 0 over the last steps.

    Until the fall begins, the rate does not depend on how long the training is: a longer training
    can continue from there (Zhai et al., "Scaling Vision Transformers", 2022, section 3.5).

    Args:
        peak: the constant rate, above 0.
        warmup_steps: steps of the rise, at least 0.
        decay_start: step at which the fall begins.
        steps: steps of the whole training; the rate is 0 there.
    """

    def __init__(self, peak: float, warmup_steps: int, decay_start: int, steps: int) -> None:
        self.peak = peak
        self.warmup_steps = warmup_steps
        self.decay_start = decay_start
        self.steps = steps

    def __call__(self, step: Any) -> tf.Tensor:
        """The rate of a step, counted from 0; float32 scalar."""
        step = tf.cast(step, tf.float32)
        rise = (step + 1.0) / max(1, self.warmup_steps)
        fall = (self.steps - step) / max(1, self.steps - self.decay_start)
        return self.peak * tf.maximum(tf.minimum(1.0, tf.minimum(rise, fall)), 0.0)

    def get_config(self) -> dict[str, Any]:
        return {
            "peak": self.peak,
            "warmup_steps": self.warmup_steps,
            "decay_start": self.decay_start,
            "steps": self.steps,
        }


class FeatureProjector(tf.keras.layers.Layer):
    """From student features e `[B, d_S]` to the teacher's: mean + s (e K + b), `[B, d_T]`.

    s = sqrt(variance / (d_S d_T)). Adam moves every entry of K by about its rate, whatever the
    scale of K: with entries around 1 and the scale outside, the output does not jump at a rate that
    suits latent weights.

    Args:
        mean: of the teacher's features, float `[d_T]`.
        variance: E |e_T - mean|^2, summed over dimensions, above 0.
        seed: of the initial kernel.
    """

    def __init__(self, mean: np.ndarray, variance: float, seed: int = 0) -> None:
        super().__init__(name="projector")
        self._mean = tf.constant(mean, tf.float32)
        self._variance = variance
        self._initializer = tf.keras.initializers.RandomNormal(stddev=0.1, seed=seed)

    def build(self, input_shape: tf.TensorShape) -> None:
        size, target = int(input_shape[-1]), int(self._mean.shape[0])
        self._scale = math.sqrt(self._variance / (size * target))
        self.kernel = self.add_weight(
            name="kernel", shape=(size, target), initializer=self._initializer
        )
        self.bias = self.add_weight(name="bias", shape=(target,), initializer="zeros")
        super().build(input_shape)

    def call(self, features: tf.Tensor) -> tf.Tensor:
        return self._mean + self._scale * (tf.matmul(features, self.kernel) + self.bias)


def build_pretraining_groups(
    student: tf.keras.Model, projector: FeatureProjector, rate: Any
) -> list[ParameterGroup]:
    """One group that Adam moves: the student without its classifier, and the projector.

    Args:
        student: with a layer "logits".
        projector: built.
        rate: Adam's, a number or a schedule.
    """
    classifier = {v.ref() for v in student.get_layer("logits").trainable_variables}
    variables = [v for v in student.trainable_variables if v.ref() not in classifier]
    return [ParameterGroup(variables + projector.trainable_variables, adam(rate))]


class PretrainingTrainer(Trainer):
    """Trains a student's features.

    Training batches hold "inputs", "teacher_features" float `[B, d_T]` and "teacher_logits" float
    `[B, C_0]`, g of them; validation batches "inputs" and "labels", the teacher's own class of each
    image. Validation measures how often the student, through projector and source classifier, gives
    that class.

    Args:
        student: from pixels to "features" `[B, d_S]` and "logits"; its classifier is not trained.
        source_classifier: kernel float32 `[d_T, C_0]` and bias float32 `[C_0]`.
        parameter_groups: see `build_pretraining_groups`.
        projector: from student features to the teacher's.
        feature_variance: E |e_T - mean|^2 of the teacher's features, above 0.
        temperature: T of the KL loss.
        feature_weight: of 1 - R^2.
        xla: whether XLA compiles the training step.
    """

    def __init__(
        self,
        student: tf.keras.Model,
        source_classifier: tuple[np.ndarray, np.ndarray],
        parameter_groups: Sequence[ParameterGroup],
        *,
        projector: FeatureProjector,
        feature_variance: float,
        temperature: float,
        feature_weight: float,
        xla: bool = False,
    ) -> None:
        kernel, bias = source_classifier
        super().__init__(student, len(bias), parameter_groups, name="pretraining_trainer", xla=xla)
        self.projector = projector
        self._kernel = tf.constant(kernel, tf.float32)
        self._bias = tf.constant(bias, tf.float32)
        self._variance = feature_variance
        self._temperature = temperature
        self._feature_weight = feature_weight

    def source_logits(self, features: tf.Tensor) -> tf.Tensor:
        """Logits `[B, C_0]` of teacher or projected student features `[B, d_T]`."""
        return tf.matmul(features, self._kernel) + self._bias

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The student's logits of the source classes, `[B, C_0]`."""
        features = self.forward(inputs, training)["features"]
        return self.source_logits(self.projector(features))

    def compute_losses(self, batch: Batch, training: bool) -> dict[str, tf.Tensor]:
        """The total loss, "kl" and "fs", 1 - R^2."""
        projected = self.projector(self.forward(batch["inputs"], training)["features"])
        kl = tf.reduce_mean(
            losses.kl_divergence(
                batch["teacher_logits"], self.source_logits(projected), self._temperature
            )
        )
        differences = tf.math.squared_difference(projected, batch["teacher_features"])
        fs = tf.reduce_mean(tf.reduce_sum(differences, axis=-1)) / self._variance
        return {TOTAL_LOSS: kl + self._feature_weight * fs, "kl": kl, "fs": fs}


def feature_moments(features: np.ndarray, block: int = 4096) -> tuple[np.ndarray, float]:
    """Mean of features float [N, d], float64 [d], and E |e - mean|^2, in blocks of rows.

    Raises:
        ValueError: where all features are equal.
    """
    total, squares = np.zeros(features.shape[1]), 0.0
    for start in range(0, len(features), block):
        rows = features[start : start + block].astype(np.float64)
        total += rows.sum(axis=0)
        squares += float(np.sum(rows**2))
    mean = total / len(features)
    variance = squares / len(features) - float(mean @ mean)
    if not (math.isfinite(variance) and variance > 0):
        raise ValueError(f"the teacher's features have the variance {variance}")
    return mean, variance
