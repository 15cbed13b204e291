import larq as lq
import numpy as np
import pytest
import tensorflow as tf

from candle_tf.errors import UserError
from candle_tf.methods.balance import Balancer
from candle_tf.methods.baselines import SupervisedTrainer
from candle_tf.methods.distillation import DistillationTrainer
from candle_tf.methods.feature_losses import CosineLoss, build_projector
from candle_tf.methods.optimizers import LinearDecay, cosine_schedule, rate_schedule
from candle_tf.methods.parameter_groups import build_parameter_groups
from candle_tf.methods.registry import METHODS
from candle_tf.methods.settings import OptimizerSettings
from candle_tf.methods.training_loop import fit
from candle_tf.students.layers.blocks import binary_layers
from candle_tf.students.layers.quantizers import ApproxSign
from tests.methods.test_distillation import (
    CLASSES,
    FEATURES,
    MEAN,
    TOTAL,
    binary_student,
    teacher_batch,
)

COUNTS = np.array([90, 30, 10, 3, 1])
RATE = 0.01


def _expected_rate(step: int, peak: float, steps: int, warmup: int) -> float:
    if step < warmup:
        return peak * step / warmup
    return peak * 0.5 * (1 + np.cos(np.pi * (step - warmup) / (steps - warmup)))


@pytest.mark.parametrize(("steps", "fraction", "warmup"), [(100, 0.1, 10), (200, 0.0, 0)])
def test_cosine_schedule(steps, fraction, warmup):
    schedule = cosine_schedule(0.004, steps, fraction)
    actual = [float(schedule(step)) for step in range(steps + 1)]
    expected = [_expected_rate(step, 0.004, steps, warmup) for step in range(steps + 1)]
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-8)
    assert actual[warmup] == pytest.approx(0.004)
    assert actual[-1] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_cosine_schedule_of_a_very_short_training_is_finite(steps):
    schedule = cosine_schedule(0.004, steps, 0.99)
    rates = [float(schedule(step)) for step in range(steps + 1)]
    assert np.isfinite(rates).all()
    assert max(rates) == pytest.approx(0.004)


@pytest.mark.parametrize(
    ("steps", "fraction", "warmup"), [(100, 0.1, 10), (200, 0.0, 0), (1, 0.9, 0)]
)
def test_a_linear_decay_is_a_triangle(steps, fraction, warmup):
    schedule = rate_schedule("linear", 0.004, steps, fraction)
    restored = LinearDecay.from_config(schedule.get_config())
    for step in range(steps + 5):
        rise = step / warmup if step < warmup else 1.0
        fall = max(steps - step, 0) / (steps - warmup)
        assert float(schedule(step)) == pytest.approx(0.004 * min(rise, fall), rel=1e-5, abs=1e-9)
        assert float(restored(step)) == float(schedule(step))


@pytest.mark.parametrize("name", ["adam", "adam_sgd"])
@pytest.mark.parametrize("extra", [{}, {"binary_weight_decay": 0.1}])
def test_a_bound_of_the_norm_reaches_every_optimizer_that_minimizes(name, extra):
    settings = _settings(name, clip_norm=0.25, rate_decay="linear", **extra)
    groups = build_parameter_groups(binary_student(), settings, steps=10)
    assert len(groups) == 2 or name == "adam"
    for group in groups:
        assert group.optimizer.get_config()["global_clipnorm"] == 0.25
    # SGD's first step is the rate times the gradient: its norm is the bound.
    if name == "adam_sgd":
        group = groups[0]
        before = [tf.convert_to_tensor(variable) for variable in group.variables]
        large = [tf.fill(variable.shape, 100.0) for variable in group.variables]
        group.optimizer.apply_gradients(zip(large, group.variables, strict=True))
        moved = tf.linalg.global_norm([v - b for v, b in zip(group.variables, before, strict=True)])
        assert float(moved) == pytest.approx(RATE * 0.25, rel=1e-3)


def _settings(optimizer: str, **settings) -> OptimizerSettings:
    return OptimizerSettings(
        optimizer, **{"learning_rate": RATE, "warmup_fraction": 0.0, **settings}
    )


