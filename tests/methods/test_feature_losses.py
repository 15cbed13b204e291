import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax, softmax
from scipy.stats import entropy

from candle_tf.methods.balance import mean_prediction_loss
from candle_tf.methods.feature_losses import TeacherFeatures, build_feature_loss
from candle_tf.methods.registry import FEATURE_LOSSES
from candle_tf.methods.settings import BalanceSettings
from candle_tf.teachers.source_classes import prototypes
from tests.methods.test_distillation import distillation_trainer, float_student, teacher_batch

SIZE, CLASSES = 12, 7
RNG = np.random.default_rng(0)
FEATURES = RNG.gamma(2.0, 1.0, (60, SIZE))
PROJECTED = RNG.normal(1.5, 1.0, (60, SIZE)).astype(np.float32)
KERNEL = RNG.normal(size=(SIZE, CLASSES)).astype(np.float32)
BIAS = RNG.normal(size=CLASSES).astype(np.float32)


def _loss(name: str, features: np.ndarray = FEATURES, **settings):
    teacher = TeacherFeatures(lambda: np.array_split(features, 3), lambda: (KERNEL, BIAS))
    return build_feature_loss(BalanceSettings(feature_loss=name, **settings), teacher)


def _losses_of(name: str, projected: np.ndarray, features: np.ndarray) -> np.ndarray:
    mean = FEATURES.mean(axis=0)
    if name == "cosine":
        centred = features - mean
        lengths = np.linalg.norm(projected, axis=1) * np.linalg.norm(centred, axis=1)
        return 1 - (projected * centred).sum(axis=1) / lengths
    if name == "r2":
        return ((projected - features) ** 2).sum(axis=1) / FEATURES.var(axis=0).sum()
    teacher = log_softmax((features @ KERNEL + BIAS) / 3.0, axis=1)
    student = log_softmax((projected @ KERNEL + BIAS) / 3.0, axis=1)
    return 9.0 * (np.exp(teacher) * (teacher - student)).sum(axis=1)


@pytest.mark.parametrize("name", FEATURE_LOSSES)
def test_each_loss_and_its_gradient_are_the_formulas(name):
    loss = _loss(name, source_temperature=3.0)
    projected = tf.Variable(PROJECTED)
    with tf.GradientTape() as tape:
        each = loss(projected, tf.constant(FEATURES, tf.float32))
    np.testing.assert_allclose(each, _losses_of(name, PROJECTED, FEATURES), rtol=2e-4, atol=1e-5)
    gradient = tape.gradient(each, projected).numpy()
    for row, column in ((0, 0), (3, 5), (59, 11)):
        ends = [PROJECTED.astype(np.float64), PROJECTED.astype(np.float64)]
        ends[0][row, column] -= 1e-5
        ends[1][row, column] += 1e-5
        low, high = (_losses_of(name, end, FEATURES)[row] for end in ends)
        assert gradient[row, column] == pytest.approx((high - low) / 2e-5, rel=2e-3, abs=1e-5)


def test_references_are_the_losses_of_a_student_that_tells_nothing_apart():
    features = tf.constant(FEATURES, tf.float32)
    mean = tf.constant(np.tile(FEATURES.mean(axis=0), (60, 1)), tf.float32)
    r2 = _loss("r2")
    assert float(tf.reduce_mean(r2(mean, features))) == pytest.approx(r2.reference, rel=1e-5)

    source = _loss("source_kl")
    p = softmax((FEATURES @ KERNEL + BIAS) / 2.0, axis=1)
    best_constant = 4 * np.mean([entropy(row, p.mean(axis=0)) for row in p])
    assert source.reference == pytest.approx(best_constant, rel=1e-6)
    assert float(tf.reduce_mean(source(mean, features))) >= best_constant


