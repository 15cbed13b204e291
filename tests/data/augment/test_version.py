"""A change of rendered pixels needs a new version, or old caches would be used."""

import json

import candle_tf  # noqa: F401  (selects Keras 2 before TensorFlow is imported)

# isort: split
import numpy as np
import pytest

from candle_tf.data.augment import augmentation, color_jitter, crops, mix, randaugment
from candle_tf.data.augment.augmentation import make_augmentation
from candle_tf.data.augment.randaugment import OPERATIONS as IMAGE_OPERATIONS
from candle_tf.data.augment.settings import OPERATIONS
from candle_tf.data.augment.views import Views
from tests.data.augment.fingerprint import (
    CONSTANT,
    COUNT,
    PATH,
    SETTINGS,
    fingerprint,
    images,
    version,
)
from tests.fingerprints import check, differences, store


@pytest.fixture(scope="module")
def present():
    return fingerprint()


def test_pixels_are_those_of_the_version(present):
    check(PATH, version(), CONSTANT, present)


def test_every_operation_has_a_fingerprint():
    made = [make_augmentation(settings, 3) for settings in SETTINGS.values()]
    assert {type(operation) for each in made for operation in each.operations} == set(
        OPERATIONS.values()
    )
    views = Views(np.arange(COUNT), np.arange(COUNT) % 3)
    drawn = make_augmentation(SETTINGS["randaugment"], 3).draw(images(False), views)
    assert set(drawn["operations"].ravel().tolist()) == set(range(len(IMAGE_OPERATIONS)))


@pytest.mark.parametrize(
    ("module", "name", "value", "changed"),
    [
        (crops, "PAD", 0.13, "pad_crop"),
        (crops, "CROP_ASPECT", (0.7, 4 / 3), "random_resized_crop_flip"),
        (crops, "ALTERNATING_AREA", 0.45, "alternating_crop_flip"),
        (crops, "CENTRE_CROP", 0.8, "evaluation, crop"),
        (color_jitter, "GREY", (0.333, 0.334, 0.333), "color_jitter"),
        (color_jitter, "COLOR", 9, "color_jitter"),
        (randaugment, "MAX_MAGNITUDE", 10.5, "randaugment"),
        (randaugment, "RANDAUGMENT", 9, "randaugment"),
        (mix, "GRID", 16, "cutmix"),
        (mix, "MIXING", 9, "mixup"),
    ],
)
def test_a_change_of_the_code_is_noticed(monkeypatch, present, module, name, value, changed):
    monkeypatch.setattr(module, name, value)
    assert changed in differences(fingerprint(), present)
    with pytest.raises(AssertionError, match=rf"{changed}.*raise AUGMENTATION_VERSION .*python -m"):
        check(PATH, version(), CONSTANT, fingerprint())


def test_rounding_of_another_cpu_is_not_noticed(present):
    rng = np.random.default_rng(0)
    moved = {name: values + rng.normal(0, 0.01, values.shape) for name, values in present.items()}
    check(PATH, version(), CONSTANT, moved)


def test_only_a_new_version_can_be_stored(tmp_path, monkeypatch, present):
    path = tmp_path / "fingerprint.json"
    path.write_bytes(PATH.read_bytes())
    moved = {name: values + 1 for name, values in present.items()}
    with pytest.raises(SystemExit, match="raise AUGMENTATION_VERSION"):
        store(path, version(), CONSTANT, moved)
    assert path.read_bytes() == PATH.read_bytes()
    before = version()
    monkeypatch.setattr(augmentation, "AUGMENTATION_VERSION", int(before) + 1)
    with pytest.raises(AssertionError, match="no fingerprint of version"):
        check(path, version(), CONSTANT, moved)
    store(path, version(), CONSTANT, moved)
    check(path, version(), CONSTANT, moved)
    assert set(json.loads(path.read_text())) == {*json.loads(PATH.read_text()), version()}
    check(path, before, CONSTANT, present)
