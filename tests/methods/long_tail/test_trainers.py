"""Trainers of published methods on a small dense student."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax, rel_entr, softmax

from candle_tf.methods.adjusted_checkpoints import AdjustedCheckpoints
from candle_tf.methods.baselines import LabelMethodTrainer, LogitDistillationTrainer
from candle_tf.methods.long_tail.settings import BaselineSettings
from candle_tf.methods.losses import cross_entropy
from candle_tf.methods.optimizers import adam
from candle_tf.methods.parameter_groups import ParameterGroup
from candle_tf.methods.registry import METHODS
from candle_tf.methods.second_stage import ClassifierTrainer, reset_classifier
from candle_tf.metrics import SCORE

COUNTS = np.array([60, 20, 5, 1])
RNG = np.random.default_rng(0)
SIZE = 24


def dense_student() -> tf.keras.Model:
    tf.keras.utils.set_random_seed(0)
    pixels = tf.keras.Input([6])
    x = tf.keras.layers.BatchNormalization(name="bn")(tf.keras.layers.Dense(8)(pixels))
    features = tf.keras.layers.Activation("relu", name="features")(x)
    logits = tf.keras.layers.Dense(4, name="logits")(features)
    return tf.keras.Model(pixels, {"features": features, "logits": logits})


def batch() -> dict[str, tf.Tensor]:
    labels = RNG.integers(0, 4, SIZE).astype(np.int32)
    inputs = RNG.normal(size=(SIZE, 6)) + 3 * np.eye(4, 6)[labels]
    return {
        "inputs": tf.constant(inputs, tf.float32),
        "labels": tf.constant(labels),
        "teacher_logits": tf.constant(RNG.normal(0, 2, (SIZE, 4)), tf.float32),
        "partner_labels": tf.constant(RNG.integers(0, 4, SIZE).astype(np.int32)),
        "ratios": tf.constant(RNG.uniform(size=SIZE), tf.float32),
    }


def all_of(student: tf.keras.Model, rate: float = 0.01) -> list[ParameterGroup]:
    return [ParameterGroup(student.trainable_variables, adam(rate))]


def label_trainer(name: str, student: tf.keras.Model, steps: int = 10) -> LabelMethodTrainer:
    method = METHODS[name]
    loss = method.build_loss(BaselineSettings(), COUNTS)
    return LabelMethodTrainer(student, 4, loss, all_of(student), steps=steps, cosine=method.cosine)


def weights(layer) -> list[np.ndarray]:
    return [weight.numpy() for weight in layer.weights]


def test_the_loss_of_mixed_images_and_cosines_is_that_of_numpy():
    student, data = dense_student(), batch()
    features = student(data["inputs"], training=True)["features"].numpy().astype(np.float64)
    kernel = student.get_layer("logits").kernel.numpy().astype(np.float64)
    lengths = np.linalg.norm(features, axis=1)[:, None] * np.linalg.norm(kernel, axis=0)
    cosines = features @ kernel / lengths
    margins = 0.5 * COUNTS**-0.25

    def loss(labels):
        moved = 30 * (cosines - margins * np.eye(4)[labels])
        return -log_softmax(moved, axis=1)[np.arange(SIZE), labels]

    ratios = data["ratios"].numpy()
    expected = ratios * loss(data["labels"]) + (1 - ratios) * loss(data["partner_labels"])
    actual = label_trainer("ldam_drw", student).compute_losses(data, training=True)
    assert float(actual["objective"]) == pytest.approx(expected.mean(), rel=1e-4)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_validation_is_the_cross_entropy_of_scaled_cosines(scale):
    """Of cosines alone it is near log C, whatever the student has learned."""
    student, data = dense_student(), batch()
    features = student(data["inputs"], training=False)["features"].numpy().astype(np.float64)
    kernel = student.get_layer("logits").kernel.numpy().astype(np.float64)
    lengths = np.linalg.norm(features, axis=1)[:, None] * np.linalg.norm(kernel, axis=0)
    logits = scale * features @ kernel / lengths
    settings = BaselineSettings(ldam_scale=scale)
    method = METHODS["ldam_drw"]
    trainer = LabelMethodTrainer(
        student, 4, method.build_loss(settings, COUNTS), all_of(student), steps=10, cosine=True,
        validation_scale=method.validation_scale(settings),
    )  # fmt: skip
    examples = tf.data.Dataset.from_tensors({key: data[key] for key in ("inputs", "labels")})
    found = trainer.evaluate(examples, verbose=0, return_dict=True)
    labels = data["labels"].numpy()
    expected = -log_softmax(logits, axis=1)[np.arange(SIZE), labels].mean()
    assert found["loss"] == pytest.approx(expected, rel=1e-4)
    right = np.argmax(logits, axis=1) == labels
    accuracies = [right[labels == label].mean() for label in np.unique(labels)]
    assert found[SCORE.removeprefix("val_")] == pytest.approx(np.mean(accuracies))


def test_classes_are_re_weighted_once_their_time_has_come():
    """The learning rate is 0, so that only the weights change the loss."""
    student = dense_student()
    method = METHODS["ldam_drw"]
    trainer = LabelMethodTrainer(
        student, 4, method.build_loss(BaselineSettings(), COUNTS), all_of(student, 0.0),
        steps=10, cosine=True,
    )  # fmt: skip
    data = batch()
    values = [float(trainer.train_step(data)["objective"]) for _ in range(10)]
    np.testing.assert_allclose(values[:8], values[0], rtol=1e-5)
    np.testing.assert_allclose(values[8:], values[8], rtol=1e-5)
    assert abs(values[8] / values[0] - 1) > 0.05


@pytest.mark.parametrize("name", ["focal", "class_balanced", "ldam_drw", "logit_adjustment"])
def test_label_methods_learn_and_leave_an_idle_bias(name):
    student, data = dense_student(), batch()
    del data["ratios"]
    trainer = label_trainer(name, student, steps=1000)
    first = float(trainer.train_step(data)["objective"])
    for _ in range(60):
        last = float(trainer.train_step(data)["objective"])
    assert last < 0.7 * first
    bias = student.get_layer("logits").bias.numpy()
    assert (bias == 0).all() == (name == "ldam_drw")


def test_distillation_weighs_label_and_teacher():
    student, data = dense_student(), batch()
    logits = student(data["inputs"], training=True)["logits"].numpy().astype(np.float64)
    log_p = log_softmax(logits, axis=1)
    ratios, rows = data["ratios"].numpy(), np.arange(SIZE)
    label = -(
        ratios * log_p[rows, data["labels"]] + (1 - ratios) * log_p[rows, data["partner_labels"]]
    ).mean()
    teacher = softmax(data["teacher_logits"].numpy() / 4.0, axis=1)
    kl = 16 * rel_entr(teacher, softmax(logits / 4.0, axis=1)).sum(axis=1).mean()
    losses = METHODS["plain_distillation"].build_losses(
        BaselineSettings(distillation_label_weight=0.3), 4.0, COUNTS
    )
    trainer = LogitDistillationTrainer(student, 4, losses, all_of(student))
    actual = trainer.compute_losses(data, training=True)
    assert float(actual["label"]) == pytest.approx(label, rel=1e-4)
    assert float(actual["kl"]) == pytest.approx(kl, rel=1e-4)
    assert float(actual["objective"]) == pytest.approx(0.3 * label + 0.7 * kl, rel=1e-4)


def test_a_new_classifier_is_learned_and_nothing_else_moves():
    student, data = dense_student(), batch()
    student.get_layer("bn").moving_mean.assign(RNG.normal(size=8))
    old = weights(student.get_layer("logits"))
    reset_classifier(student, seed=5)
    new = weights(student.get_layer("logits"))
    assert np.abs(old[0] - new[0]).max() > 0.1
    others = [layer for layer in student.layers if layer.name != "logits"]
    before = [weight for layer in others for weight in weights(layer)]
    trainer = ClassifierTrainer(student, 4, cross_entropy, scale_only=False, rate=0.05)
    del data["ratios"]
    first = float(trainer.train_step(data)["objective"])
    for _ in range(40):
        last = float(trainer.train_step(data)["objective"])
    assert last < first
    after = [weight for layer in others for weight in weights(layer)]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(new, weights(student.get_layer("logits")), strict=True):
        assert np.abs(one - other).max() > 1e-3


def test_factors_of_classes_are_learned_and_folded_at_every_restore(tmp_path):
    student, data = dense_student(), batch()
    student.get_layer("logits").bias.assign([0.1, 0.2, 0.3, 0.4])
    kept = weights(student.get_layer("logits"))
    trainer = ClassifierTrainer(student, 4, cross_entropy, scale_only=True, rate=0.05)
    for _ in range(20):
        trainer.train_step(data)
    for one, other in zip(kept, weights(student.get_layer("logits")), strict=True):
        np.testing.assert_array_equal(one, other)
    scaled = trainer(data["inputs"]).numpy()
    assert np.abs(scaled - student(data["inputs"])["logits"].numpy()).max() > 0.05
    classifier = student.get_layer("logits")
    checkpoints = AdjustedCheckpoints(tmp_path, trainer, student, classifier, trainer.apply_scale)
    checkpoints.save({"epoch": 1})
    for _ in range(2):
        checkpoints.restore(1)
        folded = student(data["inputs"])["logits"].numpy()
        np.testing.assert_allclose(folded, scaled, rtol=1e-5, atol=1e-6)
