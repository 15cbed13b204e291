import numpy as np
import pytest
import tensorflow as tf

from candle_tf.methods.balance import Balancer, FixedBalance, TotalLoss
from candle_tf.methods.distillation import DistillationTrainer
from candle_tf.methods.feature_losses import CosineLoss, FeatureLoss
from candle_tf.methods.label_loss import LabelLoss
from candle_tf.methods.parameter_groups import ParameterGroup
from candle_tf.students.architectures.reactnet import _block
from candle_tf.students.compute_policy import PLAIN, set_compute_policy
from candle_tf.students.layers.blocks import batch_norm

CLASSES = 5
FEATURES = 12
MEAN = np.full(FEATURES, 2.0)
TOTAL = TotalLoss(kl_reference=6.0, fs_reference=0.9, entropy_weight=0.2)


def binary_student(seed: int = 0) -> tf.keras.Model:
    """Stem and one binary block, with batch norm, on 8 x 8 images."""
    tf.keras.utils.set_random_seed(seed)
    pixels = tf.keras.Input((8, 8, 3), name="pixels")
    x = tf.keras.layers.Rescaling(1 / 127.5, offset=-1.0)(pixels)
    x = tf.keras.layers.Conv2D(8, 3, 2, padding="same", use_bias=False, name="stem_conv")(x)
    x = _block(batch_norm(x, "stem_bn"), 16, 2, "block01")
    features = tf.keras.layers.GlobalAveragePooling2D(name="features")(x)
    logits = tf.keras.layers.Dense(CLASSES, name="logits")(features)
    return tf.keras.Model(pixels, {"features": features, "logits": logits}, name="tiny")


def float_student(seed: int = 0) -> tf.keras.Model:
    """Smooth everywhere, so that a small step does what the gradient says."""
    tf.keras.utils.set_random_seed(seed)
    pixels = tf.keras.Input((8, 8, 3), name="pixels")
    x = tf.keras.layers.Rescaling(1 / 127.5, offset=-1.0)(pixels)
    x = tf.keras.layers.Conv2D(8, 3, 2, padding="same", use_bias=False, name="stem_conv")(x)
    x = tf.keras.layers.Activation("tanh")(batch_norm(x, "stem_bn"))
    features = tf.keras.layers.GlobalAveragePooling2D(name="features")(x)
    logits = tf.keras.layers.Dense(CLASSES, name="logits")(features)
    return tf.keras.Model(pixels, {"features": features, "logits": logits}, name="smooth")


def teacher_batch(examples: int = 16, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, examples).astype(np.int32)
    logits = rng.normal(0, 2, (examples, CLASSES))
    logits[np.arange(examples), labels] += 4
    pixels = rng.uniform(0, 255, (examples, 8, 8, 3)) * rng.uniform(0.2, 1, (examples, 1, 1, 1))
    return {
        "inputs": pixels.astype(np.float32),
        "labels": labels,
        "teacher_features": rng.gamma(2.0, 1.0, (examples, FEATURES)).astype(np.float32),
        "teacher_logits": logits.astype(np.float32),
    }


def distillation_trainer(
    student: tf.keras.Model,
    optimizer,
    balance_optimizer,
    *,
    feature_loss: FeatureLoss | None = None,
    total_loss: TotalLoss = TOTAL,
    fixed_lambda: float | None = None,
    maximize: tuple[bool, ...] = (False, True),
    label_loss: LabelLoss | None = None,
    xla: bool = False,
) -> DistillationTrainer:
    """A trainer with one optimizer for student and projector, and one for the balancer.

    Args:
        student: with the outputs "features" and "logits".
        optimizer: minimizes.
        balance_optimizer: maximizes; not used where lambda is fixed.
        feature_loss: None for the cosine that `MEAN` centres.
        total_loss: of the losses and lambda.
        fixed_lambda: in place of a balancer.
        maximize: which of the groups are given to the trainer.
        label_loss: a third loss.
        xla: whether XLA compiles the step.
    """
    feature_loss = feature_loss or CosineLoss(MEAN)
    projector = feature_loss.build_projector(student)
    variables = student.trainable_variables + projector.trainable_variables
    groups = [ParameterGroup(variables, optimizer)]
    balancer = Balancer() if fixed_lambda is None else FixedBalance(fixed_lambda)
    if isinstance(balancer, Balancer):
        variables = balancer.trainable_variables
        groups.append(ParameterGroup(variables, balance_optimizer, maximize=True))
    return DistillationTrainer(
        student,
        student.output["logits"].shape[-1],
        [group for group in groups if group.maximize in maximize],
        projector=projector,
        balancer=balancer,
        feature_loss=feature_loss,
        total_loss=total_loss,
        temperature=2.0,
        label_loss=label_loss,
        xla=xla,
    )