def _supervised_trainer(
    settings: OptimizerSettings, student: tf.keras.Model | None = None, steps: int = 100
) -> SupervisedTrainer:
    student = student or binary_student()
    groups = build_parameter_groups(student, settings, steps=steps)
    return SupervisedTrainer(student, METHODS["cross_entropy"], COUNTS, groups)


def _distillation(settings: OptimizerSettings) -> DistillationTrainer:
    student = binary_student()
    projector, balancer = build_projector(student, FEATURES), Balancer()
    groups = build_parameter_groups(
        student, settings, steps=100, projector=projector, balancer=balancer,
        balance_learning_rate=0.1,
    )  # fmt: skip
    return DistillationTrainer(
        student, CLASSES, groups, projector=projector,
        balancer=balancer, feature_loss=CosineLoss(MEAN),
        total_loss=TOTAL, temperature=2.0,
    )  # fmt: skip


def _batch(seed: int = 0) -> dict[str, tf.Tensor]:
    return {name: tf.constant(value) for name, value in teacher_batch(seed=seed).items()}


def _kernels(trainer) -> list[tf.Variable]:
    return [layer.kernel for layer in binary_layers(trainer.network)]


def _gradients(trainer, batch) -> dict[str, np.ndarray]:
    """Of every weight by name, as the training step will see them; moves statistics alone."""
    variables = trainer.network.trainable_variables
    with tf.GradientTape() as tape:
        total_loss = trainer.compute_losses(batch, training=True)["objective"]
    gradients = tape.gradient(total_loss, variables)
    return {v.name: g.numpy() for v, g in zip(variables, gradients, strict=True)}


def _state(trainer) -> dict[str, np.ndarray]:
    return {variable.name: variable.numpy() for variable in trainer.network.trainable_variables}


def test_bop_flips_a_weight_whose_mean_gradient_agrees_with_it():
    """Three steps against Helwegen et al., algorithm 1, written in NumPy."""
    gamma, threshold = 0.3, 1e-3
    settings = _settings("bop", binary_learning_rate=gamma, bop_threshold=threshold)
    trainer = _supervised_trainer(settings, steps=10**9)
    names = [kernel.name for kernel in _kernels(trainer)]
    mean = dict.fromkeys(names, 0.0)
    flipped = kept = 0
    for step in range(3):
        batch = _batch(step)
        gradients, before = _gradients(trainer, batch), _state(trainer)
        trainer.train_step(batch)
        after = _state(trainer)
        for name in names:
            mean[name] = (1 - gamma) * mean[name] + gamma * gradients[name]
            flips = mean[name] * before[name] > threshold
            # Rounding decides where the product is the threshold itself.
            clear = np.abs(mean[name] * before[name] - threshold) > 1e-6
            expected = np.where(flips, -before[name], before[name])
            np.testing.assert_array_equal(after[name][clear], expected[clear])
            flipped, kept = flipped + flips.sum(), kept + (~flips).sum()
    assert flipped > 50
    assert kept > 50


def test_bops_kernels_are_their_own_quantized_values_and_the_rest_moves_by_adam():
    plain = binary_student()
    trainer = _supervised_trainer(_settings("bop", binary_learning_rate=0.5))
    for layer in binary_layers(plain):
        own = trainer.network.get_layer(layer.name).kernel.numpy()
        np.testing.assert_array_equal(own, np.where(layer.kernel.numpy() >= 0, 1.0, -1.0))
    gradients, before = _gradients(trainer, _batch()), _state(trainer)
    trainer.train_step(_batch())
    for layer in binary_layers(trainer.network):
        kernel = layer.kernel.numpy()
        np.testing.assert_array_equal(np.abs(kernel), np.ones_like(kernel))
        np.testing.assert_array_equal(layer.kernel_quantizer(tf.constant(kernel)), kernel)
    name = "logits/kernel:0"
    _assert_first_adam_step(before[name], _state(trainer)[name], gradients[name], RATE)


