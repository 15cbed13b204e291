import candle_tf  # noqa: F401  (selects Keras 2 before TensorFlow is imported)

# isort: split
import math

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.data.augment.augmentation import make_augmentation
from candle_tf.data.augment.mix import GRID, draw_mixtures, mix_pixels
from candle_tf.data.augment.settings import AugmentSettings
from candle_tf.data.augment.views import Views
from tools.benchmarks.workload import noise_subset

COUNT = 7
DRAWS = 2000
KEYS = np.random.default_rng(0).integers(0, 2**63 - 1, DRAWS)
VIEWS = np.zeros(DRAWS, np.int64)


def draw(mix, alpha=1.0, seed=0, keys=KEYS, views=VIEWS):
    return draw_mixtures(mix, alpha, seed, keys, views, COUNT)


def as_arrays(mixtures):
    return mixtures.partners, mixtures.ratios, mixtures.boxes


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_a_mixture_is_the_same_in_any_batch(mix):
    order = np.random.default_rng(1).permutation(DRAWS)[:50]
    for whole, part in zip(
        as_arrays(draw(mix)), as_arrays(draw(mix, keys=KEYS[order], views=VIEWS[order])),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(whole[order], part)


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"keys": KEYS + 1}, {"views": VIEWS + 1}], ids=["seed", "key", "view"]
)
def test_another_seed_key_or_view_is_another_mixture(mix, other):
    first, second = draw(mix), draw(mix, **other)
    # One in COUNT agrees by chance: 5 standard deviations.
    agree = (first.partners == second.partners).mean()
    assert abs(agree - 1 / COUNT) < 5 * math.sqrt(1 / COUNT / DRAWS)
    assert abs(np.corrcoef(first.ratios, second.ratios)[0, 1]) < 5 / math.sqrt(DRAWS)


def test_partners_are_all_images_alike():
    counts = np.bincount(draw("mixup").partners, minlength=COUNT)
    assert len(counts) == COUNT
    sigma = math.sqrt(DRAWS / COUNT * (1 - 1 / COUNT))
    assert np.abs(counts - DRAWS / COUNT).max() < 5 * sigma


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_ratios_of_mixup_follow_beta(alpha):
    ratios = draw("mixup", alpha).ratios.astype(np.float64)
    # Mean 1/2, variance 1 / (4 (2 alpha + 1)).
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(ratios.mean() - 0.5) < 5 * math.sqrt(variance / DRAWS)
    assert ratios.var() == pytest.approx(variance, rel=0.15)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_the_share_of_partners_is_the_mean_over_what_is_drawn(mix, alpha):
    ratios = draw(mix, alpha).ratios.astype(np.float64)
    settings = {"mix": mix, "mix_alpha": alpha}
    for views in ("all", "half"):
        augmentation = make_augmentation(AugmentSettings(**settings, mix_views=views), seed=3)
        assert abs(augmentation.partner_share - (1 - ratios).mean()) < 5 * ratios.std() / DRAWS**0.5
        assert augmentation.without_mixing().partner_share == 0
    # A box is clipped at the image's edges.
    assert augmentation.partner_share == 0.5 if mix == "mixup" else augmentation.partner_share < 0.4


@pytest.mark.parametrize("size", [32, 64, 96, 160])
def test_the_ratio_of_cutmix_is_the_part_that_is_left_at_any_size(size):
    mixtures = draw("cutmix", keys=KEYS[:40], views=VIEWS[:40])
    first, second = np.zeros((40, size, size, 3), np.float32), np.ones((40, size, size, 3), "f4")
    mixed = mix_pixels("cutmix", first, second, mixtures.ratios, mixtures.boxes).numpy()
    np.testing.assert_allclose(1 - mixed.mean(axis=(1, 2, 3)), mixtures.ratios, atol=1e-6)
    assert 0 < mixtures.ratios.min() < 0.3
    assert mixtures.ratios.max() > 0.9


def test_cutmix_equals_an_independent_writing():
    mixtures = draw("cutmix", keys=KEYS[:40], views=VIEWS[:40])
    pixels = np.random.default_rng(2).uniform(0, 255, (2, 40, 64, 64, 3)).astype(np.float32)
    expected = pixels[0].copy()
    for i, (top, left, bottom, right) in enumerate(np.rint(64 * mixtures.boxes).astype(int)):
        expected[i, top:bottom, left:right] = pixels[1, i, top:bottom, left:right]
    mixed = mix_pixels("cutmix", pixels[0], pixels[1], mixtures.ratios, mixtures.boxes)
    np.testing.assert_array_equal(mixed, expected)
    np.testing.assert_array_equal(GRID * mixtures.boxes, np.rint(GRID * mixtures.boxes))


def test_mixup_equals_an_independent_writing():
    ratios = np.array([0.0, 0.25, 1.0], np.float32)
    pixels = np.random.default_rng(2).uniform(0, 255, (2, 3, 8, 8, 3)).astype(np.float32)
    mixed = mix_pixels("mixup", pixels[0], pixels[1], ratios, tf.zeros([3, 4]))
    expected = np.einsum("b,bhwc->bhwc", ratios, pixels[0])
    expected += np.einsum("b,bhwc->bhwc", 1 - ratios, pixels[1])
    np.testing.assert_allclose(mixed, expected, rtol=1e-6)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="mosaic"):
        draw("mosaic")
    with pytest.raises(ValueError, match="mosaic"):
        mix_pixels("mosaic", tf.zeros([1, 2, 2, 3]), tf.zeros([1, 2, 2, 3]), [1.0], [[0.0] * 4])


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
@pytest.mark.parametrize("numbers", [[0, 1, 4, 5], [2, 1, 7, 0], [3, 2, 6, 7]])
def test_where_half_of_the_views_are_mixed_the_others_are_as_without_mixing(kind, numbers):
    settings = {"augmentation": "alternating_crop_flip", "mix": kind, "mix_views": "half"}
    augmentation = make_augmentation(AugmentSettings(**settings), seed=3)
    subset = noise_subset(9, 3, side=40)
    batch = augmentation.draw(subset, Views(np.array([5, 0, 8, 5]), np.array(numbers)))
    rendered = augmentation.render(batch, 32).numpy()
    alone = augmentation.without_mixing()
    partners = {
        name.removeprefix("partner_"): values
        for name, values in batch.items()
        if name.startswith("partner_")
    }
    mixed = mix_pixels(
        kind,
        alone.render(batch, 32),
        alone.render(partners, 32),
        batch["ratios"],
        batch["boxes"],
    )
    np.testing.assert_array_equal(rendered, mixed.numpy())
    unmixed = np.array(numbers) % 4 < 2
    np.testing.assert_array_equal(rendered[unmixed], alone.render(batch, 32).numpy()[unmixed])
    if kind == "mixup" and not unmixed.all():
        assert (rendered != alone.render(batch, 32).numpy())[~unmixed].any(axis=(1, 2, 3)).all()
