"""Images without labels in a distillation (--unlabelled_dir)."""

import dataclasses
import os
import shutil
from collections import Counter

import numpy as np
import pytest

from candle_tf.config import Config
from candle_tf.distribute import ALONE
from candle_tf.errors import UserError
from candle_tf.methods.distillation import DistillationTrainer
from candle_tf.reporting.data_findings import data_findings
from candle_tf.run_folder import open_run_folder
from candle_tf.stages import calibrate as calibration
from candle_tf.stages import train as training
from candle_tf.stages.cache_features import cache_all_features
from candle_tf.stages.check_images import check_split
from candle_tf.stages.prepare import prepare
from candle_tf.stages.split import open_data
from candle_tf.students.compute_policy import resolve_compute_policy
from tests.data.sources.test_registry import tree, write_folder, write_old_zip
from tests.stages.interrupt import interrupt
from tests.stages.test_train import one_block_student  # noqa: F401
from tests.teachers.test_features import make_teacher

TRAIN = [f"train/{label}/{i:02d}.png" for label in ("ant", "bee") for i in range(12)]
TEST = [f"test/{label}/{i}.png" for label in ("ant", "bee") for i in range(3)]
MORE = [f"some/where/{i}.png" for i in range(11)]


def write_images(folder):
    """Images of two classes in data/, and some without labels in more/."""
    files = tree(*TRAIN, *TEST, *MORE)
    write_folder(folder / "data", {name: files[name] for name in (*TRAIN, *TEST)})
    write_folder(folder / "more", {name: files[name] for name in MORE})


@pytest.fixture
def config(tmp_path):
    write_images(tmp_path)
    return Config(
        dataset="folder", data_dir=str(tmp_path / "data"), profile="natural",
        unlabelled_dir=str(tmp_path / "more"), unlabelled_fraction=0.4, batch_size=10, epochs=2,
        run_dir=str(tmp_path / "run"), cache_dir=str(tmp_path / "cache"), image_size=16,
        calibration_resolutions=(32,), calibration_epochs=1, label_weight="0.5", views=2,
        teacher_view="same",
    )  # fmt: skip


@pytest.fixture
def teacher(monkeypatch):
    teacher = make_teacher()
    monkeypatch.setattr(calibration, "load_configured_teacher", lambda *_: teacher)
    return teacher


def test_files_that_are_not_read_as_images_are_told_once(config, tmp_path, caplog):
    (tmp_path / "more" / "scan.tif").write_bytes(b"x")
    data = prepare(config, open_run_folder(config))
    assert data.check["unlabelled"]["images"] == len(MORE)
    told = [each.getMessage() for each in caplog.records if "scan.tif" in each.getMessage()]
    assert len(told) == 1
    assert "1 files that are not read as images (1 .tif)" in told[0]


def test_unreadable_ones_stop_the_run_or_are_left_out_and_test_images_always_are(
    config, tmp_path, caplog
):
    more = tmp_path / "more"
    (more / "bad.png").write_bytes(b"<html>")
    (more / "copy.png").write_bytes((tmp_path / "data" / TEST[1]).read_bytes())
    with pytest.raises(UserError) as caught:
        prepare(config, open_run_folder(config))
    assert f"--unlabelled_dir={more}: 1 images cannot be read" in str(caught.value)
    assert "bad.png: not a readable image" in str(caught.value)
    skipping = config.replace(on_bad_image="skip")
    folder = open_run_folder(skipping)
    data = prepare(skipping, folder)
    assert len(data.unlabelled) == len(MORE)
    assert data.check["unlabelled"]["shared"] == ["copy.png"]
    assert "1 images without labels are in the validation or test subset" in caplog.text
    assert data.counts.tolist() == [12, 12]
    (found, *_), text = data_findings(data.check), "distilled on 11 images without labels"
    assert any(text in item for item in data_findings(data.check) if isinstance(item, str)), found
    # The images of a run that began stay the same.
    (folder.path / "student" / "checkpoints").mkdir(parents=True)
    (folder.path / "student" / "checkpoints" / "progress.json").write_text("{}")
    (more / "new.png").write_bytes((more / MORE[0]).read_bytes() + b" ")
    with pytest.raises(UserError, match="not those that this run began with"):
        prepare(skipping, folder)