def _assert_first_adam_step(before, after, gradient, rate):
    """Adam's first step is the rate along the gradient's sign, where that is no rounding."""
    clear = np.abs(gradient) > 1e-3
    assert clear.any()
    moved = (after - before)[clear]
    np.testing.assert_allclose(moved, -rate * np.sign(gradient[clear]), rtol=1e-2, atol=1e-6)


def test_adam_sgd_is_adam_on_binary_kernels_and_sgd_on_the_rest():
    trainer = _supervised_trainer(
        _settings("adam_sgd", learning_rate=0.1, binary_learning_rate=0.002)
    )
    binary = {kernel.name for kernel in _kernels(trainer)}
    gradients, before = _gradients(trainer, _batch()), _state(trainer)
    trainer.train_step(_batch())
    after = _state(trainer)
    for name, gradient in gradients.items():
        if name in binary:
            _assert_first_adam_step(before[name], after[name], gradient, 0.002)
        else:
            expected = before[name] - 0.1 * gradient
            np.testing.assert_allclose(after[name], expected, rtol=1e-4, atol=1e-6, err_msg=name)
    assert 0 < len(binary) < len(gradients)


def test_adam_sgd_has_momentum():
    trainer = _supervised_trainer(_settings("adam_sgd", learning_rate=0.1), steps=10**9)
    name, velocity = "logits/kernel:0", 0.0
    for step in range(3):
        gradient, before = _gradients(trainer, _batch(step))[name], _state(trainer)[name]
        trainer.train_step(_batch(step))
        velocity = 0.9 * velocity - 0.1 * gradient
        moved = _state(trainer)[name] - before
        np.testing.assert_allclose(moved, velocity, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["adam", "adam_sgd", "bop"])
def test_every_weight_is_moved_by_one_optimizer(name):
    trainer = _distillation(_settings(name))
    moved = [variable.ref() for group in trainer.parameter_groups for variable in group.variables]
    sides = (trainer.network, trainer.projector, trainer.balancer)
    assert len(moved) == len(set(moved))
    assert set(moved) == {v.ref() for side in sides for v in side.trainable_variables}
    assert [group.maximize for group in trainer.parameter_groups].count(True) == 1
    owners = {"adam": 2, "adam_sgd": 3, "bop": 3}
    assert len(trainer.parameter_groups) == owners[name]
    if name != "adam":
        assert {v.ref() for v in trainer.parameter_groups[1].variables} == {
            kernel.ref() for kernel in _kernels(trainer)
        }


def test_adam_alone_has_one_optimizer_of_the_published_kind():
    (group,) = _supervised_trainer(_settings("adam")).parameter_groups
    assert group.optimizer.get_config()["weight_decay"] is None
    assert group.optimizer.get_config()["name"] == "Adam"


FLOAT_KERNELS = {"tiny stem_conv/kernel:0", "tiny logits/kernel:0", "projector kernel:0"}


def _starts(variable: tf.Variable) -> np.ndarray:
    """Neither 0, where nothing decays, nor near the clipping."""
    return 0.3 + 0.2 * np.random.default_rng(1).random(variable.shape)


