"""The third loss, on labels, and the teacher's classifier in place of the student's."""

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.methods import losses
from candle_tf.methods.balance import FixedBalance, TotalLoss
from candle_tf.methods.calibration import teacher_classifier
from candle_tf.methods.class_accuracy import mean_class_accuracy
from candle_tf.methods.distillation import (
    DistillationTrainer,
    TiedHead,
    tied_head,
)
from candle_tf.methods.feature_losses import CosineLoss, SquaredErrorLoss
from candle_tf.methods.label_loss import LabelLoss
from candle_tf.methods.parameter_groups import ParameterGroup
from tests.methods.test_distillation import CLASSES, FEATURES, float_student, teacher_batch

COUNTS = np.array([90, 50, 20, 9, 3])
PIXELS = teacher_batch(seed=5)["inputs"]


def _trainer(student: tf.keras.Model, feature_loss, optimizer, lam=0.6, **options):
    projector = feature_loss.build_projector(student)
    variables = student.trainable_variables + projector.trainable_variables
    return DistillationTrainer(
        student,
        CLASSES,
        [ParameterGroup(variables, optimizer)],
        projector=projector,
        balancer=FixedBalance(lam),
        feature_loss=feature_loss,
        total_loss=TotalLoss(),
        temperature=2.0,
        **options,
    )


def _tensors(**more) -> dict[str, tf.Tensor]:
    batch = {**teacher_batch(), **more}
    return {name: tf.constant(value) for name, value in batch.items()}


def _of_labels(weight: float) -> LabelLoss:
    return LabelLoss(lambda z, y, _: losses.balanced_softmax(z, y, COUNTS), weight, steps=60)


def _cosine() -> CosineLoss:
    return CosineLoss(np.full(FEATURES, 2.0))


def _sgd() -> tf.keras.optimizers.Optimizer:
    return tf.keras.optimizers.SGD(0.01)


@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_the_label_loss_has_its_share_of_the_total(weight):
    batch = _tensors()
    trainer = _trainer(float_student(), _cosine(), _sgd(), label_loss=_of_labels(weight))
    logs = {name: float(value) for name, value in trainer.train_step(batch).items()}
    logits = float_student()(batch["inputs"], training=True)["logits"].numpy().astype(np.float64)
    powers = COUNTS * np.exp(logits)
    labels = batch["labels"].numpy()
    expected = -np.log(powers[np.arange(16), labels] / powers.sum(axis=1)).mean()
    assert logs["label"] == pytest.approx(expected, rel=1e-4)
    of_teacher = 0.6 * logs["kl"] + 0.4 * logs["fs"]
    total = (1 - weight) * of_teacher + weight * expected
    assert logs["objective"] == pytest.approx(total, rel=1e-4)


def test_labels_of_mixed_images_are_mixed():
    ratios = np.linspace(0.1, 0.9, 16).astype(np.float32)
    partners = np.arange(16, dtype=np.int32) % CLASSES
    batch = _tensors(ratios=ratios, partner_labels=partners)
    trainer = _trainer(float_student(), _cosine(), _sgd(), label_loss=_of_labels(0.5))
    logits = float_student()(batch["inputs"], training=True)["logits"]
    own = losses.balanced_softmax(logits, batch["labels"], COUNTS).numpy()
    other = losses.balanced_softmax(logits, tf.constant(partners), COUNTS).numpy()
    label = float(trainer.train_step(batch)["label"])
    assert label == pytest.approx((ratios * own + (1 - ratios) * other).mean(), rel=1e-4)


def test_the_label_loss_is_told_how_much_of_the_training_is_done():
    of_examples = LabelLoss(lambda z, _y, progress: 0.0 * z[:, 0] + progress, 0.5, steps=4)
    trainer = _trainer(float_student(), _cosine(), _sgd(), label_loss=of_examples)
    told = [float(trainer.train_step(_tensors())["label"]) for _ in range(4)]
    assert told == [0.0, 0.25, 0.5, 0.75]


def test_images_without_labels_have_no_label_loss():
    labelled = np.arange(16) < 11
    labels = teacher_batch()["labels"]
    logs = []
    for of_others in (labels, (labels + 2) % CLASSES):
        batch = _tensors(labels=np.where(labelled, labels, of_others), labelled=labelled)
        trainer = _trainer(float_student(), _cosine(), _sgd(), label_loss=_of_labels(0.5))
        logs.append({name: float(value) for name, value in trainer.train_step(batch).items()})
    assert logs[0] == logs[1]
    logits = float_student()(_tensors()["inputs"], training=True)["logits"]
    each = losses.balanced_softmax(logits, tf.constant(labels), COUNTS).numpy()
    assert logs[0]["label"] == pytest.approx(each[:11].mean(), rel=1e-4)
    # The teacher's outputs teach on all sixteen.
    everywhere = _trainer(float_student(), _cosine(), _sgd(), label_loss=_of_labels(0.5))
    assert logs[0]["kl"] == float(everywhere.train_step(_tensors())["kl"])


