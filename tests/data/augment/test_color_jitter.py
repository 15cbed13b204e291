import candle_tf  # noqa: F401  (selects Keras 2 before TensorFlow is imported)

# isort: split
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from candle_tf.data.augment.color_jitter import draw_factors, jitter

KEYS = np.random.default_rng(0).integers(0, 2**63 - 1, 1000)


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (24, 24, 3), np.uint8)


def jitter_image(image: np.ndarray, factors: list[float]) -> np.ndarray:
    pixels = image[np.newaxis].astype(np.float32)
    return jitter(pixels, np.array([factors], np.float32)).numpy()[0]


def test_factors_are_uniform_about_one_and_apart_from_each_other():
    factors = np.array([draw_factors(0.4, 0, int(key), 0) for key in KEYS])
    assert factors.min() >= 0.6
    assert factors.max() <= 1.4
    assert factors.dtype == np.float32
    # Standard deviation of uniform(.6, 1.4) is .8 / sqrt(12); 5 standard errors.
    assert np.abs(factors.mean(axis=0) - 1).max() < 5 * 0.8 / np.sqrt(12 * len(KEYS))
    assert np.abs(np.corrcoef(factors.T) - np.eye(3)).max() < 5 / np.sqrt(len(KEYS))


def test_factors_of_no_and_of_great_strength():
    np.testing.assert_array_equal(draw_factors(0.0, 0, 5, 0), [1, 1, 1])
    assert min(draw_factors(3.0, 0, int(key), 0).min() for key in KEYS[:50]) >= 0


@pytest.mark.parametrize(
    "other", [(1, 5, 0), (0, 6, 0), (0, 5, 1)], ids=["seed", "key", "view"]
)  # fmt: skip
def test_another_seed_key_or_view_has_other_factors(other):
    assert np.abs(draw_factors(0.4, 0, 5, 0) - draw_factors(0.4, *other)).min() > 1e-4
    np.testing.assert_array_equal(draw_factors(0.4, *other), draw_factors(0.4, *other))


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4])
@pytest.mark.parametrize(
    ("place", "enhance"),
    [(0, ImageEnhance.Brightness), (1, ImageEnhance.Contrast), (2, ImageEnhance.Color)],
)
def test_each_change_is_pillows(place, enhance, factor):
    factors = [1.0, 1.0, 1.0]
    factors[place] = factor
    expected = enhance(Image.fromarray(image())).enhance(factor)
    # Pillow works on whole numbers: grey is rounded, results are cut off.
    np.testing.assert_allclose(jitter_image(image(), factors), np.asarray(expected), atol=1.7)


def test_they_are_made_in_the_stated_order_and_clipped():
    factors = [1.4, 0.7, 1.3]
    x = np.clip(image().astype(np.float64) * 1.4, 0, 255)
    weights = np.array([0.299, 0.587, 0.114])
    x = np.clip((x @ weights).mean() * 0.3 + 0.7 * x, 0, 255)
    x = np.clip(1.3 * x - 0.3 * (x @ weights)[..., None], 0, 255)
    np.testing.assert_allclose(jitter_image(image(), factors), x, atol=1e-3)


def test_an_image_does_not_depend_on_its_batch():
    images = np.stack([image(seed) for seed in range(3)]).astype(np.float32)
    factors = np.array([[0.6, 1.4, 1.1], [1.2, 0.7, 0.9], [1, 1, 1]], np.float32)
    together = jitter(images, factors).numpy()
    for i in range(3):
        alone = jitter(images[i : i + 1], factors[i : i + 1]).numpy()[0]
        np.testing.assert_allclose(together[i], alone, atol=1e-3)
    np.testing.assert_allclose(together[2], images[2], atol=1e-3)
