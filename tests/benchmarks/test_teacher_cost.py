"""The rows' arithmetic, on parts that take a moment; how long they take proves nothing here."""

import statistics

import candle_tf  # noqa: F401  (selects Keras 2 before TensorFlow is imported)

# isort: split
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from candle_tf.errors import UserError
from tests.teachers.test_features import make_teacher
from tools.benchmarks import teacher_cost, workload
from tools.benchmarks.growth import growth
from tools.benchmarks.workload import Workload, from_folder, noise_subset

LOAD = Workload(
    "quicknet_small", 0.125, image_size=32, batch_size=4, classes=3, steps=2, feature_size=6
)


@pytest.fixture(autouse=True)
def small_student(monkeypatch):
    """One layer: a real student takes longer to trace than all of the rest."""

    def build(_name, shape, classes, width):
        pixels = tf.keras.Input(shape)
        maps = tf.keras.layers.Conv2D(int(32 * width), 3, strides=4)(pixels)
        features = tf.keras.layers.GlobalAveragePooling2D()(maps)
        logits = tf.keras.layers.Dense(classes)(features)
        return tf.keras.Model(pixels, {"features": features, "logits": logits})

    monkeypatch.setattr(workload, "build_student", build)


def assert_summary(figures, quotients):
    assert figures["median"] == pytest.approx(statistics.median(quotients))
    assert figures["min"] == pytest.approx(min(quotients))
    assert figures["max"] == pytest.approx(max(quotients))
    assert figures["min"] > 0


def test_a_distillation_step_is_compared_with_one_of_cross_entropy():
    figures = teacher_cost.distill_over_ce(LOAD, noise_subset(20, 3, 32), repeats=2)
    ours, theirs = (figures["seconds"][name] for name in ("distillation", "cross_entropy"))
    assert_summary(figures, np.divide(ours, theirs))
    speed = figures["images_per_s"]
    assert speed["distillation"] == pytest.approx(8 / statistics.median(ours))
    assert speed["cross_entropy"] == pytest.approx(8 / statistics.median(theirs))


def test_calibration_counts_the_cache_once_and_the_backbone_thirty_times(monkeypatch):
    monkeypatch.setattr(teacher_cost, "EPOCHS", 3)
    teacher = make_teacher()
    figures = teacher_cost.calibrate_ratio(teacher, noise_subset(12, 3, 16), 3, (8, 12), repeats=2)
    seconds = {name: np.array(each) for name, each in figures["seconds"].items()}
    assert_summary(
        figures, 3 * seconds["backbone_epoch"] / (seconds["fill_cache"] + seconds["cached_epochs"])
    )
    # Once before, then in the warmup and both rounds, the cache and the backbone's epoch alike.
    assert sum(map(len, teacher.shown)) == 12 * 2 * (1 + 2 * 3)


def test_the_whole_of_distillation_is_put_together_for_each_image():
    teacher = make_teacher()
    figures = teacher_cost.distill_total_ratio(
        teacher, LOAD, noise_subset(8, 3, 32), (8, 12), measured_images=5, repeats=2
    )
    seconds = {name: np.array(each) for name, each in figures["seconds"].items()}
    online = 30 * seconds["online_steps"] / 8
    cached = seconds["fill_cache"] / 5 + 30 * seconds["cached_steps"] / 8
    assert_summary(figures, online / cached)
    # Each round: 5 images at 4 views for the cache, 8 images in the online steps.
    assert sum(map(len, teacher.shown)) == 3 * 2 * (5 * 4 + 8)


def test_growth_compares_units_of_work_with_the_first_size():
    done: list[int] = []
    figures = growth([1, 2], lambda size: lambda: done.append(size), lambda size: 10 * size, 4)
    assert sorted(done) == [1] * 5 + [2] * 5
    assert list(figures) == ["1", "2"]
    first = {name: figures["1"][name] for name in ("median", "min", "max")}
    assert first == {"median": 1.0, "min": 1.0, "max": 1.0}
    assert figures["2"]["units_per_s"] > 0


def test_real_images_are_the_first_of_each_class(tmp_path):
    for name, grey in (("a", 10), ("b", 200)):
        folder = tmp_path / "set" / "train" / name
        folder.mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (20, 10), (grey + number,) * 3).save(folder / f"{number}.png")
        test = tmp_path / "set" / "test" / name
        test.mkdir(parents=True)
        Image.new("RGB", (20, 10)).save(test / "0.png")
    examples = from_folder(str(tmp_path / "set"), 4, 8, tmp_path / "cache")
    batch = examples.batch(np.arange(4))
    assert batch["images"].shape == (4, 8, 8, 3)
    assert sorted(batch["images"][:, 0, 0, 0]) == [10, 11, 12, 200]
    with pytest.raises(UserError, match="holds 6 training images; the benchmark takes 7"):
        from_folder(str(tmp_path / "set"), 7, 8, tmp_path / "cache")