def _weights_after_a_step(settings: OptimizerSettings) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Of every weight, in order: side and name, values before, values after."""
    trainer = _distillation(settings)
    sides = (trainer.network, trainer.projector, trainer.balancer)
    named = [(f"{s.name} {v.name}", v) for s in sides for v in s.trainable_variables]
    for _, variable in named:
        variable.assign(_starts(variable))
    before = [variable.numpy() for _, variable in named]
    trainer.train_step(_batch())
    return [(key, old, v.numpy()) for (key, v), old in zip(named, before, strict=True)]


def _decays(name: str, **settings) -> dict[str, float]:
    """By weight: how much of itself it loses in one step, beyond what the gradient moves it."""
    plain = _weights_after_a_step(_settings(name, learning_rate=0.1))
    decayed = _weights_after_a_step(_settings(name, learning_rate=0.1, **settings))
    shares = {}
    for (key, before, one), (_, _, other) in zip(plain, decayed, strict=True):
        share = (one - other) / before
        np.testing.assert_allclose(share, share.flat[0], atol=2e-5, err_msg=key)
        shares[key] = float(share.flat[0])
    return shares


@pytest.mark.parametrize("name", ["adam", "adam_sgd"])
def test_weight_decay_is_of_float_kernels_alone_and_decoupled(name):
    shares = _decays(name, weight_decay=0.5)
    assert set(shares) > FLOAT_KERNELS
    for key, share in shares.items():
        # rate 0.1 times decay 0.5
        assert share == pytest.approx(0.05 if key in FLOAT_KERNELS else 0.0, abs=2e-5), key


def test_binary_weight_decay_is_of_latent_weights_alone():
    shares = _decays("adam", binary_weight_decay=0.5)
    binary = {f"tiny {layer.kernel.name}" for layer in binary_layers(binary_student())}
    assert binary < set(shares)
    for key, share in shares.items():
        assert share == pytest.approx(0.05 if key in binary else 0.0, abs=2e-5), key


class _Halved(tf.keras.layers.Layer):
    precision = 1

    def call(self, inputs):
        return 0.5 * inputs


@pytest.mark.parametrize("kind", ["no gradient at 1", "other values"])
def test_bop_refuses_a_quantizer_that_would_stop_or_change_its_weights(kind):
    quantizer = _Halved() if kind == "other values" else lq.quantizers.SteSign(0.5)
    pixels = tf.keras.Input((8, 8, 3))
    x = ApproxSign()(tf.keras.layers.Conv2D(8, 3)(pixels))
    x = lq.layers.QuantConv2D(8, 3, kernel_quantizer=quantizer, name="odd_conv")(x)
    x = tf.keras.layers.Dense(CLASSES)(tf.keras.layers.GlobalAveragePooling2D()(x))
    student = tf.keras.Model(pixels, {"logits": x})
    with pytest.raises(UserError, match="--optimizer=bop cannot train odd_conv"):
        _supervised_trainer(_settings("bop"), student)
    _supervised_trainer(_settings("adam"), student)


def _batches_from(first_epoch: int) -> tf.data.Dataset:
    batches = [teacher_batch(seed=number) for number in range(12)]
    stacked = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
    return tf.data.Dataset.from_tensor_slices(stacked).skip(3 * first_epoch)


def _fit(trainer, folder, interrupt: bool = False) -> None:
    callback = tf.keras.callbacks.LambdaCallback(on_epoch_begin=_stop_at_third)
    fit(
        trainer, _batches_from, steps=3, epochs=4, folder=folder,
        callbacks=[callback] if interrupt else [],
    )  # fmt: skip


def _stop_at_third(epoch, logs):  # noqa: ARG001
    if epoch == 2:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("bop", {"binary_learning_rate": 0.3, "weight_decay": 0.1}),
        ("adam", {"weight_decay": 0.1, "binary_weight_decay": 0.1}),
    ],
)
def test_a_resumed_run_ends_like_an_uninterrupted_one(tmp_path, name, settings):
    settings = _settings(name, warmup_fraction=0.1, **settings)
    whole, interrupted, resumed = (_supervised_trainer(settings, steps=12) for _ in range(3))
    start = _state(whole)
    _fit(whole, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        _fit(interrupted, tmp_path / "run", interrupt=True)
    _fit(resumed, tmp_path / "run")

    def everything(trainer):
        optimizers = [group.optimizer for group in trainer.parameter_groups]
        lists = [o.variables() if callable(o.variables) else o.variables for o in optimizers]
        return trainer.weights + [variable for variables in lists for variable in variables]

    pairs = list(zip(everything(resumed), everything(whole), strict=True))
    for one, other in pairs:
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-5, atol=1e-6)
    kernel = _kernels(whole)[0]
    assert (kernel.numpy() != start[kernel.name]).any()
    assert sum(one.shape == kernel.shape for one, _ in pairs) >= 2


def test_bop_learns():
    settings = _settings("bop", binary_learning_rate=0.1, bop_threshold=1e-5)
    trainer = _supervised_trainer(settings, steps=60)
    first = float(trainer.train_step(_batch())["objective"])
    data = tf.data.Dataset.from_tensors(teacher_batch()).repeat(60)
    last = trainer.fit(data, verbose=0).history["objective"][-1]
    assert last < 0.5 * first
