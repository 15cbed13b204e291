"""Pretraining's losses against NumPy, what is trained and what is not, and the learning rate."""

from functools import partial

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.methods.pretraining import (
    FeatureProjector,
    PretrainingTrainer,
    WarmupConstantDecay,
    build_pretraining_groups,
    feature_moments,
)
from candle_tf.students.compute_policy import PLAIN, ComputePolicy, set_compute_policy
from tests.methods.test_distillation import binary_student, float_student
from tests.native.availability import needs_native

SIZE, SOURCE_CLASSES, T = 6, 9, 2.0


def build_trainer(student=None, weight=0.5, rate=0.02):
    rng = np.random.default_rng(0)
    features = rng.gamma(2.0, 1.0, (200, SIZE))
    head = (rng.normal(size=(SIZE, SOURCE_CLASSES)), rng.normal(size=SOURCE_CLASSES))
    mean, variance = feature_moments(features)
    network = student or float_student()
    projector = FeatureProjector(mean, variance)
    projector.build(network.output["features"].shape)
    trainer = PretrainingTrainer(
        network,
        head,
        build_pretraining_groups(network, projector, rate),
        projector=projector,
        feature_variance=variance,
        temperature=T,
        feature_weight=weight,
    )
    batch = {
        "inputs": rng.uniform(0, 255, (16, 8, 8, 3)).astype(np.float32),
        "teacher_features": features[:16].astype(np.float32),
        "teacher_logits": (features[:16] @ head[0] + head[1]).astype(np.float32),
    }
    return trainer, batch, head, features


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_moments_are_those_of_numpy_in_any_blocks():
    features = np.random.default_rng(1).normal(3, 2, (100, SIZE)).astype(np.float16)
    mean, variance = feature_moments(features, block=7)
    np.testing.assert_allclose(mean, features.astype(np.float64).mean(axis=0))
    np.testing.assert_allclose(variance, features.astype(np.float64).var(axis=0).sum())
    with pytest.raises(ValueError, match="variance"):
        feature_moments(np.ones((10, 3)))


def test_the_losses_are_those_of_the_formulas():
    trainer, batch, (kernel, bias), features = build_trainer()
    trainer.projector.bias.assign(np.arange(SIZE, dtype=np.float32))
    losses = {
        name: float(value) for name, value in trainer.compute_losses(batch, training=False).items()
    }

    student = trainer.network(batch["inputs"], training=False)["features"].numpy()
    mean, variance = features.mean(axis=0), features.var(axis=0).sum()
    scale = np.sqrt(variance / (SIZE * student.shape[1]))
    projected = mean + scale * (
        student @ trainer.projector.kernel.numpy() + trainer.projector.bias.numpy()
    )
    target = batch["teacher_features"]
    p, q = (softmax((x @ kernel + bias) / T) for x in (target, projected))
    kl = T**2 * np.mean(np.sum(p * np.log(p / q), axis=1))
    unexplained = np.mean(np.sum((projected - target) ** 2, axis=1)) / variance
    assert losses["kl"] == pytest.approx(kl, rel=1e-4)
    assert losses["fs"] == pytest.approx(unexplained, rel=1e-4)
    assert losses["objective"] == pytest.approx(kl + 0.5 * unexplained, rel=1e-4)


def test_a_student_that_knows_nothing_explains_nothing():
    trainer, _, (kernel, bias), features = build_trainer()
    trainer.projector.kernel.assign(tf.zeros_like(trainer.projector.kernel))
    inputs = np.zeros((len(features), 8, 8, 3), np.float32)
    batch = {
        "inputs": inputs,
        "teacher_features": features.astype(np.float32),
        "teacher_logits": (features @ kernel + bias).astype(np.float32),
    }
    assert float(trainer.compute_losses(batch, training=False)["fs"]) == pytest.approx(
        1.0, rel=1e-4
    )


def test_student_and_projector_learn_and_nothing_else_moves():
    trainer, batch, _, _ = build_trainer(binary_student())
    network, projector = trainer.network, trainer.projector
    classifier = [v.numpy() for v in network.get_layer("logits").weights]
    stem, kernel = (layer.kernel.numpy() for layer in (network.get_layer("stem_conv"), projector))
    first = float(trainer.compute_losses(batch, training=True)["objective"])
    for _ in range(40):
        trainer.train_step(batch)
    assert float(trainer.compute_losses(batch, training=True)["objective"]) < 0.8 * first
    assert np.abs(network.get_layer("stem_conv").kernel.numpy() - stem).max() > 0
    assert np.abs(projector.kernel.numpy() - kernel).max() > 0
    for before, after in zip(classifier, network.get_layer("logits").weights, strict=True):
        np.testing.assert_array_equal(before, after.numpy())


@needs_native
def test_native_operators_train_as_the_plain_composition():
    """The same losses and moving statistics, and batch norm runs in the fused operators."""
    losses, statistics, operators = [], [], []
    for policy in (PLAIN, ComputePolicy(native=True)):
        student = binary_student()
        set_compute_policy(student, policy)
        trainer, batch, _, _ = build_trainer(student)
        step = tf.function(partial(trainer.train_step, batch), autograph=False)
        graph = step.get_concrete_function().graph
        operators.append({operator.type for operator in graph.get_operations()})
        losses.append({name: float(value) for name, value in step().items()})
        statistics.append([variable.numpy() for variable in student.non_trainable_variables])
    assert [any("FusedBatchNorm" in name for name in each) for each in operators] == [True, False]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    for plain, native in zip(*statistics, strict=True):
        np.testing.assert_allclose(native, plain, rtol=1e-4, atol=1e-5)


def test_validation_counts_the_teachers_own_classes():
    trainer, batch, _, _ = build_trainer()
    logits = trainer(batch["inputs"]).numpy()
    assert logits.shape == (16, SOURCE_CLASSES)
    labels = logits.argmax(axis=1).astype(np.int32)
    found = trainer.test_step({"inputs": batch["inputs"], "labels": labels})
    assert float(found["mean_class_accuracy"]) == 1.0


def test_the_rate_rises_stays_and_falls():
    rate = WarmupConstantDecay(0.1, warmup_steps=4, decay_start=10, steps=20)
    found = [float(rate(step)) for step in range(21)]
    expected = [0.025, 0.05, 0.075, *[0.1] * 8, *(0.1 * (20 - s) / 10 for s in range(11, 21))]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_until_it_falls_the_rate_does_not_depend_on_the_length():
    short = WarmupConstantDecay(0.1, warmup_steps=4, decay_start=10, steps=20)
    long = WarmupConstantDecay(0.1, warmup_steps=4, decay_start=70, steps=100)
    steps = range(11)
    assert [float(short(s)) for s in steps] == [float(long(s)) for s in steps]
    again = WarmupConstantDecay.from_config(long.get_config())
    assert float(again(85)) == float(long(85)) == pytest.approx(0.05)


def test_without_warmup_or_fall_the_rate_is_constant():
    rate = WarmupConstantDecay(0.1, warmup_steps=0, decay_start=20, steps=20)
    assert [float(rate(step)) for step in range(20)] == [pytest.approx(0.1)] * 20
