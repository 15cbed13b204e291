"""Names of methods, losses and balances. To add one: its function, and its line here."""

from collections.abc import Callable
from typing import Any

from candle_tf.registry import Registry

# A method is a loss without a teacher, (logits [B, C], labels [B], training counts [C]) -> [B]; or
# one of the classes of `method`; or "candle", which distils a teacher with a loss of its own.
METHODS: Registry[Callable[..., Any]] = Registry(
    {
        "candle": "candle_tf.methods.distillation:DistillationTrainer",
        "cross_entropy": "candle_tf.methods.losses:cross_entropy",
        "balanced_softmax": "candle_tf.methods.long_tail.balanced_softmax:METHOD",
        "focal": "candle_tf.methods.long_tail.focal:METHOD",
        "class_balanced": "candle_tf.methods.long_tail.class_balanced:METHOD",
        "ldam_drw": "candle_tf.methods.long_tail.ldam:METHOD",
        "logit_adjustment": "candle_tf.methods.long_tail.logit_adjustment:LOSS",
        "post_hoc_logit_adjustment": "candle_tf.methods.long_tail.logit_adjustment:POST_HOC",
        "tau_normalization": "candle_tf.methods.long_tail.tau_normalization:METHOD",
        "crt": "candle_tf.methods.long_tail.decoupling:CRT",
        "mislas": "candle_tf.methods.long_tail.decoupling:MISLAS",
        "candle_crt": "candle_tf.methods.long_tail.decoupling:CANDLE_CRT",
        "plain_distillation": "candle_tf.methods.long_tail.plain_distillation:METHOD",
        "dive": "candle_tf.methods.long_tail.dive:METHOD",
        "ltkd": "candle_tf.methods.long_tail.ltkd:METHOD",
        "paco": "candle_tf.methods.long_tail.paco:METHOD",
    }
)
BUILT_IN_METHODS = frozenset(METHODS)
# What settings are for (`only_for` of `candle_tf.settings.setting`): methods whose student, or its
# first stage, CANDLE distils; those with a label loss of their own beside a teacher; all with a
# teacher; those with a second stage. A test compares them with the methods.
CANDLE = "method=candle|candle_crt"
LABEL_LOSS_METHODS = ("plain_distillation", "ltkd", "dive")
WITH_LABEL_LOSS = f"method={'|'.join(LABEL_LOSS_METHODS)}"
WITH_TEACHER = "method=candle|candle_crt|plain_distillation|ltkd|dive"
WITH_SECOND_STAGE = "method=crt|mislas|candle_crt"
# (`CalibrationSettings`, training counts [C], how often each class is shown [C]) -> loss, which is
# (logits [B, C], labels [B]) -> [B]
CALIBRATION_LOSSES: Registry[Callable[..., Any]] = Registry(
    {
        "cross_entropy": "candle_tf.methods.calibration:build_cross_entropy",
        "balanced_softmax": "candle_tf.methods.calibration:build_balanced_softmax",
        "logit_adjustment": "candle_tf.methods.calibration:build_logit_adjustment",
        "label_aware_smoothing": "candle_tf.methods.calibration:build_label_aware_smoothing",
    }
)
# (`BalanceSettings`, `balance.BalanceInputs`) -> `balance.TotalLoss`, or a class derived from it
BALANCES: Registry[Callable[..., Any]] = Registry(
    {
        "adversarial": "candle_tf.methods.balance:build_adversarial",
        "relative": "candle_tf.methods.balance:build_relative",
        "plain": "candle_tf.methods.balance:build_plain",
        "fixed": "candle_tf.methods.balance:build_plain",
        "schedule": "candle_tf.methods.balance:build_plain",
        "class_adversarial": "candle_tf.methods.class_balance:build_class_adversarial",
    }
)
# (`BalanceSettings`, `feature_losses.TeacherFeatures`) -> `feature_losses.FeatureLoss`
FEATURE_LOSSES: Registry[Callable[..., Any]] = Registry(
    {
        "cosine": "candle_tf.methods.feature_losses:build_cosine",
        "source_kl": "candle_tf.methods.feature_losses:build_source_kl",
        "r2": "candle_tf.methods.feature_losses:build_r2",
    }
)
# Objects of `logit_losses.LogitLoss`
LOGIT_LOSSES: Registry[Any] = Registry(
    {
        "kl": "candle_tf.methods.logit_losses:KL",
        "standardized": "candle_tf.methods.logit_losses:STANDARDIZED",
        "dist": "candle_tf.methods.logit_losses:RELATION",
    }
)
