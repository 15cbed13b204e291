"""--map_weight in the stages of a run: calibration, training, cache and export."""

import csv

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.config import Config
from candle_tf.data.cached_arrays import Shard
from candle_tf.deploy.saved_model.writer import export_saved_model
from candle_tf.distribute import ALONE
from candle_tf.errors import UserError
from candle_tf.methods.distillation import DistillationTrainer
from candle_tf.run_folder import open_run_folder
from candle_tf.stages import calibrate as calibration
from candle_tf.stages import train as training
from candle_tf.stages.calibrate import cache_all_features
from candle_tf.stages.prepare import prepare
from candle_tf.students.architectures.reactnet import _block
from candle_tf.students.architectures.registry import STUDENTS
from candle_tf.students.compute_policy import resolve_compute_policy
from candle_tf.students.layers.blocks import batch_norm
from candle_tf.teachers import feature_maps
from tests.stages.interrupt import interrupt
from tests.stages.test_train import one_block_student  # noqa: F401
from tests.stages.test_unlabelled import write_images
from tests.teachers.test_feature_maps import strided_teacher
from tests.teachers.test_features import make_teacher


@pytest.fixture
def config(tmp_path):
    write_images(tmp_path)
    return Config(
        dataset="folder", data_dir=str(tmp_path / "data"), profile="natural",
        batch_size=10, epochs=2, run_dir=str(tmp_path / "run"),
        cache_dir=str(tmp_path / "cache"), image_size=16, calibration_resolutions=(48, 32),
        calibration_epochs=1, label_weight="0.5", views=2, teacher_view="same", map_weight=0.25,
    )  # fmt: skip


@pytest.fixture
def teacher(monkeypatch):
    teacher = strided_teacher()
    monkeypatch.setattr(calibration, "load_configured_teacher", lambda *_: teacher)
    return teacher


@pytest.fixture
def two_block_student(monkeypatch):
    """Sides 8, 4 and 2: the maps are those of the stem and of the first block."""

    def build(input_shape, classes, **options):  # noqa: ARG001
        pixels = tf.keras.Input(input_shape, name="pixels")
        x = tf.keras.layers.Rescaling(1 / 127.5, offset=-1.0)(pixels)
        x = tf.keras.layers.Conv2D(8, 3, 2, padding="same", name="stem_conv")(x)
        x = _block(batch_norm(x, "stem_bn"), 16, 2, "block01")
        x = _block(x, 32, 2, "block02")
        features = tf.keras.layers.GlobalAveragePooling2D(name="features")(x)
        logits = tf.keras.layers.Dense(classes, name="logits")(features)
        return tf.keras.Model(pixels, {"features": features, "logits": logits}, name="two_block")

    monkeypatch.setitem(STUDENTS._targets, "reactnet_a", build)


def _calibrate(config):
    folder = open_run_folder(config)
    data = prepare(config, folder)
    return folder, data, calibration.calibrate(config, data, folder.path / "calibrate")


def _train(config, stop_after: int = 0):
    folder, data, calibrated = _calibrate(config)
    policy = resolve_compute_policy(config.compute.precision, config.compute.xla)
    stage = (config, data, calibrated.targets, folder.path / "student", policy, calibrated)
    if stop_after:
        with interrupt(DistillationTrainer, "evaluate", call=stop_after + 1):
            training.train_student(*stage)
    return training.train_student(*stage)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"student_head": "tied", "feature_loss": "r2", "balance": "class_adversarial",
         "mix": "mixup", "tail_views": 3, "unlabelled_dir": "more"},
        {"binary_steps": 2, "optimizer": "adam_sgd"},
    ],
    ids=["plain", "tied, by class, mixed, images without labels", "two phases"],
)  # fmt: skip
@pytest.mark.usefixtures("teacher", "two_block_student")
def test_a_resumed_training_is_one_that_was_not_interrupted(config, tmp_path, options):
    if "unlabelled_dir" in options:
        more = {"unlabelled_dir": str(tmp_path / "more"), "unlabelled_fraction": 0.4}
        options = {**options, **more}
    config = config.replace(**options)
    whole = _train(config.replace(run_dir=str(tmp_path / "whole")))
    resumed = _train(config.replace(run_dir=str(tmp_path / "resumed")), stop_after=1)
    for row in whole.checkpoints.history:
        assert {"map16", "map32", "map_weight", "objective"} <= set(row)
    with (tmp_path / "whole" / "student" / "steps.csv").open() as file:
        steps = list(csv.DictReader(file))
    weights = [0.25 * max(0.0, 1 - t / (0.6 * len(steps))) for t in range(len(steps))]
    assert [float(row["map_weight"]) for row in steps] == pytest.approx(weights, abs=1e-6)
    assert all(0 < float(row[name]) < 2 for row in steps for name in ("map16", "map32"))
    for run in (whole, resumed):
        run.checkpoints.restore_selected("last")
    for one, other in zip(whole.student.weights, resumed.student.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=one.name)


