import numpy as np
import pytest
import tensorflow as tf
from scipy.special import expit, logit, rel_entr
from scipy.stats import entropy

from candle_tf.errors import UserError
from candle_tf.methods import losses
from candle_tf.methods.balance import BalanceInputs, build_total_loss
from candle_tf.methods.class_balance import ClassBalancer, ClassTotalLoss, class_sizes
from candle_tf.methods.distillation import DistillationTrainer, build_trainer
from candle_tf.methods.feature_losses import CosineLoss
from candle_tf.methods.parameter_groups import ParameterGroup
from candle_tf.methods.settings import BalanceSettings, OptimizerSettings
from tests.methods.test_distillation import float_student, teacher_batch

COUNTS = np.array([200, 50, 3])
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (40, 3)).astype(np.float32)


def build_class_total_loss(
    counts=COUNTS,
    logits=LOGITS,
    sampler="instance",
    of_mean=1.5,
    floors=(0.0, 0.0),
    start=0.6,
    **settings,
):
    epochs = {"epochs": 10, "steps_in_epoch": 7, "sampler_start": start}
    settings = BalanceSettings(balance="class_adversarial", **settings)
    blocks = np.array_split(logits, 2)
    inputs = BalanceInputs(
        lambda: blocks, 9.0, counts, sampler, floors, feature_of_mean=of_mean, **epochs
    )
    total_loss = build_total_loss(settings, inputs)
    assert isinstance(total_loss, ClassTotalLoss)
    return total_loss


def test_sizes_are_relative_log_counts():
    expected = (np.log(50) - np.log(3)) / (np.log(200) - np.log(3))
    np.testing.assert_allclose(class_sizes(COUNTS), [1.0, expected, 0.0])
    np.testing.assert_array_equal(class_sizes(np.array([7, 7])), [0.0, 0.0])
    np.testing.assert_array_equal(class_sizes(np.array([7])), [0.0])


def test_a_loss_that_a_constant_does_not_have_is_no_unit():
    assert build_class_total_loss(of_mean=1e-15).fs_reference == 1.0


def test_units_are_the_losses_of_the_mean_prediction():
    total_loss = build_class_total_loss(temperature=2.0)
    p = np.exp(LOGITS.astype(np.float64) / 2)
    p /= p.sum(axis=1, keepdims=True)
    expected = 4 * np.mean([entropy(row, p.mean(axis=0)) for row in p])
    assert total_loss.kl_reference == pytest.approx(expected, rel=1e-9)
    assert total_loss.fs_reference == 1.5


def _weights_at(sampler: str, step: int, **inputs) -> np.ndarray:
    """Of the classes, relative to the first, from the gradients of the total loss."""
    total_loss = build_class_total_loss(sampler=sampler, **inputs)
    balancer = total_loss.build_balancer(seed=3)
    kl = tf.Variable(np.ones(3), dtype=tf.float32)
    labels = tf.constant([0, 1, 2])
    with tf.GradientTape() as tape:
        logs = total_loss.balance(balancer, kl, tf.ones(3), labels, tf.constant(step, tf.int64))
    # All classes have lambda_0 at first.
    gradient = tape.gradient(logs["objective"], kl).numpy()
    return gradient / gradient[0]


# Of ten epochs of seven steps each.
@pytest.mark.parametrize(
    ("sampler", "step", "probabilities"),
    [
        *(("instance", step, COUNTS) for step in (0, 69)),
        *(("class_balanced", step, np.ones(3)) for step in (0, 69)),
        *(("square_root", step, COUNTS**0.5) for step in (0, 69)),
        *(("deferred_class_balanced", step, COUNTS) for step in (0, 41)),
        *(("deferred_class_balanced", step, np.ones(3)) for step in (42, 69, 70)),
        ("deferred_square_root", 41, COUNTS),
        ("deferred_square_root", 42, COUNTS**0.5),
        ("progressive", 6, COUNTS),
        ("progressive", 28, 0.6 * COUNTS / COUNTS.sum() + 0.4 / 3),
        ("progressive", 69, 0.1 * COUNTS / COUNTS.sum() + 0.9 / 3),
    ],
)
def test_weights_are_of_what_the_sampler_shows_in_the_epoch(sampler, step, probabilities):
    expected = (probabilities / probabilities[0]) ** -0.5
    np.testing.assert_allclose(_weights_at(sampler, step), expected, rtol=1e-5)


