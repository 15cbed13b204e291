"""The trainer with a momentum encoder and a queue, on a small binary student."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax

from candle_tf.methods.contrastive import (
    DIMENSIONS,
    ContrastiveTrainer,
    KeyQueue,
    build_projector,
)
from candle_tf.methods.long_tail.settings import BaselineSettings
from candle_tf.methods.optimizers import adam
from candle_tf.methods.parameter_groups import ParameterGroup
from candle_tf.methods.registry import METHODS
from candle_tf.students.layers.annealed_sign import BNextKernelSign
from candle_tf.students.layers.blocks import binary_conv, binary_layers
from tests.methods.test_distillation import CLASSES, binary_student, teacher_batch

COUNTS = np.array([50, 20, 9, 4, 1])
SIZE, QUEUE, MOMENTUM = 16, 40, 0.75


def made_batch(seed: int = 0) -> dict[str, tf.Tensor]:
    """Inputs, and other inputs for second views of them."""
    first, second = teacher_batch(SIZE, seed), teacher_batch(SIZE, seed + 1000)
    return {
        "inputs": tf.constant(first["inputs"]),
        "labels": tf.constant(first["labels"]),
        "second_inputs": tf.constant(second["inputs"]),
    }


def made_trainer(rate: float = 0.05, build=binary_student, **settings) -> ContrastiveTrainer:
    """With two networks of other random weights, the second for the momentum encoder."""
    student = build(0)
    projector = build_projector(student, seed=3)
    variables = [*student.trainable_variables, *projector.trainable_variables]
    options = {"paco_queue": QUEUE, "paco_momentum": MOMENTUM, **settings}
    return ContrastiveTrainer(
        student, CLASSES, METHODS["paco"].build(BaselineSettings(**options), COUNTS),
        [ParameterGroup(variables, adam(rate))], projector=projector, momentum_network=build(1),
    )  # fmt: skip


def trained_weights(trainer) -> list[np.ndarray]:
    return [v.numpy() for v in trainer.parameter_groups[0].variables]


def momentum_weights(trainer) -> list[np.ndarray]:
    encoder = trainer.momentum_encoder
    parts = (encoder.network, encoder.projector)
    return [v.numpy() for part in parts for v in part.trainable_variables]


@pytest.mark.parametrize(("length", "sizes"), [(7, [3, 3, 3, 3, 2]), (4, [6, 1]), (3, [3, 3])])
def test_the_queue_keeps_the_latest_keys_and_counts_no_empty_place(length, sizes):
    queue, seen = KeyQueue(length, dimensions=2), []
    assert not queue.is_filled().numpy().any()
    for size in sizes:
        numbers = np.arange(len(seen), len(seen) + size)
        queue.add(
            tf.constant(np.stack([numbers, -numbers], 1), tf.float32),
            tf.constant(numbers % 5, tf.int32),
        )
        seen += list(numbers)
        latest = np.array(seen[-length:])
        filled = queue.is_filled().numpy()
        assert filled.sum() == len(latest)
        expected = np.stack([latest, -latest], 1)
        np.testing.assert_array_equal(queue.keys.numpy()[filled], expected)
        np.testing.assert_array_equal(queue.labels.numpy()[filled], latest % 5)


def test_the_momentum_encoder_begins_as_the_student_and_moves_by_1_minus_m():
    trainer = made_trainer()
    own = momentum_weights(trainer)
    for one, other in zip(own, trained_weights(trainer), strict=True):
        np.testing.assert_array_equal(one, other)
    for step in range(3):
        trainer.train_step(made_batch(step))
        trained = trained_weights(trainer)
        own = [MOMENTUM * a + (1 - MOMENTUM) * b for a, b in zip(own, trained, strict=True)]
        for one, other in zip(momentum_weights(trainer), own, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    moved = [not np.allclose(a, b) for a, b in zip(own, trained, strict=True)]
    assert np.mean(moved) > 0.8
    # Latent weights are averaged, not their signs.
    for layer in binary_layers(trainer.momentum_encoder.network):
        assert len(np.unique(np.abs(layer.kernel.numpy()))) > 10


def test_keys_take_the_statistics_of_their_batch_and_are_of_length_1():
    trainer, batch = made_trainer(), made_batch()
    encoder = trainer.momentum_encoder
    features = trainer.network(batch["second_inputs"], training=True)["features"]
    projected = trainer.projector(features).numpy()
    expected = projected / np.linalg.norm(projected, axis=1, keepdims=True)
    for layer in encoder.network.layers:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.moving_mean.assign(layer.moving_mean + 100.0)
    np.testing.assert_allclose(encoder.keys(batch["second_inputs"]), expected, atol=1e-5)
    assert expected.shape == (SIZE, DIMENSIONS)


def expected_loss(trainer, batch, keys) -> float:
    """Over the batch's other queries, its keys and the keys of the queue that are there."""
    outputs = trainer.network(batch["inputs"], training=True)
    queries = trainer.projector(outputs["features"]).numpy().astype(np.float64)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    logits = outputs["logits"].numpy() + np.log(COUNTS / COUNTS.sum())
    labels = batch["labels"].numpy()
    filled = int(trainer.queue.filled)
    first = QUEUE - filled
    queue, queue_labels = trainer.queue.keys.numpy()[first:], trainer.queue.labels.numpy()[first:]
    losses = []
    for i in range(SIZE):
        rest = [j for j in range(SIZE) if j != i]
        others = np.concatenate([queries[rest], keys, queue])
        other_labels = np.concatenate([labels[rest], labels, queue_labels])
        log_p = log_softmax(np.concatenate([logits[i], others @ queries[i] / 0.2]))
        weights = np.concatenate(
            [np.arange(CLASSES) == labels[i], 0.05 * (other_labels == labels[i])]
        )
        losses.append(-(weights * log_p).sum() / weights.sum())
    return float(np.mean(losses))


