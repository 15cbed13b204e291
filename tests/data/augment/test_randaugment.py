import candle_tf  # noqa: F401  (selects Keras 2 before TensorFlow is imported)

# isort: split
import math

import numpy as np
import pytest
from PIL import Image

from candle_tf.data.augment.randaugment import OPERATIONS, draw_operations, randaugment

SIDE = 32
NAMES = tuple(OPERATIONS)
KEYS = np.random.default_rng(0).integers(0, 2**63 - 1, 1500)


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(40, 200, (SIDE, SIDE, 3), np.uint8)


def augment(image: np.ndarray, name: str, sign: int = 1, magnitude: float = 5.0) -> np.ndarray:
    operations, signs = np.array([[NAMES.index(name)]]), np.array([[sign]], np.float32)
    pixels = image[np.newaxis].astype(np.float32)
    return randaugment(pixels, operations, signs, magnitude).numpy()[0]


def test_there_are_the_papers_fourteen():
    assert len(OPERATIONS) == 14


def test_operations_and_directions_have_the_same_chance_and_are_independent():
    drawn = [draw_operations(2, 0, int(key), 0) for key in KEYS]
    operations, signs = (np.stack(part) for part in zip(*drawn, strict=True))
    for layer in range(2):
        counts = np.bincount(operations[:, layer], minlength=14)
        sigma = math.sqrt(len(KEYS) / 14 * 13 / 14)
        assert np.abs(counts - len(KEYS) / 14).max() < 5 * sigma
    assert set(signs.ravel()) == {-1, 1}
    assert np.abs(signs.mean(axis=0)).max() < 5 / math.sqrt(len(KEYS))
    assert abs(np.corrcoef(operations.T)[0, 1]) < 5 / math.sqrt(len(KEYS))


@pytest.mark.parametrize("other", [(1, 5, 0), (0, 6, 0), (0, 5, 1)], ids=["seed", "key", "view"])
def test_another_seed_key_or_view_has_other_operations(other):
    first, again = (draw_operations(14, 0, 5, 0)[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.tolist() != draw_operations(14, *other)[0].tolist()


def reference(name: str, x: np.ndarray, sign: int) -> np.ndarray:
    """Half the greatest strength, written in NumPy."""
    x = x.astype(np.int64)
    if name == "solarize":
        return np.where(x >= 128, 255 - x, x)
    if name == "posterize":  # 6 bits are left
        return x // 4 * 4
    if name == "auto_contrast":
        low, high = x.min(axis=(0, 1)), x.max(axis=(0, 1))
        return np.floor((x - low) * (255.0 / (high - low)) + 1e-9).clip(0, 255)
    if name == "translate_x":
        move, moved = round(0.225 * SIDE * sign), np.zeros_like(x)
        source = np.arange(SIDE) + move
        inside = (source >= 0) & (source < SIDE)
        moved[:, inside] = x[:, source[inside]]
        return moved
    if name == "brightness":
        return np.clip(x * (1 + 0.45 * sign), 0, 255)
    grey = np.rint(x @ [0.299, 0.587, 0.114])[..., None]
    if name == "color":
        return np.clip(grey + (x - grey) * (1 + 0.45 * sign), 0, 255)
    if name == "contrast":
        return np.clip(grey.mean() + (x - grey.mean()) * (1 + 0.45 * sign), 0, 255)
    assert name == "identity"
    return x


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("identity", 0), ("solarize", 0), ("posterize", 0), ("auto_contrast", 1), ("brightness", 1),
     ("color", 2), ("contrast", 2)],
)  # fmt: skip
def test_colours_are_those_of_an_independent_writing(name, tolerance, sign):
    found = augment(noise(), name, sign)
    np.testing.assert_allclose(found, reference(name, noise(), sign), atol=tolerance)


def test_equalizing_is_that_of_an_independent_writing():
    """A value's place in the sorted image, in steps that leave the brightest value out."""
    dark = (noise() // 8 + 10).astype(np.uint8)
    found = augment(dark, "equalize")
    for channel in range(3):
        values = dark[..., channel]
        step = (values.size - (values == values.max()).sum()) // 255
        below = (values.ravel()[:, None] < np.arange(256)).sum(axis=0)
        np.testing.assert_array_equal(
            found[..., channel], np.minimum((step // 2 + below) // step, 255)[values]
        )


@pytest.mark.parametrize("name", ["translate_x", "translate_y", "shear_x", "shear_y", "rotate"])
def test_opposite_directions_differ_and_bring_black_in(name):
    white = np.full((SIDE, SIDE, 3), 255, np.uint8)
    one, other = (augment(white, name, sign, 9.0) for sign in (-1, 1))
    assert np.abs(one - other).max() == 255
    for found in (one, other):
        assert found.min() == 0
        assert (found == 255).mean() > 0.4


def test_a_translation_moves_by_a_part_of_the_side():
    image = noise()
    # 0.45 * 32 * 10 / 10 = 14.4 pixels: between the image moved by 14 and by 15.
    found = augment(image, "translate_x", 1, 10.0)[:, : SIDE - 15]
    blend = 0.6 * image[:, 14 : SIDE - 1] + 0.4 * image[:, 15:]
    np.testing.assert_allclose(found, blend, atol=1.1)


def test_a_rotation_turns_about_the_centre():
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    image[14:18, 14:18] = 200  # stays
    image[14:18, 26:30] = 100  # right of it; counter-clockwise by 30 degrees: goes up
    found = augment(image, "rotate", 1, 10.0)
    assert found[15:17, 15:17].min() > 150
    angle = math.radians(30)
    row, column = 15.5 - 12 * math.sin(angle), 15.5 + 12 * math.cos(angle)
    assert found[round(row), round(column)].min() > 80
    assert found[16, 28].max() == 0


def test_layers_follow_each_other_and_images_do_not_mind_each_other():
    images = np.stack([noise(seed) for seed in range(3)])
    names = [["solarize", "color"], ["posterize", "solarize"], ["identity", "shear_x"]]
    operations = np.array([[NAMES.index(name) for name in row] for row in names])
    signs = np.array([[1, -1], [1, 1], [-1, 1]], np.float32)
    together = randaugment(images.astype(np.float32), operations, signs, 4.0).numpy()
    assert together.dtype == np.float32
    for i in range(3):
        image = Image.fromarray(images[i])
        for name, sign in zip(names[i], signs[i], strict=True):
            image = OPERATIONS[name](image, sign * 0.4)
        np.testing.assert_array_equal(together[i], np.asarray(image))
