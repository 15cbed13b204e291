"""How often the teacher runs in the first stages of a run."""

from pathlib import Path

import candle_tf  # noqa: F401  (selects Keras 2 before TensorFlow is imported)

# isort: split
import numpy as np
import pytest

from candle_tf.config import Config
from candle_tf.data.augment.precomputed_views import views_by_class
from candle_tf.methods.checkpoints import Checkpoints
from candle_tf.metrics import SCORE
from candle_tf.run_folder import open_run_folder
from candle_tf.stages import calibrate as calibration
from candle_tf.stages.prepare import prepare
from candle_tf.stages.train import train_student
from candle_tf.students.compute_policy import resolve_compute_policy
from candle_tf.weight_files.checksums import fingerprint
from tests.teachers.test_features import make_teacher

RESOLUTIONS = (32, 40)
SETTINGS = {
    "dataset": "digits",
    "profile": "step",
    "imbalance_factor": 50,
    "image_size": 16,
    "stem_stride": 1,
    "width": 0.125,
    "student": "quicknet_small",
    "augmentation": "pad_crop_flip",
    "teacher_view": "same",
    "views": 2,
    "tail_views": 5,
    "calibration_resolutions": RESOLUTIONS,
    "calibration_epochs": 3,
    "batch_size": 64,
    "epochs": 2,
}


@pytest.fixture
def teacher(monkeypatch):
    teacher = make_teacher()
    monkeypatch.setattr(calibration, "load_configured_teacher", lambda *_: teacher)
    return teacher


def both_stages(run_dir: Path, **settings: object):
    return stages(run_dir, train=True, **settings)


def stages(run_dir: Path, train: bool = False, **settings: object):
    config = Config(**{**SETTINGS, **settings, "run_dir": str(run_dir)})
    folder = open_run_folder(config)
    data = prepare(config, folder)
    calibrated = calibration.calibrate(config, data, folder.path / "calibrate")
    if train:
        policy = resolve_compute_policy(config.compute.precision, config.compute.xla)
        train_student(config, data, calibrated.targets, folder.path / "student", policy, calibrated)
    return data, calibrated


def test_the_teacher_runs_once_on_each_view_of_each_image_at_each_resolution(teacher, tmp_path):
    cache = str(tmp_path / "cache")
    data, first = both_stages(tmp_path / "run", cache_dir=cache)
    views = views_by_class(data.counts, 2, 5)[data.train.labels].sum()
    assert views > 2 * len(data.train)
    whole = len(data.validation) + len(data.test)
    assert sum(map(len, teacher.shown)) == len(RESOLUTIONS) * (views + whole)
    for side in RESOLUTIONS:
        shown = sum(len(batch) for batch in teacher.shown if batch.shape[1] == side)
        assert shown == views + whole
    teacher.shown.clear()
    # The same run resumed, and another one on the same images.
    _, again = stages(tmp_path / "run", cache_dir=cache)
    stages(tmp_path / "other", cache_dir=cache, calibration_epochs=2)
    assert teacher.shown == []
    np.testing.assert_array_equal(again.targets.logits, first.targets.logits)


