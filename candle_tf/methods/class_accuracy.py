"""Mean per-class accuracy as a Keras metric, for validation under `fit`."""

import numpy as np
import tensorflow as tf


def mean_class_accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Mean over the classes that occur of each class's top-1 accuracy, 0..1.

    Args:
        labels: int `[N]`, N at least 1.
        predicted: classes, int `[N]`.
    """
    hits = predicted == labels
    seen = np.bincount(labels)
    correct = np.bincount(labels, weights=hits)
    return float(np.mean(correct[seen > 0] / seen[seen > 0]))


class MeanClassAccuracy(tf.keras.metrics.Metric):
    """Mean over the classes seen since the last reset of each class's top-1 accuracy."""

    def __init__(self, classes: int, name: str = "mean_class_accuracy") -> None:
        super().__init__(name=name)
        self._correct = self.add_weight(name="correct", shape=(classes,), initializer="zeros")
        self._seen = self.add_weight(name="seen", shape=(classes,), initializer="zeros")

    def update_state(
        self, labels: tf.Tensor, logits: tf.Tensor, sample_weight: tf.Tensor | None = None
    ) -> None:
        """Counts a batch: labels int `[B]`, logits float `[B, C]`; weights are not supported."""
        if sample_weight is not None:
            raise ValueError("MeanClassAccuracy counts whole images; it takes no sample_weight")
        one_hot = tf.one_hot(labels, self._seen.shape[0])
        hit = tf.cast(tf.argmax(logits, axis=-1) == tf.cast(labels, tf.int64), tf.float32)
        self._seen.assign_add(tf.reduce_sum(one_hot, axis=0))
        self._correct.assign_add(tf.reduce_sum(one_hot * hit[:, tf.newaxis], axis=0))

    def result(self) -> tf.Tensor:
        """float32 scalar in 0..1; 0 before anything was counted."""
        present = tf.reduce_sum(tf.cast(self._seen > 0, tf.float32))
        each = tf.math.divide_no_nan(self._correct, self._seen)
        return tf.math.divide_no_nan(tf.reduce_sum(each), present)

    def reset_state(self) -> None:
        """Forgets what was counted (Keras's own reset assumes scalars)."""
        for variable in (self._correct, self._seen):
            variable.assign(tf.zeros_like(variable))
