"""The fingerprint of rendered views; `python -m tests.data.augment.fingerprint` stores it."""

from pathlib import Path

import candle_tf  # noqa: F401  (selects Keras 2 before TensorFlow is imported)

# isort: split
import numpy as np

from candle_tf.data.augment import augmentation as augmentation_module
from candle_tf.data.augment.augmentation import make_augmentation
from candle_tf.data.augment.evaluation import render_evaluation
from candle_tf.data.augment.settings import AugmentSettings
from candle_tf.data.augment.views import Views
from candle_tf.data.images.store import ImageStore, image_key
from candle_tf.data.subset import Subset
from tests.fingerprints import Fingerprint, block_means, store

PATH = Path(__file__).with_suffix(".json")
CONSTANT = "AUGMENTATION_VERSION in candle_tf/data/augment/augmentation.py"
SIDE = 32  # rendered at the same side, so that whole images stay whole numbers
COUNT = 24

# One operation at a time, so that the message names the one that changed. All of RandAugment's are
# drawn by so many images.
SETTINGS = {
    "pad_crop": AugmentSettings("pad_crop"),
    "pad_crop_flip": AugmentSettings("pad_crop_flip"),
    "random_resized_crop_flip": AugmentSettings("random_resized_crop_flip"),
    "alternating_crop_flip": AugmentSettings("alternating_crop_flip"),
    "color_jitter": AugmentSettings("none", color_jitter=0.4),
    "randaugment": AugmentSettings("none", randaugment_magnitude=7.0, randaugment_layers=2),
    "mixup": AugmentSettings("none", mix="mixup", mix_alpha=0.5),
    "cutmix": AugmentSettings("none", mix="cutmix"),
    "mixup of half of the views": AugmentSettings("none", mix="mixup", mix_views="half"),
    "all together": AugmentSettings("pad_crop_flip", color_jitter=0.2, mix="cutmix"),
}


def images(original_aspect: bool) -> Subset:
    """Images of waves, none like another or like its mirror image."""
    rng = np.random.default_rng(0)
    y, x = np.meshgrid(*[np.arange(SIDE) / SIDE] * 2, indexing="ij")
    a, b, c = rng.uniform(1, 9, (3, COUNT, 1, 1, 3))
    waves = np.sin(a * x[..., None] + b * y[..., None] + c)
    array = (127.5 + 120 * waves + rng.uniform(-7, 7, waves.shape)).astype(np.uint8)
    ids = [f"train/a/{row}.png" for row in range(COUNT)]
    keys = np.array([image_key(image_id) for image_id in ids], np.int64)
    rows = {image_id: row for row, image_id in enumerate(ids)}
    aspects = np.linspace(0.5, 2, COUNT).astype(np.float32) if original_aspect else None
    store = ImageStore(array, keys, rows, "digest", original_aspect, aspects)
    return Subset(store, np.arange(COUNT), np.zeros(COUNT, np.int32))


def fingerprint() -> Fingerprint:
    """Of views of every operation, of both kinds of --resize, and of evaluation."""
    found = {}
    stretched, original = images(False), images(True)
    for name, settings in SETTINGS.items():
        augmentation = make_augmentation(settings, seed=3)
        for kind, subset in (("", stretched), (", original aspect", original)):
            if kind and "crop" not in name:
                continue
            count = COUNT if name == "randaugment" else 4
            views = Views(np.arange(count), np.arange(count) % 3)
            pixels = augmentation.render(augmentation.draw(subset, views), SIDE)
            found[name + kind] = block_means(pixels.numpy())
    for kind, subset in (("stretch", stretched), ("crop", original)):
        pixels = render_evaluation(subset.batch(np.arange(4)), 24)
        found[f"evaluation, {kind}"] = block_means(pixels.numpy())
    return found


def version() -> str:
    """The present version."""
    return str(augmentation_module.AUGMENTATION_VERSION)


if __name__ == "__main__":
    store(PATH, version(), CONSTANT, fingerprint())
