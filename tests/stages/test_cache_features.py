"""`candle_tf.cache_features`: shards of a run's features, computed before it."""

import numpy as np
import pytest

from candle_tf.cache_features import _read_shard
from candle_tf.config import Config
from candle_tf.data.cached_arrays import Shard
from candle_tf.errors import UserError
from candle_tf.run_folder import open_run_folder
from candle_tf.stages.cache_features import cache_features
from candle_tf.stages.calibrate import calibrate
from candle_tf.stages.prepare import prepare
from candle_tf.teachers import features as features_module


def _config(folder, cache):
    return Config(
        profile="counts", class_counts="20,15,12,10,8,8,6,6,5,5", image_size=16,
        augmentation="pad_crop", teacher_view="same", views=8,
        calibration_resolutions=(32,), calibration_epochs=1, test_fraction=0.05,
        run_dir=str(folder), cache_dir=str(cache),
    )  # fmt: skip


@pytest.fixture
def rows(monkeypatch):
    """The number of views that the teacher ran on, call by call."""
    seen = []
    features_of = features_module.features_of

    def counting(teacher, subset, augmentation, views, resolution):
        seen.append(len(views))
        return features_of(teacher, subset, augmentation, views, resolution)

    monkeypatch.setattr(features_module, "features_of", counting)
    return seen


def _run(config):
    folder = open_run_folder(config)
    data = prepare(config, folder)
    return data, calibrate(config, data, folder.path / "calibrate")


def test_a_run_computes_nothing_after_the_shards(tmp_path, rows):
    config = _config(tmp_path / "run", tmp_path / "cache")
    for number in (2, 1):
        cache_features(config, Shard(number, 2))
    assert not (tmp_path / "run").exists()
    by_shards = sum(rows)
    data, calibrated = _run(config)
    assert by_shards == 8 * len(data.train) + len(data.validation) + len(data.test)
    assert sum(rows) == by_shards
    assert len(rows) > 3
    _, alone = _run(_config(tmp_path / "alone", tmp_path / "other"))
    assert sum(rows) == 2 * by_shards
    np.testing.assert_array_equal(calibrated.test_logits, alone.test_logits)
    np.testing.assert_array_equal(calibrated.targets.features, alone.targets.features)


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "-1/2", "a/b", "1/2/3"])
def test_what_is_no_shard_is_refused(text):
    assert _read_shard("2/3") == Shard(2, 3)
    with pytest.raises(UserError, match="is no shard"):
        _read_shard(text)