def _trainer(
    rate: float = 0.02,
    balance_rate: float = 0.02,
    student: tf.keras.Model | None = None,
    **settings,
) -> DistillationTrainer:
    optimizers = tf.keras.optimizers.SGD(rate), tf.keras.optimizers.SGD(balance_rate)
    return distillation_trainer(student or binary_student(), *optimizers, **settings)


def _tensors(batch: dict[str, np.ndarray]) -> dict[str, tf.Tensor]:
    return {name: tf.constant(value) for name, value in batch.items()}


def _values(trainer, batch) -> dict[str, float]:
    """The losses as the training step computes them, without moving anything but statistics."""
    return {
        name: float(value) for name, value in trainer.compute_losses(batch, training=True).items()
    }


def _has_changed(before: list[np.ndarray], layer: tf.keras.layers.Layer) -> bool:
    after = [variable.numpy() for variable in layer.trainable_variables]
    return any((old != new).any() for old, new in zip(before, after, strict=True))


def _weights(layer: tf.keras.layers.Layer) -> list[np.ndarray]:
    return [variable.numpy() for variable in layer.trainable_variables]


def _with_constant_noise(trainer: DistillationTrainer) -> DistillationTrainer:
    """Makes lambda depend on the balancer's weights only, and not on the step."""
    call = trainer.balancer.call
    trainer.balancer.call = lambda step: call(tf.zeros_like(step))
    return trainer


def _squared_gradient(trainer, batch, variables) -> float:
    with tf.GradientTape() as tape:
        total_loss = trainer.compute_losses(batch, training=True)["objective"]
    return sum(float(tf.reduce_sum(g**2)) for g in tape.gradient(total_loss, variables))


def test_one_step_of_the_balancer_raises_the_total_loss_with_the_student_held_still():
    batch = _tensors(teacher_batch())
    trainer = _with_constant_noise(_trainer(balance_rate=0.01, maximize=(True,)))
    student, projector = _weights(trainer.network), _weights(trainer.projector)
    expected_rise = 0.01 * _squared_gradient(trainer, batch, trainer.balancer.trainable_variables)
    before = _values(trainer, batch)
    returned = trainer.train_step(batch)
    after = _values(trainer, batch)
    assert float(returned["objective"]) == pytest.approx(before["objective"], rel=1e-6)
    assert after["objective"] > before["objective"]
    rise = after["objective"] - before["objective"]
    assert rise == pytest.approx(expected_rise, rel=0.1, abs=3e-7)
    assert (after["kl"], after["fs"]) == pytest.approx((before["kl"], before["fs"]), rel=1e-6)
    assert not _has_changed(student, trainer.network)
    assert not _has_changed(projector, trainer.projector)


def test_one_step_of_the_student_lowers_the_total_loss_with_the_balancer_held_still():
    batch = _tensors(teacher_batch())
    trainer = _with_constant_noise(_trainer(rate=0.001, student=float_student(), maximize=(False,)))
    balancer = _weights(trainer.balancer)
    (group,) = trainer.parameter_groups
    expected_fall = 0.001 * _squared_gradient(trainer, batch, group.variables)
    before = _values(trainer, batch)
    trainer.train_step(batch)
    after = _values(trainer, batch)
    assert after["objective"] < before["objective"]
    fall = before["objective"] - after["objective"]
    assert fall == pytest.approx(expected_fall, rel=0.1, abs=3e-7)
    assert after["lambda"] == before["lambda"]
    assert not _has_changed(balancer, trainer.balancer)


