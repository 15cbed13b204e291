"""CANDLE's options in one training of the student's stage."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax

from candle_tf.config import Config
from candle_tf.data.augment.precomputed_views import same_for_all
from candle_tf.data.pipeline import evaluation_batches
from candle_tf.errors import UserError
from candle_tf.methods.calibration import teacher_classifier
from candle_tf.methods.distillation import DistillationTrainer
from candle_tf.methods.label_loss import adapted_label_weight, automatic_label_weight
from candle_tf.methods.trained_checkpoints import TrainedCheckpoints
from candle_tf.metrics import SCORE
from candle_tf.run_folder import open_run_folder
from candle_tf.stages import train as training
from candle_tf.stages.calibrate import Calibrated
from candle_tf.stages.prepare import prepare
from candle_tf.students.compute_policy import resolve_compute_policy
from candle_tf.teachers.targets import CachedTargets
from tests.stages.interrupt import interrupt
from tests.stages.test_baselines import configure, layer_weights
from tests.stages.test_train import one_block_student  # noqa: F401


def _teacher(data, seed: int = 0):
    """A calibrated teacher of invented features."""
    rng = np.random.default_rng(seed)
    size = len(data.train)
    classifier = teacher_classifier(4, data.classes, weight_scaling=False, seed=0)
    features = rng.normal(size=(size, 4)).astype(np.float16)
    logits = classifier(features.astype(np.float32))["logits"].numpy().astype(np.float16)
    targets = CachedTargets(features, logits, same_for_all(size))
    return Calibrated(None, classifier, targets, np.zeros((1, data.classes)), 0.55)


def prepare_stage(config):
    """The prepared split, and what `train_student` takes, with a teacher of invented features."""
    folder = open_run_folder(config)
    data = prepare(config, folder)
    teacher = _teacher(data)
    policy = resolve_compute_policy(config.compute.precision, config.compute.xla)
    return data, (config, data, teacher.targets, folder.path / "student", policy, teacher)


def test_a_student_with_all_options_resumes_and_holds_the_folded_classifier(tmp_path):
    """Class-conditional lambda, r2, labels, tied head and a deferred sampler in one training."""

    def train_run(name: str, epochs: int):
        config = configure(
            tmp_path / name, "candle", balance="class_adversarial", feature_loss="r2",
            student_head="tied", label_weight="auto", sampler="deferred_square_root",
            sampler_start=0.5, teacher_view="same", prior_correction="0.5",
            validation_fraction=0.3,
        ).replace(epochs=2)  # fmt: skip
        data, stage = prepare_stage(config)
        if epochs < 2:
            with interrupt(DistillationTrainer, "fold_head", call=epochs + 1):
                training.train_student(*stage)
        images = data.validation
        inputs.extend(evaluation_batches(images, image_size=config.student.image_size))
        return training.train_student(*stage)

    inputs: list[dict[str, tf.Tensor]] = []
    whole, resumed = train_run("whole", 2), train_run("resumed", 1)
    for run in (whole, resumed):
        run.checkpoints.restore_selected("last")
        row = run.checkpoints.history[-1]
        assert {"kl", "fs", "label", "lambda", "lambda_rare", "lambda_frequent"} <= set(row)
    for one, other in zip(whole.student.weights, resumed.student.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=one.name)
    kernel, bias = layer_weights(whole.student.get_layer("logits"))
    # The head has rank 4 and is frozen: so has the folded classifier.
    assert np.linalg.matrix_rank(kernel, tol=1e-4 * np.abs(kernel).max()) <= 4
    assert np.abs(bias).max() > 0

    # What training left, without the correction.
    TrainedCheckpoints.restore(whole.checkpoints, 2)
    labels = np.concatenate([batch["labels"] for batch in inputs])
    each = [whole.student(batch["inputs"], training=False)["logits"] for batch in inputs]
    predictions = softmax(np.concatenate(each).astype(np.float64), axis=1)
    mean = np.mean([predictions[labels == c].mean(axis=0) for c in range(10)], axis=0)
    _, trained = layer_weights(whole.student.get_layer("logits"))
    np.testing.assert_allclose(bias, trained - 0.5 * np.log(mean), rtol=1e-4, atol=1e-5)


def test_the_label_weight_adapts_to_the_student_and_is_resumed(tmp_path):
    def train_run(name: str, interrupted: bool):
        config = configure(
            tmp_path / name, "candle", label_weight="adaptive", teacher_view="same",
            validation_fraction=0.3,
        ).replace(epochs=3)  # fmt: skip
        _, stage = prepare_stage(config)
        if interrupted:
            with interrupt(DistillationTrainer, "evaluate", call=3):
                training.train_student(*stage)
        *_, teacher = stage
        return training.train_student(*stage), teacher.accuracy

    (whole, accuracy), (resumed, _) = train_run("whole", False), train_run("resumed", True)
    expected = automatic_label_weight(accuracy, 10)
    for row in whole.checkpoints.history:
        assert row["label_weight"] == pytest.approx(expected, rel=1e-5)
        expected = max(expected, adapted_label_weight(accuracy, row[SCORE], 10))
    for one, other in zip(whole.checkpoints.history, resumed.checkpoints.history, strict=True):
        same = ("label_weight", "objective", SCORE)
        assert [one[name] for name in same] == [other[name] for name in same]


def test_an_adaptive_label_weight_needs_validation_images():
    with pytest.raises(UserError, match="contradicts --validation_fraction=0"):
        Config(dataset="digits", label_weight="adaptive", validation_fraction=0.0)