def test_images_with_labels_are_read_once_beside_an_unreadable_one(config, tmp_path):
    (tmp_path / "data" / TRAIN[3]).write_bytes(b"<html>")
    (tmp_path / "more" / "copy.png").write_bytes((tmp_path / "data" / TEST[1]).read_bytes())
    config = config.replace(on_bad_image="skip")
    folder = open_run_folder(config)
    read: Counter[str] = Counter()
    with open_data(config) as source:

        def count(image_id):
            read[image_id] += 1
            return source.read_image(image_id)

        counted = dataclasses.replace(source, reader=count)
        _, record = check_split(config, folder, counted)
        assert record["unlabelled"]["shared"] == ["copy.png"]
        assert {read[name] for name in (*TRAIN, *TEST) if name != TRAIN[3]} == {1}
        # Runs of older versions have no record of contents.
        folder.image_contents_path.unlink()
        assert check_split(config, folder, source)[1] == record


def test_a_moved_folder_of_the_same_images_resumes(config, tmp_path):
    before = prepare(config, open_run_folder(config))
    (tmp_path / "run" / "student" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "student" / "checkpoints" / "progress.json").write_text("{}")
    shutil.move(tmp_path / "more", tmp_path / "moved")
    moved = config.replace(unlabelled_dir=str(tmp_path / "moved"))
    after = prepare(moved, open_run_folder(moved))
    _require_same(before, after)

    (tmp_path / "moved" / MORE[0]).unlink()
    with pytest.raises(UserError, match="not those that this run began with"):
        prepare(moved, open_run_folder(moved))
    without = config.replace(unlabelled_dir="", unlabelled_fraction=0.5)
    with pytest.raises(UserError, match=r"--unlabelled_dir was .*moved and is now empty"):
        open_run_folder(without)


@pytest.mark.parametrize("cached", [True, False])
def test_copies_with_other_times_resume_and_other_bytes_are_named(config, tmp_path, cached):
    before = prepare(config, open_run_folder(config))
    (tmp_path / "run" / "student" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "student" / "checkpoints" / "progress.json").write_text("{}")
    if not cached:
        shutil.rmtree(tmp_path / "cache")
    for path in (tmp_path / "more").rglob("*.png"):
        os.utime(path, (1e9, 1e9))
    for _ in range(2):
        _require_same(before, prepare(config, open_run_folder(config)))
    changed = tmp_path / "more" / MORE[3]
    changed.write_bytes((tmp_path / "more" / MORE[4]).read_bytes())
    with pytest.raises(UserError, match=f"1 images have other contents .* '{MORE[3]}'. Restore"):
        prepare(config, open_run_folder(config))
    # Of a run of an older version the bytes are not known.
    (tmp_path / "run" / "unlabelled_contents.json").unlink()
    with pytest.raises(UserError, match="not those that this run began with"):
        prepare(config, open_run_folder(config))


def test_bytes_are_those_that_the_training_began_with(config, tmp_path):
    prepare(config, open_run_folder(config))
    image = tmp_path / "more" / MORE[3]
    image.write_bytes((tmp_path / "more" / MORE[4]).read_bytes())
    prepare(config, open_run_folder(config))
    (tmp_path / "run" / "student" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "student" / "checkpoints" / "progress.json").write_text("{}")
    for path in (tmp_path / "more").rglob("*.png"):
        os.utime(path, (1e9, 1e9))
    assert len(prepare(config, open_run_folder(config)).unlabelled) == len(MORE)


def test_a_place_without_them_is_told_before_images_are_read(config, tmp_path):
    shutil.rmtree(tmp_path / "more")
    with pytest.raises(UserError, match="more"):
        prepare(config, open_run_folder(config))
    assert not (tmp_path / "cache").exists()


def test_their_names_are_read_in_the_given_encoding(config, tmp_path):
    names = tuple(f"表/{i}.png" for i in range(3))
    packed = write_old_zip(tmp_path, names, "cp932")
    config = config.replace(unlabelled_dir=packed)
    with pytest.raises(UserError, match=r"unknown encoding.*Give --archive_encoding"):
        prepare(config, open_run_folder(config))
    config = config.replace(archive_encoding="cp932", run_dir=str(tmp_path / "other"))
    assert len(prepare(config, open_run_folder(config)).unlabelled) == len(names)


def _require_same(before, after):
    """The same images without labels, by pixels and keys."""
    one, other = (each.unlabelled.batch(np.arange(len(MORE))) for each in (before, after))
    for name in ("images", "keys"):
        np.testing.assert_array_equal(one[name], other[name])