def test_a_step_moves_each_side_along_its_own_sign_of_one_gradient():
    """SGD makes the update visible: -rate * gradient for learners, +rate * gradient above."""
    batch = _tensors(teacher_batch())
    trainer = _trainer(rate=0.01, balance_rate=0.03)
    learners = trainer.network.trainable_variables + trainer.projector.trainable_variables
    adversary = trainer.balancer.trainable_variables
    with tf.GradientTape() as tape:
        total_loss = trainer.compute_losses(batch, training=True)["objective"]
    gradients = tape.gradient(total_loss, learners + adversary)
    before = [variable.numpy() for variable in learners + adversary]
    trainer.train_step(batch)
    rates = [-0.01] * len(learners) + [0.03] * len(adversary)
    for variable, old, gradient, rate in zip(
        learners + adversary, before, gradients, rates, strict=True
    ):
        expected = old + rate * gradient.numpy()
        if "spatial_conv" in variable.name or "point_left_conv" in variable.name:
            expected = np.clip(expected, -1, 1)
        np.testing.assert_allclose(variable.numpy(), expected, atol=1e-5, err_msg=variable.name)
    assert max(np.abs(g.numpy()).max() for g in gradients[len(learners) :]) > 1e-3


def test_a_training_step_moves_student_projector_and_balancer():
    trainer = _trainer()
    sides = (trainer.network, trainer.projector, trainer.balancer)
    before = [_weights(side) for side in sides]
    trainer.fit(tf.data.Dataset.from_tensors(teacher_batch()), verbose=0)
    for old, side in zip(before, sides, strict=True):
        assert _has_changed(old, side), side.name


def test_logged_losses_are_the_formula():
    batch = _tensors(teacher_batch())
    trainer = _trainer()
    for step in range(3):
        logs = {name: float(value) for name, value in trainer.train_step(batch).items()}
        assert set(logs) == {"objective", "kl", "fs", "lambda"}
        lam = logs["lambda"]
        entropy = -lam * np.log(lam) - (1 - lam) * np.log(1 - lam)
        expected = lam * logs["kl"] / 6.0 + (1 - lam) * logs["fs"] / 0.9 + 0.2 * entropy
        assert logs["objective"] == pytest.approx(expected, rel=1e-5), step


def test_kl_and_fs_are_the_papers_losses():
    batch = teacher_batch()
    trainer = _trainer()
    logs = trainer.train_step(_tensors(batch))
    other = _trainer()
    outputs = other.network(batch["inputs"], training=True)

    def probabilities(logits):
        powers = np.exp(np.asarray(logits, np.float64) / 2)
        return powers / powers.sum(axis=1, keepdims=True)

    p, q = probabilities(batch["teacher_logits"]), probabilities(outputs["logits"])
    assert float(logs["kl"]) == pytest.approx(4 * (p * np.log(p / q)).sum(1).mean(), rel=1e-4)

    kernel, bias = other.projector.get_weights()
    ours = outputs["features"].numpy() @ kernel + bias
    theirs = batch["teacher_features"] - 2.0
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    expected = (1 - (ours * theirs).sum(axis=1) / lengths).mean()
    assert float(logs["fs"]) == pytest.approx(expected, rel=1e-4)


def test_lambda_follows_the_steps_noise():
    batch = _tensors(teacher_batch())
    trainer = _trainer(balance_rate=0.0)
    lambdas = [float(trainer.train_step(batch)["lambda"]) for _ in range(4)]
    assert len(set(lambdas)) == 4
    assert all(0 < value < 1 for value in lambdas)


