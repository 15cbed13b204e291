"""Every student: converted, compared with Keras at up to three sizes; trained on real images."""

import functools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from candle_tf.deploy.checks.agreement import check_agreement
from candle_tf.deploy.checks.operators import check_binary
from candle_tf.deploy.tflite.converter import convert, run
from candle_tf.methods.optimizers import adam
from candle_tf.students.architectures.registry import STUDENTS, build_student
from candle_tf.students.layers.blocks import binary_layers
from tools.student_table import random_images, randomize, reestimate_batch_norms

CLASSES = 10
# Random images compared, by their pixels.
IMAGES = {32: 24, 64: 16, 224: 4}
# Of the larger ones; those of 32 pixels have 1.
STEM_STRIDE = 2
# Wider and deeper ones of a family, compared at 32 pixels: what is particular to other sizes and
# to their stem is the same in its first.
LARGER = ("bnext_s", "bnext_m", "bnext_l", "quicknet", "quicknet_large")
CASES = [(name, size) for name in STUDENTS for size in (64, 224) if name not in LARGER]
# Those of BNext are more of the same blocks: ten steps of each train what ten of its first do.
TRAINED = [name for name in STUDENTS if not (name in LARGER and name.startswith("bnext"))]
# Channel counts at their floor or near it; BNext-S at 0.125 would be BNext-T.
WIDTHS = {"bnext_s": 0.25}
WIDTH = 0.125
# Adam's, of ten steps. Real-to-Binary's first losses are tens, and it overshoots by larger ones.
# QuickNet-Large learns little in ten steps of the usual one: near the bound, to either side of it
# by the number of threads.
RATES = {"real_to_binary": 1e-3, "quicknet_large": 8e-3}
RATE = 5e-3


def small(name: str, size: int, stem_stride: int) -> tf.keras.Model:
    width = WIDTHS.get(name, WIDTH)
    return build_student(name, (size, size, 3), CLASSES, width=width, stem_stride=stem_stride)


@pytest.fixture(scope="module", params=STUDENTS)
def smallest(request) -> tuple[str, tf.keras.Model, list[np.ndarray]]:
    """A name, its student of 32 pixels, built once for its tests, and the first weights."""
    tf.keras.utils.set_random_seed(0)
    student = small(request.param, 32, stem_stride=1)
    return request.param, student, student.get_weights()


def test_converts_and_agrees_at_32_pixels(smallest):
    name, student, _ = smallest
    check_conversion(name, student, 32)


@pytest.mark.parametrize(("name", "size"), CASES)
def test_converts_and_agrees(name, size):
    tf.keras.utils.set_random_seed(0)
    check_conversion(name, small(name, size, STEM_STRIDE), size)


def check_conversion(name: str, student: tf.keras.Model, size: int) -> None:
    """With random statistics, shifts and slopes, on random images, by the export's own gate."""
    randomize(student)
    pixels = random_images(IMAGES[size], size)
    reestimate_batch_norms(student, pixels, least_variance=0.05)
    flatbuffer = convert(student)
    counts = check_binary(flatbuffer, student)
    assert counts.get("LceBconv2d", 0) == len(binary_layers(student))
    expected = student(pixels, training=False)["logits"].numpy()
    # Images that are told apart, none of which dwarfs the others.
    largest = np.abs(expected).max(axis=1)
    assert np.ptp(expected, axis=0).max() > 0.01 * largest.max()
    assert largest.max() < 10 * np.median(largest)
    check_agreement(expected, run(flatbuffer, pixels.astype(np.uint8)), f"{name} at {size} pixels")


@functools.cache
def digits() -> tuple[tf.Tensor, tf.Tensor]:
    """Scans of handwritten digits: float [64, 32, 32, 3] in 0..255, and their classes."""
    data = load_digits()
    images = np.repeat(data.images[:64, ..., None] * (255 / 16), 3, axis=-1)
    return tf.image.resize(images, (32, 32)), tf.constant(data.target[:64])


def anneal(student: tf.keras.Model, factor: float) -> None:
    for layer in binary_layers(student):
        step: Any = getattr(layer.kernel_quantizer, "anneal", None)
        if step is not None:
            step(factor)


@pytest.mark.parametrize("smallest", TRAINED, indirect=True)
def test_training_on_real_images_lowers_the_loss(smallest):
    name, student, weights = smallest
    student.set_weights(weights)
    pixels, labels = digits()
    optimizer = adam(RATES.get(name, RATE))
    losses = []
    # Eager: so few steps are over before a graph of them would be traced.
    for _ in range(10):
        with tf.GradientTape() as tape:
            logits = student(pixels, training=True)["logits"]
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
            )
        gradients = tape.gradient(loss, student.trainable_variables)
        assert all(gradient is not None for gradient in gradients)
        optimizer.apply_gradients(zip(gradients, student.trainable_variables, strict=True))
        anneal(student, 0.9)
        losses.append(float(loss))
    assert np.isfinite(losses).all()
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