def test_none_that_can_be_used_is_a_sentence(config, tmp_path):
    data = config.replace(unlabelled_dir=str(tmp_path / "data" / "test"))
    with pytest.raises(UserError, match="of 6 images none can be used: 0 cannot be read, and 6"):
        prepare(data, open_run_folder(data))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "balanced_softmax"}, "contradicts --method=balanced_softmax"),
        ({"method": "dive"}, "contradicts --method=dive"),
        ({"batch_size": 1}, "--batch_size=1 contradicts --unlabelled_dir"),
    ],
)
def test_what_cannot_use_them_is_refused(config, settings, message):
    with pytest.raises(UserError, match=message):
        config.replace(**settings)
    assert config.replace(method="candle_crt").labelled_batch_size == 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unlabelled_dir": ""}, "--unlabelled_views=3 is for images without labels"),
        ({"teacher_view": "whole"}, "--unlabelled_views=3 contradicts --teacher_view=whole"),
        ({"teacher_mode": "online"}, "--unlabelled_views=3 contradicts --teacher_mode=online"),
        ({"mix": "mixup", "mix_views": "half", "views": 4}, "contradicts --mix_views=half"),
    ],
)
def test_views_of_their_own_are_refused_where_there_are_none(config, settings, message):
    with pytest.raises(UserError, match=message):
        config.replace(unlabelled_views=3, **settings)


def test_an_epoch_shows_as_many_images_as_it_is_told_to(config):
    data = prepare(config, open_run_folder(config))
    batches = training._batches(config, data, None, None, 0, ALONE, 16)
    shown = [len(batch["inputs"]) for batch in batches]
    assert sum(shown) == config.training.epochs * config.images_in_epoch(len(data.train))
    # All of them are full.
    assert set(shown) == {config.training.batch_size}
    assert len(data.train) % config.labelled_batch_size


def test_one_view_of_each_has_no_crops(config):
    with pytest.raises(UserError, match="--unlabelled_views=1 contradicts --augmentation=alter"):
        config.replace(unlabelled_views=1, augmentation="alternating_crop_flip")


@pytest.mark.parametrize(("sides", "own_views"), [(1, 0), (2, 0), (1, 3)])
def test_the_teacher_gives_the_same_outputs_cached_and_online(config, teacher, sides, own_views):
    config = config.replace(
        calibration_resolutions=(32, 40)[:sides],
        combine_resolutions="concatenate",
        unlabelled_views=own_views,
    )
    data = prepare(config, open_run_folder(config))
    cache_all_features(config, data, teacher)
    teacher.shown.clear()
    cached = calibration._unlabelled_targets(config, teacher, data.unlabelled, _classifier(config))
    assert not teacher.shown
    online_config = config.replace(teacher_mode="online", unlabelled_views=0)
    online = calibration._unlabelled_targets(
        online_config, teacher, data.unlabelled, _classifier(config)
    )
    rows = len(MORE) * (own_views or config.teacher.views)
    assert cached.precomputed.total == rows
    views = cached.precomputed.of_rows(np.arange(rows))
    for name, expected in online.batch(views).items():
        assert expected.shape == (rows, 6 * sides if name == "teacher_features" else 2)
        np.testing.assert_allclose(cached.batch(views)[name], expected, rtol=2e-3, atol=2e-3)


def _classifier(config):
    features = 6 * len(config.calibration.calibration_resolutions)
    return calibration.teacher_classifier(features, 2, weight_scaling=False, seed=config.run.seed)


@pytest.mark.usefixtures("teacher")
def test_a_resumed_training_is_one_that_was_not_interrupted(config, tmp_path):
    def train_run(name: str, stop_after: int = 0):
        own = config.replace(
            run_dir=str(tmp_path / name), balance="class_adversarial", unlabelled_views=3
        )
        folder = open_run_folder(own)
        data = prepare(own, folder)
        calibrated = calibration.calibrate(own, data, folder.path / "calibrate")
        policy = resolve_compute_policy(own.compute.precision, own.compute.xla)
        stage = (own, data, calibrated.targets, folder.path / "student", policy, calibrated)
        if stop_after:
            with interrupt(DistillationTrainer, "evaluate", call=stop_after + 1):
                training.train_student(*stage)
        return training.train_student(*stage)

    whole, resumed = train_run("whole"), train_run("resumed", stop_after=1)
    for run in (whole, resumed):
        run.checkpoints.restore_selected("last")
    assert [set(row) >= {"kl", "fs", "label"} for row in whole.checkpoints.history] == [True] * 2
    for one, other in zip(whole.student.weights, resumed.student.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=one.name)
