"""The network of an earlier run as the teacher, and the images that it must not have seen."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import candle_tf  # noqa: F401  (selects Keras 2 before TensorFlow is imported)

# isort: split
import numpy as np
import pytest
import tensorflow as tf

from candle_tf.config import Config
from candle_tf.data.sources.registry import LabelledImages
from candle_tf.deploy.tflite.converter import run_litert
from candle_tf.deploy.tflite.teacher import convert_teacher
from candle_tf.errors import UserError
from candle_tf.methods.calibration import teacher_classifier
from candle_tf.methods.checkpoints import Checkpoints
from candle_tf.metrics import SCORE
from candle_tf.reporting.image_predictions import TEST, read_image_predictions
from candle_tf.stages.earlier_run import EarlierRun
from candle_tf.stages.run import run
from candle_tf.stages.student_weights import starting_weights
from candle_tf.stages.trained_student import load_trained_student
from candle_tf.students.settings import StudentSettings
from candle_tf.teachers.backbones import load_teacher
from candle_tf.teachers.registry import TEACHERS
from tests.stages.tiny_run import TINY_RUN

SETTINGS = {
    **TINY_RUN,
    "calibration_resolutions": (16,),
    "calibration_epochs": 20,
    "export_teacher": "off",
}


def configure(run_dir: Path, **settings: object) -> Config:
    return Config(**{**SETTINGS, "run_dir": str(run_dir), **settings})


@pytest.fixture
def tiny_plugin():
    import tests.tiny_parts  # noqa: F401


def tiny_teacher(*arguments):
    from tests import tiny_parts

    return tiny_parts.tiny_teacher(*arguments)


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """The folder of a finished run of a float network."""
    folder = tmp_path_factory.mktemp("earlier") / "run"
    network = {"student": "float_resnet18", "learning_rate": 1e-3, "batch_size": 32}
    run(configure(folder, method="cross_entropy", epochs=2, export_student="off", **network))
    return folder


def test_its_features_are_those_of_the_trained_network(earlier):
    teacher = load_teacher(f"run:{earlier}")
    network = load_trained_student(earlier, 2)
    pixels = np.random.default_rng(0).uniform(0, 255, (3, 16, 16, 3)).astype(np.float32)
    expected = network(pixels, training=False)["features"].numpy()
    assert expected.std() > 0
    np.testing.assert_allclose(teacher.features(pixels), expected, rtol=1e-5, atol=1e-5)
    # Other sizes are resized to that of its training.
    twice = np.repeat(np.repeat(pixels, 2, axis=1), 2, axis=2)
    resized = tf.image.resize(twice, (16, 16), antialias=True).numpy()
    expected = network(resized, training=False)["features"].numpy()
    np.testing.assert_allclose(teacher.features(twice), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("tiny_plugin")
def test_a_student_learns_from_it(earlier, tmp_path):
    config = configure(tmp_path / "run", student="tiny_student", teacher=f"run:{earlier}", epochs=1)
    _, results = run(config)
    assert {"student", "teacher"} <= set(results.metrics)
    # The same split; its calibrated classifier knows what the network has learned.
    before = read_image_predictions(earlier / TEST)
    after = read_image_predictions(tmp_path / "run" / TEST)
    assert before.images == after.images
    assert results.metrics["teacher"].mean > 0.3
    assert (tmp_path / "run" / "export" / "student.lce.tflite").exists()


@pytest.fixture(scope="module")
def encoder(earlier):
    return load_teacher(f"run:{earlier}").encoder


@pytest.mark.parametrize("side", [16, 24, 12])
def test_its_int8_file_takes_images_of_any_size(encoder, side):
    rng = np.random.default_rng(0)
    # Images of different brightness, so that features differ.
    images = (
        rng.integers(0, 256, (40, side, side, 3)) * np.linspace(0.05, 1, 40)[:, None, None, None]
    )
    images = images.astype(np.uint8)
    classifier = teacher_classifier(encoder.output_shape[-1], 5, weight_scaling=False, seed=0)
    kernel = classifier.get_layer("classifier").kernel
    kernel.assign(rng.normal(0, 3, kernel.shape))
    # The network on what is resized before.
    small = tf.image.resize(images, (16, 16), antialias=True)
    expected = classifier(encoder(small))["logits"].numpy()
    found = run_litert(convert_teacher(encoder, classifier, images), images)
    assert np.abs(found - expected).max() < 0.1 * np.ptp(expected)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.98


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher_layers": 2}, "--teacher_layers=2 contradicts --teacher=run:.*=1"),
        ({"map_weight": 0.25, "teacher_view": "same"}, "--map_weight=0.25 contradicts.*=0"),
    ],
)
def test_layers_before_the_last_are_refused_before_anything_is_computed(
    earlier, tmp_path, settings, message
):
    config = configure(tmp_path / "run", teacher=f"run:{earlier}", **settings)
    with pytest.raises(UserError, match=message):
        run(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("tiny_plugin")
def test_a_run_is_not_resumed_with_other_weights_of_its_teacher(tmp_path, monkeypatch):
    config = configure(
        tmp_path, student="tiny_student", teacher="tiny_teacher", epochs=1, calibration_epochs=2,
        export_student="off",
    )  # fmt: skip
    folder, _ = run(config)
    weights = folder.manifest()["teacher"]

    def with_other_weights(*arguments):
        backbone = tiny_teacher(*arguments)
        backbone.model.set_weights([each + 0.01 for each in backbone.model.get_weights()])
        return backbone

    with monkeypatch.context() as patch:
        patch.setitem(TEACHERS._targets, "tiny_teacher", with_other_weights)
        with pytest.raises(UserError, match=r"tiny_teacher has other weights than when .* begun"):
            run(config.replace(epochs=2))
    assert folder.manifest()["teacher"] == weights
    run(config.replace(epochs=2))
    assert folder.manifest()["teacher"] == weights


def made_run(
    folder: Path, earlier: Path, scores: list[float], classes: int = 10, **settings: object
) -> list:
    """A run of a tiny student with these validation accuracies, which is not reported.

    Returns:
        Its student's weights at each epoch.
    """
    config = configure(folder, student="tiny_student", method="cross_entropy", **settings)
    folder.mkdir()
    config.to_json(folder / "config.json")
    shutil.copy(earlier / "split.json", folder)
    trainer = tf.Module()
    trainer.network = config.student.build(classes)
    checkpoints = Checkpoints(folder / "student" / "checkpoints", trainer)
    weights = []
    for number, score in enumerate(scores):
        trainer.network.set_weights([each + number for each in trainer.network.get_weights()])
        checkpoints.save({"epoch": number + 1, SCORE: score})
        weights.append(trainer.network.get_weights())
    return weights


def report_of(folder: Path, earlier: Path, selected: int, last: int) -> None:
    content = json.loads((earlier / "report.json").read_text())
    content.update(selected_epoch=selected, last_epoch=last)
    (folder / "report.json").write_text(json.dumps(content))


@pytest.mark.usefixtures("tiny_plugin")
@pytest.mark.parametrize(
    ("scores", "policy", "report", "epoch"),
    [
        # As the run says that it selected.
        ([0.9, 0.1], "auto", (2, 2), 2),
        ([0.1, 0.9, 0.8], "last", (2, 3), 2),
        # As it would select: on few images the last is as good as one a little above it.
        ([0.52, 0.5], "auto", None, 2),
        ([0.9, 0.1], "auto", None, 1),
        ([0.9, 0.1], "last", None, 2),
        ([0.52, 0.5], "best", None, 1),
        # It was continued after its report.
        ([0.9, 0.1], "last", (1, 1), 2),
    ],
)
def test_the_epoch_of_a_run_is_the_one_that_it_selected(
    earlier, tmp_path, scores, policy, report, epoch
):
    folder = tmp_path / "run"
    weights = made_run(folder, earlier, scores, select_epoch=policy)
    if report:
        report_of(folder, earlier, *report)
    student = StudentSettings(
        student="tiny_student", width=TINY_RUN["width"], stem_stride=1, image_size=16,
        student_weights=str(folder),
    )  # fmt: skip
    found = starting_weights(student).network.get_weights()
    for one, other in zip(found, weights[epoch - 1], strict=True):
        np.testing.assert_array_equal(one, other)
    # Without the classifier.
    teacher = load_teacher(f"run:{folder}").encoder.get_weights()
    for one, other in zip(teacher, weights[epoch - 1][:-2], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.usefixtures("tiny_plugin")
def test_a_pretraining_begins_from_its_best_epoch(earlier, tmp_path):
    weights = made_run(tmp_path / "run", earlier, [0.52, 0.5], classes=2)
    (tmp_path / "run" / "split.json").unlink()
    found = EarlierRun(tmp_path / "run", "it").load_network().get_weights()
    for one, other in zip(found, weights[0], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.usefixtures("tiny_plugin")
def test_a_run_resumes_with_the_epoch_of_its_teacher_that_it_was_begun_with(earlier, tmp_path):
    """As of an older version, which took the best one."""
    teacher = tmp_path / "teacher"
    made_run(teacher, earlier, [0.9, 0.1], select_epoch="best")
    config = configure(
        tmp_path / "run", student="tiny_student", teacher=f"run:{teacher}", epochs=1,
        calibration_epochs=2, export_student="off",
    )  # fmt: skip
    folder, _ = run(config)
    weights = folder.manifest()["teacher"]
    report_of(teacher, earlier, 2, 2)
    assert load_teacher(f"run:{teacher}").fingerprint != weights
    _, results = run(config.replace(epochs=2))
    assert results.last_epoch == 2
    assert folder.manifest()["teacher"] == weights

    shutil.rmtree(teacher / "student")
    shutil.rmtree(tmp_path / "run" / "cache")
    made_run(tmp_path / "other", earlier, [0.9, 0.1, 0.2])
    shutil.copytree(tmp_path / "other" / "student", teacher / "student")
    with pytest.raises(UserError, match=r"--teacher=run:.* has other weights than when .* begun"):
        run(config.replace(epochs=3))


def test_what_learned_from_the_test_images_is_refused(earlier, tmp_path):
    other = {"seed": 1, "student": "float_resnet18", "epochs": 1}
    with pytest.raises(UserError, match=r"run:.* learned from \d+ of the \d+ test images") as told:
        run(configure(tmp_path / "taught", teacher=f"run:{earlier}", **other))
    assert "--seed (there 0)" in str(told.value)
    with pytest.raises(UserError, match=r"--student_weights=.* learned from"):
        run(
            configure(
                tmp_path / "started", method="cross_entropy", student_weights=str(earlier), **other
            )
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher": "run:{empty}"}, "--teacher=run:.* is no folder of a run"),
        ({"teacher": "run:{earlier}", "teacher_weights": "x.h5"}, "has weights of its own"),
        ({"student_weights": "{empty}"}, "--student_weights=.* is no folder of a run"),
        ({"student_weights": "{empty}/none.h5"}, "none.h5"),
    ],
)
def test_what_cannot_be_loaded_is_refused_before_anything_is_written(
    earlier, tmp_path, settings, message
):
    empty = tmp_path / "empty"
    empty.mkdir()
    given = {name: text.format(earlier=earlier, empty=empty) for name, text in settings.items()}
    with pytest.raises(UserError, match=message):
        run(configure(tmp_path / "run", epochs=1, **given))
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_finished_epoch_is_refused(earlier, tmp_path):
    begun = tmp_path / "begun"
    begun.mkdir()
    for name in ("config.json", "split.json"):
        (begun / name).write_bytes((earlier / name).read_bytes())
    with pytest.raises(UserError, match="no epoch of its student is finished yet"):
        load_teacher(f"run:{begun}")


def test_ids_of_other_images_mean_nothing(earlier):
    run_before = EarlierRun(earlier, "--teacher=run:earlier")
    split = run_before.split
    swapped = replace(
        split,
        test=split.train,
        train=LabelledImages(split.test.ids, split.test.labels),
        train_counts=np.bincount(
            np.concatenate([split.test.labels, split.validation.labels]),
            minlength=len(split.class_names),
        ),
    )
    with pytest.raises(UserError, match="learned from"):
        run_before.refuse_seen_images(swapped)
    run_before.refuse_seen_images(replace(swapped, source_hash="0" * 64))
