"""Plain distillation from logits (Hinton et al., "Distilling the Knowledge", 2015).

With --calibration_loss=cross_entropy the teacher is not calibrated.
"""

import numpy as np

from candle_tf.methods.long_tail.settings import BaselineSettings
from candle_tf.methods.losses import cross_entropy, kl_divergence
from candle_tf.methods.method import DistillationLosses, DistillationMethod


def build_losses(
    settings: BaselineSettings,
    temperature: float,
    counts: np.ndarray,  # noqa: ARG001
) -> DistillationLosses:
    """Cross-entropy of the labels, and T^2 KL to the teacher."""
    return DistillationLosses(
        cross_entropy,
        lambda teacher, student: kl_divergence(teacher, student, temperature),
        settings.distillation_label_weight,
    )


METHOD = DistillationMethod(build_losses)