def test_the_best_constant_of_the_papers_cosine_has_the_direction_that_features_share():
    loss = _loss("cosine", center_features=False)
    features = tf.constant(FEATURES, tf.float32)

    def mean_loss(constant: np.ndarray) -> float:
        projected = tf.constant(np.tile(constant, (60, 1)), tf.float32)
        return float(tf.reduce_mean(loss(projected, features)))

    best = (FEATURES / np.linalg.norm(FEATURES, axis=1, keepdims=True)).mean(axis=0)
    assert mean_loss(best) == pytest.approx(loss.of_mean, rel=1e-4)
    for _ in range(20):
        assert mean_loss(best + RNG.normal(0, 0.1, SIZE)) > loss.of_mean
    # Features after a ReLU share much; what --balance=relative measures in knows no direction.
    assert loss.of_mean < 0.4
    assert loss.reference == 1.0
    # Bit for bit what they were, by default.
    assert _loss("cosine").of_mean == _loss("cosine").reference == 1.0
    assert _loss("r2").of_mean == 1.0
    assert _loss("source_kl").of_mean == _loss("source_kl").reference


def test_features_of_length_0_have_no_direction():
    features = np.concatenate([FEATURES, np.zeros((20, SIZE))])
    whole, part = (_loss("cosine", f, center_features=False) for f in (features, FEATURES))
    assert 1 - whole.of_mean == pytest.approx(0.75 * (1 - part.of_mean))


@pytest.mark.parametrize("name", ["r2", "source_kl"])
def test_a_perfect_projection_has_no_loss_and_the_projector_starts_near_the_mean(name):
    loss, student = _loss(name), float_student()
    features = tf.constant(FEATURES, tf.float32)
    np.testing.assert_allclose(loss(features, features), 0, atol=1e-5)
    projector = loss.build_projector(student)
    projected = projector(student(np.zeros((4, 8, 8, 3), np.float32))["features"]).numpy()
    spread = np.sqrt(FEATURES.var(axis=0).sum())
    assert np.linalg.norm(projected - FEATURES.mean(axis=0), axis=1).max() < 0.5 * spread


@pytest.mark.parametrize("name", FEATURE_LOSSES)
def test_each_seed_has_a_projector_of_its_own(name):
    loss, student = _loss(name), float_student()
    first, same, other = (
        loss.build_projector(student, seed).get_weights()[0] for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, same)
    assert not np.isclose(first, other, atol=1e-7).any()


@pytest.mark.parametrize("name", ["r2", "source_kl"])
def test_student_and_projector_descend_on_every_loss(name):
    """With lambda at 0 the feature loss alone moves the student; its classifier stays."""
    batch = {key: tf.constant(value) for key, value in teacher_batch().items()}
    loss = _loss(name, batch["teacher_features"].numpy())
    student = float_student()
    trainer = distillation_trainer(
        student,
        tf.keras.optimizers.Adam(0.02, jit_compile=False),
        None,
        feature_loss=loss,
        fixed_lambda=0.0,
    )
    classifier = student.get_layer("logits").get_weights()
    projector, stem = trainer.projector.get_weights(), student.get_layer("stem_conv").get_weights()
    values = [float(trainer.train_step(batch)["fs"]) for _ in range(30)]
    assert values[-1] < 0.9 * values[0]
    assert not np.array_equal(projector[0], trainer.projector.get_weights()[0])
    assert not np.array_equal(stem[0], student.get_layer("stem_conv").get_weights()[0])
    for before, after in zip(classifier, student.get_layer("logits").get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_prototypes_stand_for_the_source_classes_of_a_teacher_without_any():
    kernel, bias = prototypes(FEATURES.astype(np.float32))
    teacher = TeacherFeatures(lambda: [FEATURES], lambda: (kernel, bias))
    loss = build_feature_loss(BalanceSettings(feature_loss="source_kl"), teacher)
    assert loss.reference > 0
    each = loss(tf.constant(PROJECTED), tf.constant(FEATURES, tf.float32)).numpy()
    assert (each >= -1e-5).all()
    assert each.mean() > 0.1


@pytest.mark.parametrize("temperature", [0.01, 1e3])
def test_losses_are_finite_at_any_temperature(temperature):
    loss = _loss("source_kl", source_temperature=temperature)
    projected = tf.Variable(PROJECTED)
    with tf.GradientTape() as tape:
        each = loss(projected, tf.constant(FEATURES, tf.float32))
    assert np.isfinite(each.numpy()).all()
    assert np.isfinite(tape.gradient(each, projected).numpy()).all()
    assert np.isfinite(loss.reference)


def test_the_best_constant_prediction_of_one_class_has_no_loss():
    assert mean_prediction_loss([np.ones((5, 1))], 2.0) == 0.0
