"""Losses that are not one number of each example are refused, with the part's name."""

import re

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.errors import UserError, find_user_error
from candle_tf.methods import calibration
from candle_tf.methods import checked_losses as checks
from candle_tf.methods.baselines import SupervisedTrainer
from candle_tf.methods.checked_losses import checked_losses, try_losses
from candle_tf.methods.long_tail.settings import BaselineSettings
from candle_tf.methods.method import (
    Contrast,
    ContrastiveMethod,
    DistillationLosses,
    DistillationMethod,
    LabelMethod,
    TwoStageMethod,
)
from candle_tf.methods.optimizers import adam
from candle_tf.methods.parameter_groups import ParameterGroup
from candle_tf.methods.registry import METHODS
from candle_tf.methods.settings import CalibrationSettings
from candle_tf.registry import Registry

COUNTS = np.array([50, 20, 3])
WRONG = {
    "a scalar": (tf.reduce_mean, r"float32 \(\)"),
    "a column": (lambda x: x[:, tf.newaxis], r"float32 \(5, 1\)"),
    "classes": (lambda x: tf.stack([x] * 3, 1), r"float32 \(5, 3\)"),
    "fewer": (lambda x: x[:3], r"float32 \(3,\)"),
    "float64": (lambda x: tf.cast(x, tf.float64), r"float64 \(5,\)"),
    "nothing": (lambda _: None, "NoneType"),
}
wrong = pytest.mark.parametrize(("change", "found"), WRONG.values(), ids=WRONG)


def cross_entropy(logits, labels):
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def register(monkeypatch, **methods) -> None:
    registered = {name: METHODS[name] for name in ("candle", "cross_entropy")}
    monkeypatch.setattr(checks, "METHODS", Registry(registered | methods))


def try_method(name: str) -> None:
    try_losses(name, BaselineSettings(), 4.0, COUNTS)


@wrong
def test_a_plain_loss_is_tried_before_the_work(monkeypatch, change, found):
    register(monkeypatch, mine=lambda z, y, n: change(cross_entropy(z, y)))  # noqa: ARG005
    words = rf"method 'mine' \(.*lambda.*\) gave {found} for logits \(5, 3\); asked is one loss "
    with pytest.raises(UserError, match=f"^{words}"):
        try_method("mine")


def test_losses_that_are_not_finite_are_told_before_the_work(monkeypatch):
    register(monkeypatch, mine=lambda z, y, n: cross_entropy(z, y) / (n[0] - 50.0))
    with pytest.raises(UserError, match=r"'mine' .* gave \[inf, .*: its losses are not finite"):
        try_method("mine")


@wrong
def test_the_loss_of_a_label_method_is_tried(monkeypatch, change, found):
    method = LabelMethod(lambda *_: lambda z, y, done: change(cross_entropy(z, y) * (1.0 + done)))
    register(monkeypatch, mine=method, twice=TwoStageMethod("mine", "cross_entropy"))
    for name in ("mine", "twice"):
        with pytest.raises(UserError, match=f"^method 'mine' gave {found}"):
            try_method(name)


@wrong
@pytest.mark.parametrize("place", ["of_labels", "of_teacher"])
def test_the_losses_of_a_distillation_are_tried(monkeypatch, change, found, place):
    losses = {"of_labels": cross_entropy, "of_teacher": lambda t, s: tf.reduce_sum((t - s) ** 2, 1)}
    right = losses[place]
    losses[place] = lambda a, b: change(right(a, b))
    method = DistillationMethod(lambda *_: DistillationLosses(**losses, label_weight=0.5))
    register(monkeypatch, mine=method)
    with pytest.raises(UserError, match=f"^method 'mine': `{place}` gave {found}"):
        try_method("mine")


def test_what_gives_no_losses_is_refused(monkeypatch):
    register(monkeypatch, mine=DistillationMethod(lambda *_: None))
    with pytest.raises(UserError, match="'mine': `build_losses` gave NoneType"):
        try_method("mine")


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (lambda logits, labels: cross_entropy(logits, labels),
         r"is called with \(logits, labels, counts\) and takes \(logits, labels\)"),
        (LabelMethod(lambda settings: settings), "`build_loss` is called with"),
        (LabelMethod(lambda *_: lambda logits: logits),
         r"is called with \(logits, labels, progress\) and takes \(logits\)"),
        (DistillationMethod(lambda settings, counts: (settings, counts)), "`build_losses` is call"),
        (ContrastiveMethod(lambda settings: settings), "`build` is called with"),
        (TwoStageMethod("absent", "cross_entropy"), "has a stage 'absent', which is not regis"),
        (TwoStageMethod("cross_entropy", "absent"), "has a stage 'absent', which is not regis"),
        (3, "is of type int, which cannot be called"),
    ],
)  # fmt: skip
def test_a_method_of_other_arguments_is_refused(monkeypatch, method, words):
    register(monkeypatch, mine=method)
    with pytest.raises(UserError, match=f"method 'mine'.* {words}"):
        try_method("mine")


@pytest.mark.parametrize("name", METHODS)
def test_all_methods_of_the_package_pass(name):
    try_method(name)


def test_a_method_with_a_queue_is_not_called_before_it_trains(monkeypatch):
    def build(settings, counts):
        raise AssertionError((settings, counts))

    register(monkeypatch, mine=ContrastiveMethod(build))
    try_method("mine")
    assert Contrast(build, 1, 0.9).loss is build


@wrong
def test_a_loss_is_refused_in_training_by_one_sentence(change, found):
    pixels = tf.keras.Input([4])
    network = tf.keras.Model(pixels, {"logits": tf.keras.layers.Dense(3)(pixels)})
    loss = checked_losses(lambda z, y, _: change(cross_entropy(z, y)), "method 'mine'")
    groups = [ParameterGroup(network.trainable_variables, adam(1e-3))]
    trainer = SupervisedTrainer(network, loss, COUNTS, groups)
    batch = {"inputs": tf.zeros([5, 4]), "labels": tf.zeros([5], tf.int32)}
    with pytest.raises(UserError) as caught:
        trainer.fit(tf.data.Dataset.from_tensors(batch), verbose=0)
    told = str(find_user_error(caught.value))
    words = rf"method 'mine' gave {found} for logits \(5, 3\); asked is one loss of each example, "
    assert re.fullmatch(words + r"float32 \[5\]\.", told)


def test_a_loss_of_any_number_of_examples_is_taken():
    loss = checked_losses(cross_entropy, "method 'mine'")
    shapes = [tf.TensorSpec([None, 3]), tf.TensorSpec([None], tf.int32)]
    traced = tf.function(loss, input_signature=shapes)
    logits = np.array([[1.0, 0.0, -1.0], [0.5, 0.5, 2.0]], np.float32)
    expected = np.log(np.exp(logits).sum(1)) - logits[[0, 1], [2, 0]]
    np.testing.assert_allclose(traced(logits, np.array([2, 0], np.int32)), expected, rtol=1e-5)


@wrong
def test_a_calibration_loss_is_checked(monkeypatch, change, found):
    losses = Registry({"mine": lambda *_: lambda z, y: change(cross_entropy(z, y))})
    monkeypatch.setattr(calibration, "CALIBRATION_LOSSES", losses)
    loss = calibration.build_calibration_loss(CalibrationSettings(), COUNTS, COUNTS, "mine")
    with pytest.raises(UserError, match=rf"calibration loss 'mine' .* gave {found}"):
        loss(tf.zeros([5, 3]), tf.zeros([5], tf.int32))
