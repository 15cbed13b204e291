"""The Keras model of a finished run computes what the run measured and exported."""

import candle_tf  # isort: skip  (selects Keras 2 before TensorFlow is imported)
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from candle_tf.config import Config
from candle_tf.data.sources.registry import open_source
from candle_tf.errors import UserError
from candle_tf.methods.classifier_file import read_classifier, write_classifier
from candle_tf.methods.method import Classifier
from candle_tf.metrics import SCORE
from candle_tf.reporting.image_predictions import TEST, read_image_predictions
from candle_tf.stages.earlier_run import EarlierRun
from candle_tf.stages.prepare import prepare
from candle_tf.stages.run import run
from candle_tf.stages.train import train_student
from candle_tf.stages.trained_student import load_trained_student
from candle_tf.students.compute_policy import ComputePolicy
from tests.stages.tiny_run import TINY_RUN

SETTINGS = {**TINY_RUN, "student": "tiny_student", "epochs": 2}
METHODS = {
    "ldam_drw": {},
    "mislas": {"classifier_epochs": 2, "classifier_learning_rate": 0.1},
    "candle": {
        "prior_correction": "1",
        "teacher": "tiny_teacher",
        "calibration_resolutions": (16,),
        "calibration_epochs": 2,
        "export_teacher": "off",
    },
}


@pytest.fixture
def tiny_plugin():
    import tests.tiny_parts  # noqa: F401


@pytest.mark.usefixtures("tiny_plugin")
@pytest.mark.parametrize("method", METHODS)
def test_its_classifier_is_the_one_that_was_adjusted_after_training(method, tmp_path):
    config = Config(**SETTINGS, **METHODS[method], method=method, run_dir=str(tmp_path))
    if method == "candle":
        # A finished run is corrected without being trained once more.
        _, before = run(config.replace(prior_correction="0", export_student="off"))
        assert before.prior_correction == 0
        history = (tmp_path / "student" / "history.csv").read_bytes()
    run(config)
    if method == "candle":
        assert (tmp_path / "student" / "history.csv").read_bytes() == history
    model = candle_tf.load(tmp_path, "float")
    weight = model.results.label_weight
    assert (weight is None) if method != "candle" else (0 < weight <= 1)
    assert model.results.prior_correction == (1 if method == "candle" else None)
    measured = read_image_predictions(tmp_path / TEST)
    with open_source("digits") as digits:
        images = [digits.read_image(image) for image in measured.images]
    pixels = np.stack([model.student.preprocess(image) for image in images])

    logits = model.keras_model(pixels.astype(np.float32))["logits"].numpy()
    assert classes_of(logits, model) == measured.predicted["student"]
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    differences = np.abs(probabilities - model.student.scores_of(pixels)).max(axis=1)
    # The file rounds otherwise. Where that flips a sign, the whole image's outputs change a little.
    assert np.quantile(differences, 0.99) < 1e-5
    assert differences.max() < 0.1
    # As trained, it has other ones.
    trained = EarlierRun(tmp_path, "the run").load_network(epoch=model.results.selected_epoch)
    before = trained(pixels.astype(np.float32))["logits"].numpy()
    assert np.median(np.abs(before - logits).max(axis=1)) > 1e-2

    if method == "candle":
        _check_other_correction(config, trained, pixels)

    # Another epoch's classifier is not taken for this one's, and none is made up.
    path = tmp_path / "student" / "classifier.safetensors"
    other = 3 - model.results.selected_epoch
    for spoil in (lambda: write_classifier(path, other, any_classifier()), path.unlink):
        spoil()
        with pytest.raises(UserError, match=r"classifier\.safetensors.* same command again"):
            load_trained_student(tmp_path, model.results.selected_epoch)


def _check_other_correction(config: Config, trained: Any, pixels: np.ndarray) -> None:
    """Settings are written before results: those of the report count until it is written again."""
    folder = Path(config.run.run_dir)
    uncorrected = config.replace(prior_correction="0")
    uncorrected.to_json(folder / "config.json")
    epoch = candle_tf.load(folder, "float").results.selected_epoch
    before = load_trained_student(folder, epoch)(pixels.astype(np.float32))["logits"].numpy()
    as_trained = trained(pixels.astype(np.float32))["logits"].numpy()
    assert np.median(np.abs(before - as_trained).max(axis=1)) > 1e-2
    run(uncorrected)
    assert not (folder / "student" / "classifier.safetensors").exists()
    after = candle_tf.load(folder, "float").keras_model(pixels.astype(np.float32))["logits"]
    np.testing.assert_allclose(after, as_trained, atol=1e-4)
    run(config)


