"""DiVE: distillation of flattened teacher outputs (He, Wu and Wei, ICCV 2021)."""

import numpy as np
import tensorflow as tf

from candle_tf.methods.long_tail.settings import BaselineSettings
from candle_tf.methods.losses import balanced_softmax, kl_divergence
from candle_tf.methods.method import DistillationLosses, DistillationMethod


def dive_divergence(
    teacher_logits: tf.Tensor, student_logits: tf.Tensor, temperature: float, power: float
) -> tf.Tensor:
    """T^2 KL(q || softmax(z_S / T)), q proportional to softmax(z_T / T)^power (section 3).

    The power of a softmax, normalized, is the softmax of the logits times the power.

    Args:
        teacher_logits: float `[B, C]`.
        student_logits: float `[B, C]`.
        temperature: T > 0.
        power: in (0, 1]; below 1 the teacher's outputs are flatter.

    Returns:
        float `[B]`, at least 0.
    """
    return kl_divergence(power * teacher_logits, student_logits, temperature)


def build_losses(
    settings: BaselineSettings, temperature: float, counts: np.ndarray
) -> DistillationLosses:
    """Balanced softmax of the labels, and the divergence from the flattened outputs."""
    return DistillationLosses(
        lambda z, y: balanced_softmax(z, y, counts),
        lambda teacher, student: dive_divergence(
            teacher, student, temperature, settings.dive_power
        ),
        settings.distillation_label_weight,
    )


def _needs_all_logits(settings: BaselineSettings) -> str:
    return "powers of probabilities (--dive_power)" if settings.dive_power != 1 else ""


METHOD = DistillationMethod(
    build_losses,
    corrects_class_sizes=lambda settings: settings.distillation_label_weight != 0,
    needs_all_logits=_needs_all_logits,
)