def test_a_student_of_a_wrong_teacher_learns_the_labels_where_they_have_weight():
    batch = _tensors(labels=(teacher_batch()["labels"] + 1) % CLASSES)
    agreement = []
    for weight in (0.0, 1.0):
        adam = tf.keras.optimizers.Adam(0.02, jit_compile=False)
        trainer = _trainer(float_student(), _cosine(), adam, label_loss=_of_labels(weight))
        trainer.fit(tf.data.Dataset.from_tensors(batch).repeat(60), verbose=0)
        logits = trainer.network(batch["inputs"], training=True)["logits"].numpy()
        agreement.append((logits.argmax(axis=1) == batch["labels"].numpy()).mean())
    assert agreement[0] < 0.4 < 0.7 < agreement[1]


def test_mean_class_accuracy_is_over_the_classes_that_occur():
    logits = np.eye(4)[[0, 0, 1, 3, 3]]
    labels, predicted = np.array([0, 0, 0, 3, 3]), logits.argmax(axis=1)
    assert mean_class_accuracy(labels, predicted) == pytest.approx((2 / 3 + 1) / 2)


def _squared_error() -> SquaredErrorLoss:
    features = teacher_batch()["teacher_features"].astype(np.float64)
    return SquaredErrorLoss(features.mean(axis=0), float(features.var(axis=0).sum()))


def _tied_trainer(optimizer) -> DistillationTrainer:
    rng = np.random.default_rng(3)
    head = TiedHead(
        rng.normal(size=(FEATURES, CLASSES)).astype(np.float32),
        rng.normal(size=CLASSES).astype(np.float32),
    )
    student = float_student()
    student.get_layer("logits").trainable = False
    return _trainer(student, _squared_error(), optimizer, lam=0.5, head=head)


def test_a_folded_head_is_the_projector_and_the_teachers_classifier():
    trainer = _tied_trainer(tf.keras.optimizers.Adam(0.02, jit_compile=False))
    batch = _tensors()
    trainer.fit(tf.data.Dataset.from_tensors(batch).repeat(20), verbose=0)
    student, layer = trainer.network, trainer.network.get_layer("logits")
    unfolded = trainer(PIXELS).numpy()
    assert np.abs(student(PIXELS)["logits"].numpy() - unfolded).max() > 0.1
    trainer.fold_head()
    np.testing.assert_allclose(student(PIXELS)["logits"], unfolded, rtol=1e-4, atol=1e-4)

    features = student(PIXELS)["features"].numpy()
    projected = trainer.projector(features).numpy()
    expected = projected @ trainer._head.kernel + trainer._head.bias
    np.testing.assert_allclose(unfolded, expected, rtol=1e-4, atol=1e-4)
    assert layer.kernel.shape == (features.shape[1], CLASSES)
    # As a SavedModel or a TFLite file would hold it: the dense layer alone.
    np.testing.assert_allclose(
        features @ layer.kernel.numpy() + layer.bias.numpy(), unfolded, rtol=1e-4, atol=1e-4
    )


def test_both_losses_move_the_projector_and_no_optimizer_moves_the_classifier():
    batch = _tensors()
    trainer = _tied_trainer(tf.keras.optimizers.Adam(0.02, jit_compile=False))
    batch["teacher_logits"] = trainer._head.logits(batch["teacher_features"])
    layer = trainer.network.get_layer("logits")
    owned = {v.ref() for group in trainer.parameter_groups for v in group.variables}
    assert not owned & {layer.kernel.ref(), layer.bias.ref()}
    before = [weight.numpy() for weight in layer.weights]
    first = trainer.train_step(batch)
    with tf.GradientTape(persistent=True) as tape:
        logs = trainer.compute_losses(batch, training=True)
    for name in ("kl", "fs"):
        assert np.abs(tape.gradient(logs[name], trainer.projector.kernel).numpy()).max() > 1e-6
    for _ in range(40):
        last = trainer.train_step(batch)
    for name in ("kl", "objective"):
        assert float(last[name]) < 0.9 * float(first[name])
    for old, weight in zip(before, layer.weights, strict=True):
        np.testing.assert_array_equal(old, weight.numpy())


@pytest.mark.parametrize("weight_scaling", [False, True])
def test_a_calibrated_classifier_is_read_as_kernel_and_bias(weight_scaling):
    classifier = teacher_classifier(FEATURES, CLASSES, weight_scaling=weight_scaling, seed=0)
    rng = np.random.default_rng(1)
    classifier.set_weights([rng.normal(size=w.shape) for w in classifier.get_weights()])
    features = rng.normal(size=(9, FEATURES)).astype(np.float32)
    expected = classifier(features)["logits"].numpy()
    np.testing.assert_allclose(
        tied_head(classifier).logits(features), expected, rtol=1e-4, atol=1e-5
    )
