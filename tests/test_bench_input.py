"""The input benchmark times the same images on every side."""

import candle_tf  # noqa: F401  (selects Keras 2 before TensorFlow is imported)

# isort: split
import numpy as np
import pytest
from PIL import Image

from candle_tf.errors import UserError
from tools.bench_input import _open_stores, _views, as_text
from tools.benchmarks.workload import Workload, batches_of

LOAD = Workload(image_size=16, batch_size=4, steps=2, classes=2)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(10):
        path = tmp_path / "data" / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(path)
    return str(tmp_path / "data")


def test_all_sides_show_the_same_batches_from_where_they_say(folder, tmp_path):
    with _open_stores(LOAD, folder, 24, str(tmp_path / "cache")) as examples:
        cutmix = _views(examples)["cutmix"][1]
        sides = {name: list(batches_of(LOAD, part, cutmix).as_numpy_iterator())
                 for name, part in examples.items()}  # fmt: skip
        assert isinstance(examples["disk"].images.array, np.memmap)
        assert not isinstance(examples["memory"].images.array, np.memmap)
        assert examples["stream"].images.streamed
    assert set(sides) == {"memory", "disk", "stream"}
    for batches in sides.values():
        assert len(batches) == LOAD.steps
        for ours, theirs in zip(batches, sides["memory"], strict=True):
            for name in theirs:
                np.testing.assert_array_equal(ours[name], theirs[name])


def test_too_few_images_are_refused(folder, tmp_path):
    load = Workload(batch_size=4, steps=3)
    with pytest.raises(UserError, match=r"holds 10 .* fewer than the 12"), \
            _open_stores(load, folder, 24, str(tmp_path)):  # fmt: skip
        pass


def test_the_table_has_medians_and_spread():
    ratio = {"median": 1.25, "min": 1.0, "max": 1.5}
    step = {"images_per_s": 20.0, "over_ready": ratio, "over_memory": ratio}
    figures = {
        "steps": {"disk": step},
        "views": {"cutmix": {"ms_per_image": 0.5, "of_step": ratio}},
        "peak_mb": 1234.4,
    }
    text = as_text(figures)
    assert "1.250 (1.000-1.500)" in text
    assert "1234 MB" in text