def test_a_step_compares_with_queries_keys_and_the_filled_part_of_the_queue():
    trainer = made_trainer()
    filled = []
    for step in range(4):
        batch = made_batch(step)
        filled.append(int(trainer.queue.filled))
        keys = trainer.momentum_encoder.keys(batch["second_inputs"]).numpy()
        expected = expected_loss(trainer, batch, keys)
        assert float(trainer.train_step(batch)["objective"]) == pytest.approx(expected, rel=1e-4)
        np.testing.assert_array_equal(trainer.queue.keys.numpy()[-SIZE:], keys)
        np.testing.assert_array_equal(trainer.queue.labels.numpy()[-SIZE:], batch["labels"])
    assert filled == [0, SIZE, 2 * SIZE, QUEUE]


def test_no_gradient_reaches_the_momentum_encoder_or_the_queue():
    trainer, batch = made_trainer(), made_batch()
    trainer.train_step(batch)
    encoder, queue = trainer.momentum_encoder, trainer.queue
    frozen = [*encoder.network.trainable_variables, *encoder.projector.trainable_variables]
    with tf.GradientTape() as tape:
        keys = encoder.keys(batch["second_inputs"])
        total = trainer.compute_losses({**batch, "keys": keys}, training=True)["objective"]
    trained = trainer.parameter_groups[0].variables
    found = tape.gradient(total, [*trained, *frozen, queue.keys])
    assert all(gradient is not None for gradient in found[: len(trained)])
    assert found[len(trained) :] == [None] * (len(frozen) + 1)


def test_a_student_that_does_not_move_has_a_momentum_encoder_that_does_not():
    trainer = made_trainer(rate=0.0)
    before = momentum_weights(trainer)
    trainer.train_step(made_batch())
    keys = trainer.queue.keys.numpy()[-SIZE:]
    trainer.train_step(made_batch(1))
    for one, other in zip(momentum_weights(trainer), before, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    np.testing.assert_array_equal(trainer.queue.keys.numpy()[-2 * SIZE : -SIZE], keys)


def test_it_learns_and_validates_by_the_students_logits():
    trainer, batch = made_trainer(rate=0.01), made_batch()
    step = tf.function(trainer.train_step)
    losses = [float(step(batch)["objective"]) for _ in range(40)]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[5:10])
    logits = trainer(batch["inputs"], training=False)
    expected = trainer.network(batch["inputs"], training=False)["logits"]
    np.testing.assert_array_equal(logits, expected)


def annealed_student(seed: int) -> tf.keras.Model:
    tf.keras.utils.set_random_seed(seed)
    pixels = tf.keras.Input((8, 8, 3))
    x = binary_conv(pixels, 8, 3, 1, "conv", kernel_quantizer=BNextKernelSign())
    x = tf.keras.layers.BatchNormalization(name="bn")(x)
    features = tf.keras.layers.GlobalAveragePooling2D(name="features")(x)
    logits = tf.keras.layers.Dense(CLASSES, name="logits")(features)
    return tf.keras.Model(pixels, {"features": features, "logits": logits})


def test_annealed_kernels_have_the_students_temperature_from_the_first_step_on():
    trainer = made_trainer(build=annealed_student)
    (own,), (other,) = (
        [layer.kernel_quantizer for layer in binary_layers(network)]
        for network in (trainer.momentum_encoder.network, trainer.network)
    )
    other.anneal(0.25)
    batch = made_batch()
    features = trainer.network(batch["second_inputs"], training=True)["features"]
    expected = tf.math.l2_normalize(trainer.projector(features), axis=-1)
    trainer.train_step(batch)
    assert own is not other
    assert float(own.temperature) == float(other.temperature) == pytest.approx(0.25)
    np.testing.assert_allclose(trainer.queue.keys[-SIZE:], expected, atol=1e-5)