@pytest.mark.parametrize(("step", "is_sampled"), [(20, False), (21, True), (34, True), (69, True)])
def test_weights_change_with_a_sampler_that_begins_in_the_first_half(step, is_sampled):
    expected = np.ones(3) if is_sampled else (COUNTS / COUNTS[0]) ** -0.5
    found = _weights_at("deferred_class_balanced", step, start=0.3)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_weights_of_the_first_samplers_are_what_they_always_were():
    expected = np.tile(COUNTS**-0.5, (10, 1)).astype(np.float32)
    np.testing.assert_array_equal(build_class_total_loss().weights.astype(np.float32), expected)
    np.testing.assert_array_equal(build_class_total_loss(sampler="class_balanced").weights, 1.0)


def _batch():
    labels = RNG.integers(0, 3, 10)
    return RNG.gamma(2, 1, 10), RNG.gamma(2, 0.5, 10), labels


def test_floors_that_a_student_cannot_be_above_are_refused():
    with pytest.raises(UserError, match=r"feature loss ends at 1.5, .* learns nothing is 1.5"):
        build_class_total_loss(floors=(0.1, 1.5))
    with pytest.raises(UserError, match="its KL loss ends at 99"):
        build_class_total_loss(floors=(99.0, 0.1))


@pytest.mark.parametrize("floors", [(0.0, 0.0), (0.7, 0.4)])
def test_the_total_loss_and_what_is_logged_are_the_formulas(floors):
    total_loss = build_class_total_loss(balance_tau=0.4, balance_prior=0.3, floors=floors)
    balancer = total_loss.build_balancer(seed=3)
    assert isinstance(balancer, ClassBalancer)
    hidden, bias, _, last_bias = balancer.get_weights()
    weights = [hidden, bias, RNG.normal(size=(32, 1)), last_bias + 0.2]
    balancer.set_weights(weights)
    kl, fs, labels = _batch()
    step = tf.constant(5, tf.int64)
    logs = total_loss.balance(
        balancer, tf.constant(kl, tf.float32), tf.constant(fs, tf.float32), labels, step
    )

    seed = tf.constant([3, 5], tf.int64)
    noise = tf.random.stateless_normal([1, 8], seed, alg="philox").numpy()[0]

    def lambda_of(size):
        inputs = np.concatenate([noise, [size]])
        out = np.tanh(inputs @ weights[0] + weights[1]) @ weights[2] + weights[3]
        return expit(logit(0.3) + out[0])

    lam = np.array([lambda_of(class_sizes(COUNTS)[label]) for label in labels])
    barrier = rel_entr(lam, 0.3) + rel_entr(1 - lam, 0.7)
    k = (kl - floors[0]) / (total_loss.kl_reference - floors[0])
    f = (fs - floors[1]) / (1.5 - floors[1])
    each = lam * k + (1 - lam) * f - 0.4 * barrier
    w = COUNTS[labels] ** -0.5
    assert float(logs["objective"]) == pytest.approx((w * each).sum() / w.sum(), rel=1e-4)
    assert float(logs["kl"]) == pytest.approx(kl.mean(), rel=1e-5)
    assert float(logs["fs"]) == pytest.approx(fs.mean(), rel=1e-5)
    assert float(logs["lambda"]) == pytest.approx(lam.mean(), rel=1e-4)
    thirds = np.minimum((class_sizes(COUNTS)[labels] * 3).astype(int), 2)
    for place, (name, size) in enumerate((("rare", 0.0), ("medium", 0.5), ("frequent", 1.0))):
        assert float(logs[f"lambda_{name}"]) == pytest.approx(lambda_of(size), rel=1e-4)
        inside = thirds == place
        sums = {"share": inside, "lambda_sum": inside * lam, "excess": inside * (k - f)}
        for kind, values in sums.items():
            assert float(logs[f"{kind}_{name}"]) == pytest.approx(values.mean(), rel=1e-4, abs=1e-7)


def test_it_starts_at_lambda_0_whatever_noise_and_class():
    total_loss = build_class_total_loss(balance_prior=0.2)
    balancer = total_loss.build_balancer(seed=0)
    kl, fs, labels = _batch()
    for step in range(3):
        logs = total_loss.balance(
            balancer,
            tf.constant(kl, tf.float32),
            tf.constant(fs, tf.float32),
            labels,
            tf.constant(step, tf.int64),
        )
        for name in ("lambda", "lambda_rare", "lambda_medium", "lambda_frequent"):
            assert float(logs[name]) == pytest.approx(0.2, rel=1e-5)