def classes_of(logits: np.ndarray, model: candle_tf.Model) -> tuple[str, ...]:
    return tuple(np.array(model.labels)[logits.argmax(axis=1)])


def any_classifier(classes: int = 3) -> Classifier:
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(4, classes)).astype(np.float32)
    return Classifier(kernel, rng.normal(size=classes).astype(np.float32))


@pytest.mark.usefixtures("tiny_plugin")
def test_an_epoch_whose_checkpoint_a_continued_run_dropped_is_refused(tmp_path):
    """The report is of epoch 25, and training has come to epoch 30."""
    Config(**SETTINGS, run_dir=str(tmp_path)).to_json(tmp_path / "config.json")
    checkpoints = tmp_path / "student" / "checkpoints"
    checkpoints.mkdir(parents=True)
    history = [{SCORE: epoch / 100} for epoch in range(30)]
    progress = {"history": history, "files": {"29": {}, "30": {}}}
    (checkpoints / "progress.json").write_text(json.dumps(progress))
    results: Any = SimpleNamespace(selected_epoch=25)
    student: Any = None
    model = candle_tf.Model(student, results, tmp_path)
    told = r"no checkpoint of epoch 25.* was continued .*30 epochs .*Finish it by the same command"
    with pytest.raises(UserError, match=told):
        model.keras_model  # noqa: B018


def test_a_stored_classifier_is_read_as_it_was_written(tmp_path):
    path, written = tmp_path / "student" / "classifier.safetensors", any_classifier()
    write_classifier(path, 7, written)
    epoch, read = read_classifier(path)
    assert epoch == 7
    np.testing.assert_array_equal(read.kernel, written.kernel)
    np.testing.assert_array_equal(read.bias, written.bias)


def test_a_damaged_classifier_is_refused(tmp_path):
    path = tmp_path / "classifier.safetensors"
    write_classifier(path, 7, any_classifier())
    sound = path.read_bytes()
    for place in range(0, len(sound), 3):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 4]) + sound[place + 1 :])
        with pytest.raises(UserError, match=r"damaged.* same command again"):
            read_classifier(path)
    path.write_bytes(sound[:-4])
    with pytest.raises(UserError, match="damaged"):
        read_classifier(path)


@pytest.mark.usefixtures("tiny_plugin")
def test_another_epoch_of_a_finished_run_is_selected_without_training(tmp_path):
    """The second epoch is made up: the first one's student, whose classifier is the other way."""
    config = Config(
        **{**SETTINGS, "epochs": 1}, method="cross_entropy", export_student="off",
        select_epoch="best", run_dir=str(tmp_path),
    )  # fmt: skip
    folder, first = run(config)
    data, policy = prepare(config, folder), ComputePolicy()
    trained = train_student(config, data, None, tmp_path / "student", policy)
    classifier = trained.student.get_layer("logits")
    classifier.set_weights([-each for each in classifier.get_weights()])
    trained.checkpoints.save({**trained.checkpoints.history[-1], "epoch": 2, SCORE: 0.0})
    config = config.replace(epochs=2)
    config.to_json(tmp_path / "config.json")
    progress = (tmp_path / "student" / "checkpoints" / "progress.json").read_bytes()

    pixels = np.random.default_rng(0).uniform(0, 255, (4, 16, 16, 3)).astype(np.float32)
    # What another run would begin from.
    before = EarlierRun(tmp_path, "it").load_network(epoch=1)(pixels)["logits"].numpy()
    _, results = run(config.replace(select_epoch="last"))
    after = EarlierRun(tmp_path, "it").load_network()(pixels)["logits"].numpy()
    assert (first.selected_epoch, results.selected_epoch) == (1, 2)
    np.testing.assert_allclose(after, -before, rtol=1e-5, atol=1e-6)
    assert results.metrics["student"] == results.metrics["student_last_epoch"]
    assert results.metrics["student"] != first.metrics["student"]
    assert (tmp_path / "student" / "checkpoints" / "progress.json").read_bytes() == progress