@pytest.mark.usefixtures("teacher", "two_block_student")
def test_the_projectors_are_not_in_the_exported_model(config, tmp_path):
    trained = _train(config)
    folder = export_saved_model(trained.student, tmp_path / "export", ["ant", "bee"], image_side=16)
    reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    shapes = reader.get_variable_to_shape_map()
    assert not [name for name in shapes if "map" in name.lower()]
    # Neither under another name: 9 channels are the teacher's maps' alone.
    assert not [shape for shape in shapes.values() if shape and shape[-1] == 9]
    graph = tf.saved_model.load(folder).signatures["pixels"].graph.as_graph_def()
    nodes = [node.name for function in graph.library.function for node in function.node_def]
    assert not [name for name in nodes if "map16" in name or "map32" in name]


@pytest.mark.usefixtures("teacher", "two_block_student")
def test_images_without_labels_have_maps_of_the_same_pca(config, tmp_path):
    config = config.replace(unlabelled_dir=str(tmp_path / "more"), unlabelled_fraction=0.4)
    _, data, calibrated = _calibrate(config)
    assert calibrated.targets.maps.shape == (2 * len(data.train), 20, 9)
    assert calibrated.unlabelled_targets.maps.shape == (22, 20, 9)
    assert len(list((tmp_path / "cache").glob("maps-pca-*.npy"))) == 1
    # Of the first resolution alone.
    assert len(list((tmp_path / "cache").glob("maps-48px-*.npy"))) == 2
    side = config.student.image_size
    batches = training._batches(config, data, calibrated.targets, calibrated, 0, ALONE, side)
    batch = next(iter(batches))
    assert batch["teacher_maps"].shape == (10, 20, 9)
    assert batch["labelled"].numpy().tolist() == [True] * 6 + [False] * 4


@pytest.mark.usefixtures("two_block_student")
def test_shards_compute_all_maps_before_a_run(config, teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_maps, "_BLOCK", 4)
    folder = open_run_folder(config)
    data = prepare(config, folder)
    computed = []
    for number in (2, 1):
        cache_all_features(config, data, teacher, Shard(number, 2))
        (path,) = (tmp_path / "cache").glob("maps-48px-*.npy")
        computed.append(np.load(path).any(axis=(1, 2)).mean())
    # The first of the two leaves half to the other.
    assert computed == [pytest.approx(0.5, abs=0.1), 1.0]
    stored = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("maps-*.npy")}
    assert len(stored) == 2
    _, _, calibrated = _calibrate(config)
    again = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("maps-*.npy")}
    assert again == stored
    assert np.abs(calibrated.targets.maps.astype(np.float32)).max(axis=(1, 2)).min() > 0


@pytest.mark.usefixtures("teacher", "two_block_student")
def test_the_students_views_are_whole_where_it_does_not_crop(config):
    _, data, calibrated = _calibrate(config.replace(augmentation="none"))
    assert calibrated.targets.maps.shape == (len(data.train), 20, 9)


@pytest.mark.usefixtures("teacher", "two_block_student")
def test_without_the_weight_nothing_is_computed_or_logged(config, tmp_path):
    config = config.replace(map_weight=0.0, epochs=1)
    trained = _train(config)
    assert not list((tmp_path / "cache").glob("maps-*"))
    assert not [name for name in trained.checkpoints.history[0] if "map" in name]


@pytest.mark.usefixtures("two_block_student")
def test_a_teacher_without_the_maps_is_refused_before_features_are_computed(
    config, tmp_path, monkeypatch
):
    monkeypatch.setattr(calibration, "load_configured_teacher", lambda *_: make_teacher())
    with pytest.raises(UserError, match="--teacher=tiny has none at 16 and 32"):
        _calibrate(config)
    assert not list((tmp_path / "cache").glob("features-*"))


@pytest.mark.usefixtures("teacher", "one_block_student")
def test_a_student_without_the_maps_is_refused_before_features_are_computed(config, tmp_path):
    with pytest.raises(UserError, match="--student=one_block has: 8x8, 4x4"):
        _calibrate(config)
    assert not list((tmp_path / "cache").glob("features-*"))