@pytest.mark.parametrize("fixed", [0.0, 0.3, 1.0])
def test_a_fixed_lambda_has_no_adversary(fixed):
    batch = _tensors(teacher_batch())
    trainer = _trainer(total_loss=TotalLoss(6.0, 0.9), fixed_lambda=fixed)
    (group,) = trainer.parameter_groups
    assert not group.maximize
    learners = trainer.network.trainable_variables + trainer.projector.trainable_variables
    assert {v.ref() for v in group.variables} == {v.ref() for v in learners}
    for _ in range(2):
        logs = {name: float(value) for name, value in trainer.train_step(batch).items()}
        assert logs["lambda"] == pytest.approx(fixed)
        expected = fixed * logs["kl"] / 6.0 + (1 - fixed) * logs["fs"] / 0.9
        assert logs["objective"] == pytest.approx(expected, rel=1e-5)
    # There is no balancer that could change.
    assert len(trainer.trainable_variables) == len(learners)


def test_nothing_but_student_projector_and_balancer_can_move():
    """The teacher's outputs, even given as variables, are in no parameter group and stay."""
    numbers = teacher_batch()
    outputs = {name: tf.Variable(numbers[name]) for name in ("teacher_features", "teacher_logits")}
    batch = {**_tensors(numbers), **outputs}
    trainer = _trainer()
    groups = trainer.parameter_groups
    moved = [variable.ref() for group in groups for variable in group.variables]
    sides = (trainer.network, trainer.projector, trainer.balancer)
    expected = [variable.ref() for side in sides for variable in side.trainable_variables]
    assert len(moved) == len(set(moved))
    assert set(moved) == set(expected)
    trainer.train_step(batch)
    for name, variable in outputs.items():
        np.testing.assert_array_equal(variable.numpy(), numbers[name])
        assert variable.ref() not in moved
        assert variable.ref() not in {weight.ref() for weight in trainer.variables}


def test_distillation_learns_from_the_teacher_alone():
    """Without ever using the labels, both losses fall and the student agrees with the teacher."""
    batch = teacher_batch()
    trainer = distillation_trainer(
        binary_student(),
        tf.keras.optimizers.Adam(0.01, jit_compile=False),
        tf.keras.optimizers.Adam(0.001, jit_compile=False),
        feature_loss=CosineLoss(batch["teacher_features"].mean(axis=0)),
    )
    labels_are_noise = {**batch, "labels": np.zeros_like(batch["labels"])}
    data = tf.data.Dataset.from_tensors(labels_are_noise).repeat(60)
    first = trainer.train_step(_tensors(labels_are_noise))
    last = trainer.fit(data, verbose=0).history
    assert last["kl"][-1] < 0.5 * float(first["kl"])
    assert last["fs"][-1] < 0.8 * float(first["fs"])
    outputs = trainer.network(batch["inputs"], training=True)["logits"].numpy()
    agreement = (outputs.argmax(axis=1) == batch["teacher_logits"].argmax(axis=1)).mean()
    assert agreement > 0.6


# Where a float rounds otherwise a sign may flip, which the smooth student has none of. Lambda is
# fixed, as XLA draws other noise for the balancer from the same seed.
@pytest.mark.parametrize(("student", "tolerance"), [(float_student, 1e-4), (binary_student, 1e-2)])
def test_a_step_that_xla_compiles_is_the_same_step(student, tolerance):
    batch = tf.data.Dataset.from_tensors(teacher_batch())
    trained = []
    for xla in (False, True):
        network = student()
        set_compute_policy(network, PLAIN)
        trainer = _trainer(student=network, fixed_lambda=0.4, xla=xla)
        losses = trainer.fit(batch, verbose=0).history
        trained.append((losses, _flat(network)))
    (plain_losses, plain), (xla_losses, compiled) = trained
    assert plain_losses.keys() == xla_losses.keys()
    for name, values in plain_losses.items():
        np.testing.assert_allclose(xla_losses[name], values, rtol=tolerance)
    assert np.linalg.norm(compiled - plain) < tolerance * np.linalg.norm(plain - _flat(student()))


def _flat(network: tf.keras.Model) -> np.ndarray:
    return np.concatenate([v.numpy().ravel() for v in network.weights])