def test_a_student_that_learned_from_an_epoch_of_the_teacher_keeps_it(teacher, tmp_path):
    """Whatever --select_epoch is now. The third epoch is made up, and the worst."""
    run_dir = tmp_path / "run"
    settings = {"select_epoch": "best", "calibration_epochs": 2, "epochs": 1}
    data, first = stages(run_dir, **settings)
    begun = run_dir / "student" / "checkpoints" / "progress.json"
    begun.parent.mkdir(parents=True)
    begun.write_text("{}")
    settings["calibration_epochs"] = 3
    config = Config(**{**SETTINGS, **settings, "run_dir": str(run_dir)})
    trainer = calibration._build_trainer(config, teacher, data, data.counts, 1)
    checkpoints = Checkpoints(run_dir / "calibrate" / "checkpoints", trainer)
    checkpoints.restore(2)
    trainer.network.set_weights([each + 1.0 for each in trainer.network.get_weights()])
    checkpoints.save({**checkpoints.history[-1], "epoch": 3, SCORE: -1.0})
    config.to_json(run_dir / "config.json")

    expected = first.classifier.get_weights()
    for policy in ("last", "auto", "best"):
        _, again = stages(run_dir, **{**settings, "select_epoch": policy})
        for one, other in zip(again.classifier.get_weights(), expected, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("mixed", "unmixed"),
    [
        # Of each four views two are of one image alone: those that two views would be.
        ({"views": 4, "mix": "mixup", "mix_views": "half"}, {"views": 2}),
        # All are mixed: the whole images are left.
        ({"views": 2, "mix": "cutmix"}, {"teacher_view": "whole"}),
        ({"teacher_mode": "online", "mix": "mixup"}, {"teacher_mode": "online"}),
    ],
)
@pytest.mark.usefixtures("teacher")
def test_a_classifier_is_calibrated_on_images_that_are_not_mixed(tmp_path, mixed, unmixed):
    shared = {"augmentation": "pad_crop", "tail_views": 0, "cache_dir": str(tmp_path / "cache")}
    found, expected = (
        stages(tmp_path / name, **{**shared, **settings})[1].classifier.get_weights()
        for name, settings in (("mixed", mixed), ("unmixed", unmixed))
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
        assert np.abs(one).max() > 0


@pytest.mark.parametrize(
    "settings",
    [
        {"tail_views": 8},
        # Of 4 views 2 are unmixed, and of 9 views 5.
        {"views": 4, "tail_views": 9, "mix": "mixup", "mix_views": "half"},
        {"tail_views": 0, "teacher_mode": "online"},
        {"tail_views": 8, "calibration_sampler": "square_root"},
        {"calibration_loss": "cross_entropy", "calibration_sampler": "class_balanced"},
        {
            "tail_views": 0, "teacher_mode": "online",
            "calibration_loss": "cross_entropy", "calibration_sampler": "class_balanced",
        },
    ],
)  # fmt: skip
def test_rare_classes_with_more_views_are_not_preferred(teacher, tmp_path, settings):
    """Of features that tell nothing the classifier learns how often classes are shown, less the
    prior of its loss: nothing is left."""
    teacher.encoder.set_weights([np.zeros_like(each) for each in teacher.encoder.get_weights()])
    object.__setattr__(teacher, "fingerprint", fingerprint(teacher.encoder))
    data, calibrated = stages(
        tmp_path, calibration_epochs=12, calibration_learning_rate=0.03,
        calibration_batch_size=128, calibration_resolutions=(32,), validation_fraction=0.0,
        **settings,
    )  # fmt: skip
    _, bias = calibrated.classifier.get_weights()
    frequent = data.counts > data.counts.mean()
    assert 0 < frequent.sum() < len(frequent)
    assert abs(bias[frequent].mean() - bias[~frequent].mean()) < 0.15


@pytest.mark.parametrize("mixed", [{}, {"views": 2, "mix": "cutmix"}])
def test_without_validation_images_its_accuracy_is_of_held_out_training_images(
    teacher, tmp_path, mixed
):
    shared = {"validation_fraction": 0.0, "cache_dir": str(tmp_path / "cache"), **mixed}
    _, plain = stages(tmp_path / "plain", label_weight="0", **shared)
    assert plain.accuracy is None
    seen = sum(map(len, teacher.shown))
    data, calibrated = stages(tmp_path / "auto", label_weight="auto", **shared)
    assert 0 < calibrated.accuracy < 1
    # Cached views serve; where all are mixed, the whole images do, which the calibration had.
    assert sum(map(len, teacher.shown)) == seen
    _, again = stages(tmp_path / "auto", label_weight="auto", **shared)
    assert again.accuracy == calibrated.accuracy
    assert len(data.validation) == 0


@pytest.mark.parametrize(
    "settings", [{"teacher_top_k": 3}, {"teacher_view": "whole", "tail_views": 0}]
)
def test_resolutions_side_by_side_are_the_features_of_each(teacher, tmp_path, settings):
    shared = {"cache_dir": str(tmp_path / "cache"), "calibration_epochs": 1, **settings}
    data, mean = stages(tmp_path / "mean", **shared)
    config = Config.from_json(tmp_path / "mean" / "config.json")
    views = calibration._training_views(config, data)
    each = calibration._cache_features(config, teacher, data.train, *views).features
    teacher.shown.clear()
    _, both = stages(tmp_path / "both", combine_resolutions="concatenate", **shared)
    # The features of an earlier run serve, however they are combined.
    assert teacher.shown == []
    assert [part.size for part in both.parts] == [6, 6]
    rows = views[1].rows_per_view
    expected = np.concatenate(each, axis=1).astype(np.float32).reshape(-1, rows, 12).mean(axis=1)
    np.testing.assert_array_equal(both.targets.features, expected.astype(np.float16))
    halves = both.targets.features.astype(np.float32).reshape(-1, 2, 6)
    np.testing.assert_allclose(halves.mean(axis=1), mean.targets.features, rtol=2e-3, atol=1e-4)
    kernel, bias = both.classifier.get_weights()
    assert kernel.shape == (12, 10)
    found = next(iter(both.targets.blocks()))
    logits = found["teacher_features"] @ kernel + bias
    largest = np.take_along_axis(logits, found["teacher_logits"].argmax(axis=1)[:, None], 1)[:, 0]
    np.testing.assert_allclose(largest, logits.max(axis=1), rtol=1e-2, atol=1e-3)
    assert both.test_logits.shape == (len(data.test), 10)


def test_one_resolution_is_the_same_however_resolutions_are_combined(teacher, tmp_path):
    shared = {"cache_dir": str(tmp_path / "cache"), "calibration_resolutions": (32,)}
    _, mean = stages(tmp_path / "mean", **shared)
    teacher.shown.clear()
    _, one = stages(tmp_path / "one", combine_resolutions="concatenate", **shared)
    assert teacher.shown == []
    np.testing.assert_array_equal(one.targets.logits, mean.targets.logits)
    np.testing.assert_array_equal(one.test_logits, mean.test_logits)


def test_online_the_teacher_runs_in_every_epoch(teacher, tmp_path):
    data, calibrated = both_stages(
        tmp_path / "run", teacher_mode="online", tail_views=0, balance="plain"
    )
    whole = len(data.validation) + len(data.test)
    batch = min(256, len(data.train))
    in_calibration = 3 * (len(data.train) // batch) * batch
    seen = sum(map(len, teacher.shown)) / len(RESOLUTIONS) - whole - in_calibration
    # Both epochs of the student, some batches made ahead of it, and the sample for the mean.
    sample, epochs = len(data.train), 2 * (len(data.train) // 64) * 64
    assert seen == sample + epochs
    assert calibrated.targets.classes == 10