def test_each_seed_has_a_hidden_layer_of_its_own():
    first, same, other = (ClassBalancer(seed).get_weights()[0] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, same)
    assert not np.isclose(first, other, atol=1e-7).any()


def test_the_adversary_finds_the_best_lambda_of_each_class():
    """In closed form: sigmoid(logit(lambda_0) + (k_c - f_c) / tau)."""
    total_loss = build_class_total_loss(
        sampler="class_balanced", balance_tau=0.5, balance_prior=0.4
    )
    k, f = np.array([0.3, 0.6, 0.9]), np.array([0.8, 0.7, 0.5])
    labels = tf.constant(np.tile(np.arange(3), 4))
    kl = tf.constant(np.tile(k * total_loss.kl_reference, 4), tf.float32)
    fs = tf.constant(np.tile(f * total_loss.fs_reference, 4), tf.float32)
    balancer = total_loss.build_balancer(seed=1)
    optimizer = tf.keras.optimizers.Adam(0.02, jit_compile=False)

    @tf.function
    def maximize(step: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.GradientTape() as tape:
            logs = total_loss.balance(balancer, kl, fs, labels, step)
        gradients = tape.gradient(logs["objective"], balancer.trainable_variables)
        pairs = zip([-g for g in gradients], balancer.trainable_variables, strict=True)
        optimizer.apply_gradients(pairs)
        return logs

    first = float(maximize(tf.constant(0, tf.int64))["objective"])
    seen = [maximize(tf.constant(step, tf.int64)) for step in range(1, 700)][-40:]
    best = expit(logit(0.4) + (k - f) / 0.5)
    assert np.mean([log["lambda_frequent"] for log in seen]) == pytest.approx(best[0], abs=0.03)
    assert np.mean([log["lambda_rare"] for log in seen]) == pytest.approx(best[2], abs=0.03)
    assert float(seen[-1]["objective"]) > first

    grid = np.linspace(0.002, 0.998, 999)
    for place in range(3):
        values = total_loss.of_examples(
            tf.fill([999], kl[place]),
            tf.fill([999], fs[place]),
            tf.constant(logit(grid), tf.float32),
        ).numpy()
        assert grid[values.argmax()] == pytest.approx(best[place], abs=0.005)


def test_eliminating_lambda_leaves_a_smooth_maximum():
    total_loss = build_class_total_loss(balance_tau=0.3, balance_prior=0.4)
    k, f = 0.9, 0.2
    u = logit(0.4) + (k - f) / 0.3
    value = total_loss.of_examples(
        tf.constant([k * total_loss.kl_reference], tf.float32),
        tf.constant([f * total_loss.fs_reference], tf.float32),
        tf.constant([u], tf.float32),
    )
    expected = 0.3 * np.log(0.4 * np.exp(k / 0.3) + 0.6 * np.exp(f / 0.3))
    assert float(value[0]) == pytest.approx(expected, rel=1e-5)


def test_a_step_moves_student_down_and_balancer_up():
    """SGD makes the update visible: -rate * gradient for learners, +rate * gradient above."""
    batch = {name: tf.constant(value) for name, value in teacher_batch().items()}
    total_loss = build_class_total_loss(
        np.array([90, 50, 20, 9, 3]), batch["teacher_logits"].numpy()
    )
    student, feature_loss = float_student(), CosineLoss(np.zeros(12))
    projector, balancer = feature_loss.build_projector(student), total_loss.build_balancer(0)
    learners = student.trainable_variables + projector.trainable_variables
    adversary = balancer.trainable_variables
    trainer = DistillationTrainer(
        student,
        5,
        [
            ParameterGroup(learners, tf.keras.optimizers.SGD(0.01)),
            ParameterGroup(adversary, tf.keras.optimizers.SGD(0.03), maximize=True),
        ],
        projector=projector,
        balancer=balancer,
        feature_loss=feature_loss,
        total_loss=total_loss,
        temperature=2.0,
    )
    with tf.GradientTape() as tape:
        total = trainer.compute_losses(batch, training=True)["objective"]
    gradients = tape.gradient(total, learners + adversary)
    before = [variable.numpy() for variable in learners + adversary]
    trainer.train_step(batch)
    rates = [-0.01] * len(learners) + [0.03] * len(adversary)
    rows = zip(learners + adversary, before, gradients, rates, strict=True)
    for variable, old, gradient, rate in rows:
        np.testing.assert_allclose(
            variable.numpy(), old + rate * gradient.numpy(), atol=1e-5, err_msg=variable.name
        )
    # The last layer starts at zero, so it alone has a gradient in the first step.
    assert max(np.abs(g.numpy()).max() for g in gradients[len(learners) :]) > 1e-3


@pytest.mark.parametrize(("balance", "factor"), [("adversarial", 1), ("class_adversarial", 5)])
def test_the_adversary_that_sees_the_class_learns_at_five_times_the_rate(balance, factor):
    settings = BalanceSettings(balance=balance, balance_learning_rate=0.002)
    inputs = BalanceInputs(lambda: [LOGITS], 1.0, COUNTS, "instance")
    trainer = build_trainer(
        float_student(), 5, settings, OptimizerSettings(), feature_loss=CosineLoss(np.zeros(12)),
        total_loss=build_total_loss(settings, inputs), steps=10, seed=0,
    )  # fmt: skip
    (adversary,) = (group for group in trainer.parameter_groups if group.maximize)
    assert float(adversary.optimizer.learning_rate) == pytest.approx(factor * 0.002)


@pytest.mark.parametrize("temperature", [0.01, 1e3])
@pytest.mark.parametrize("balance", ["adversarial", "relative", "plain", "class_adversarial"])
@pytest.mark.parametrize("classes", [1, 2, 8142])
def test_every_balance_is_finite(balance, temperature, classes):
    teacher = RNG.normal(0, 5, (16, classes)).astype(np.float32)
    counts = np.maximum(1, (1000 / np.arange(1, classes + 1)).astype(int))
    settings = BalanceSettings(balance=balance, temperature=temperature)
    inputs = BalanceInputs(lambda: [teacher], 1.0, counts, "instance")
    total_loss = build_total_loss(settings, inputs)
    balancer = total_loss.build_balancer(0)
    student = tf.Variable(RNG.normal(0, 5, (16, classes)).astype(np.float32))
    labels = RNG.integers(0, classes, 16)
    with tf.GradientTape() as tape:
        kl = losses.kl_divergence(tf.constant(teacher), student, temperature)
        logs = total_loss.balance(balancer, kl, tf.fill([16], 0.9), labels, tf.constant(0))
    gradients = tape.gradient(logs["objective"], [student, *balancer.trainable_variables])
    assert all(np.isfinite(float(value)) for value in logs.values())
    for gradient in gradients:
        assert np.isfinite(gradient.numpy()).all()


@pytest.mark.parametrize("value", [-1e5, 1e5])
def test_a_saturated_lambda_is_finite(value):
    logits = tf.Variable([value])
    with tf.GradientTape() as tape:
        each = build_class_total_loss().of_examples(tf.constant([1.0]), tf.constant([0.5]), logits)
    assert np.isfinite(each.numpy()).all()
    assert np.isfinite(tape.gradient(each, logits).numpy()).all()


def test_images_without_labels_have_the_prior_lambda_and_do_not_move_the_adversary():
    total_loss = build_class_total_loss(balance_tau=0.4, balance_prior=0.3)
    balancer = total_loss.build_balancer(seed=3)
    kl, fs, labels = (np.asarray(part, np.float32) for part in _batch())
    labels = labels.astype(np.int64)
    labelled = np.arange(10) < 6

    def compute(kl, labels):
        step = tf.constant(5, tf.int64)
        with tf.GradientTape() as tape:
            logs = total_loss.balance(
                balancer, tf.constant(kl), tf.constant(fs), labels, step, labelled
            )
        return logs, tape.gradient(logs["objective"], balancer.trainable_variables)

    def alone():
        step = tf.constant(5, tf.int64)
        return total_loss.balance(
            balancer, tf.constant(kl[:6]), tf.constant(fs[:6]), labels[:6], step
        )

    logs, gradients = compute(kl, labels)
    each = 0.3 * kl[6:] / total_loss.kl_reference + 0.7 * fs[6:] / 1.5
    # The four have the mean weight of the six.
    expected = (6 * float(alone()["objective"]) + each.sum()) / 10
    assert float(logs["objective"]) == pytest.approx(expected, rel=1e-4)
    other, same = compute(np.where(labelled, kl, 7.0).astype(np.float32), (labels + ~labelled) % 3)
    assert float(other["objective"]) != pytest.approx(float(logs["objective"]), rel=1e-3)
    for one, two in zip(gradients, same, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-7)
