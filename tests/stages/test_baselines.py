"""Published methods through the student's stage: second stages, adjustments, distillation."""

import json
import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.config import Config
from candle_tf.data.augment.precomputed_views import same_for_all
from candle_tf.errors import UserError
from candle_tf.methods.calibration import teacher_classifier
from candle_tf.methods.long_tail.tau_normalization import TAUS
from candle_tf.metrics import SCORE
from candle_tf.run_folder import open_run_folder
from candle_tf.stages import report
from candle_tf.stages import train as training
from candle_tf.stages.baselines import build_baseline_trainer
from candle_tf.stages.calibrate import Calibrated
from candle_tf.stages.distillation import has_trained_classifier, refuse_untrained_classifier
from candle_tf.stages.earlier_run import EarlierRun
from candle_tf.stages.evaluate import logits_of
from candle_tf.stages.prepare import prepare
from candle_tf.stages.run import run
from candle_tf.students.compute_policy import resolve_compute_policy
from candle_tf.teachers.targets import CachedTargets
from tests.stages.test_train import _config, _train, one_block_student  # noqa: F401
from tests.stages.tiny_run import TINY_RUN

EPOCHS = 5


def configure(run_dir, method: str, **settings) -> Config:
    return _config(run_dir).replace(**{**settings, "method": method, "epochs": 1})


def layer_weights(layer) -> list[np.ndarray]:
    return [weight.numpy() for weight in layer.weights]


def test_a_second_stage_trains_the_classifier_of_the_first_stages_student(tmp_path):
    config = configure(tmp_path, "crt", classifier_epochs=2, mix="mixup")
    trained = _train(config)
    trained.checkpoints.restore_selected("last")
    for name, epochs in (("student_stage1", 1), ("student", 2)):
        record = tmp_path / name / "checkpoints" / "progress.json"
        assert len(json.loads(record.read_text())["history"]) == epochs
    first = _first_stage(config)
    for one, other in zip(first.layers, trained.student.layers, strict=True):
        pairs = zip(layer_weights(one), layer_weights(other), strict=True)
        same = all(np.array_equal(before, after) for before, after in pairs)
        assert same == (one.name != "logits"), one.name

    again = _train(config)
    again.checkpoints.restore_selected("last")
    for one, other in zip(again.student.weights, trained.student.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def _first_stage(config: Config):
    """The first stage's student, read back from its folder."""
    folder = open_run_folder(config)
    policy = resolve_compute_policy(config.compute.precision, config.compute.xla)
    first = training.train_student(
        config.replace(method="cross_entropy"), prepare(config, folder), None,
        folder.path / "student_stage1", policy,
    )  # fmt: skip
    first.checkpoints.restore_selected("best")
    return first.student


def test_a_classifier_is_adjusted_once_at_every_restore(tmp_path):
    config = configure(tmp_path / "post_hoc", "post_hoc_logit_adjustment", method_tau=2.0)
    student, checkpoints = _restore(_train(config))
    data = prepare(config, open_run_folder(config))
    raw = EarlierRun(tmp_path / "post_hoc", "--student_weights").load_network()
    prior = data.counts / data.counts.sum()
    pixels = np.random.default_rng(0).uniform(0, 255, (9, 16, 16, 3)).astype(np.float32)
    for _ in range(2):
        difference = logits_of(student, pixels) - logits_of(raw, pixels)
        expected = np.tile(-2.0 * np.log(prior), (9, 1))
        np.testing.assert_allclose(difference, expected, rtol=1e-4, atol=1e-4)
        checkpoints.restore(1)

    # The same training by another method, which chooses its tau on the validation subset.
    shutil.copytree(tmp_path / "post_hoc" / "student", tmp_path / "tau" / "student")
    shutil.copy(tmp_path / "post_hoc" / "split.json", tmp_path / "tau")
    other = configure(tmp_path / "tau", "tau_normalization")
    other.to_json(tmp_path / "tau" / "config.json")
    student, _ = _restore(_train(other))
    kernel, bias = layer_weights(student.get_layer("logits"))
    assert (bias == 0).all()
    norms = np.linalg.norm(kernel, axis=0)
    before = np.linalg.norm(raw.get_layer("logits").kernel.numpy(), axis=0)
    tau = 1 - np.log(norms) / np.log(before)
    np.testing.assert_allclose(tau, tau[0], atol=1e-3)
    assert min(abs(tau[0] - choice) for choice in TAUS) < 1e-3


def test_the_scale_of_a_runs_cosines_reaches_its_validation(tmp_path):
    config = configure(tmp_path, "ldam_drw", ldam_scale=7.0)
    data = prepare(config, open_run_folder(config))
    student = config.student.build(data.classes)
    trainer = build_baseline_trainer(config, data, student, steps=3, xla=False)
    pixels = np.random.default_rng(0).uniform(0, 255, (9, 16, 16, 3)).astype(np.float32)
    outputs = student(pixels, training=False)
    features, kernel = outputs["features"].numpy(), student.get_layer("logits").kernel.numpy()
    lengths = np.linalg.norm(features, axis=1)[:, None] * np.linalg.norm(kernel, axis=0)
    expected = 7.0 * features @ kernel / lengths
    np.testing.assert_allclose(trainer(pixels).numpy(), expected, rtol=1e-3, atol=1e-4)


def _restore(trained):
    trained.checkpoints.restore_selected("last")
    return trained.student, trained.checkpoints


def made_targets(data) -> CachedTargets:
    """Features and logits of no teacher: what is learned does not matter here."""
    rng = np.random.default_rng(0)
    size = len(data.train)
    return CachedTargets(
        rng.normal(size=(size, 4)).astype(np.float16),
        rng.normal(size=(size, data.classes)).astype(np.float16),
        same_for_all(size),
    )


def test_a_teachers_logits_reach_a_student_that_distils_them(tmp_path):
    config = configure(tmp_path, "ltkd")
    folder = open_run_folder(config)
    data = prepare(config, folder)
    targets = made_targets(data)
    policy = resolve_compute_policy(config.compute.precision, config.compute.xla)
    trained = training.train_student(config, data, targets, folder.path / "student", policy)
    row = trained.checkpoints.history[-1]
    assert config.training.distils
    assert row["objective"] == pytest.approx(0.5 * row["label"] + 0.5 * row["kl"], rel=1e-4)


def test_features_alone_leave_the_classifier_to_the_second_stage(tmp_path):
    config = configure(
        tmp_path,
        "candle_crt",
        balance="fixed",
        fixed_lambda=0.0,
        classifier_epochs=1,
        label_weight="0",
    )
    folder = open_run_folder(config)
    data = prepare(config, folder)
    policy = resolve_compute_policy(config.compute.precision, config.compute.xla)
    targets = made_targets(data)
    trained = training.train_student(config, data, targets, folder.path / "student", policy)
    assert config.training.distils
    record = tmp_path / "student_stage1" / "checkpoints" / "progress.json"
    (row,) = json.loads(record.read_text())["history"]
    assert row["objective"] == pytest.approx(row["fs"], rel=1e-5)
    (row,) = trained.checkpoints.history
    assert "fs" not in row
    assert trained.first_stage is not None
    assert "fs" in trained.first_stage.history[-1]


def test_the_reported_label_weight_is_that_of_the_stage_with_labels_beside_a_teacher(tmp_path):
    config = configure(tmp_path, "candle_crt", label_weight="adaptive", validation_fraction=0.2)
    rows = {"student_stage1": {"label_weight": 0.46}, "student": {"objective": 1.0}}
    for name, last in rows.items():
        folder = tmp_path / name / "checkpoints"
        folder.mkdir(parents=True)
        progress = {"history": [{"label_weight": 0.12}, last], "files": {"2": {}}}
        (folder / "progress.json").write_text(json.dumps(progress))
    first, second = (
        training.Checkpoints(tmp_path / name / "checkpoints", tf.Module()) for name in rows
    )
    policy = resolve_compute_policy("float32", "off")
    student = tf.keras.Sequential()
    stage = (config, SimpleNamespace(classes=10), SimpleNamespace(accuracy=0.5))
    for trained in (
        training.Trained(student, second, policy, first),
        training.Trained(student, first, policy),
    ):
        assert report._label_weight(*stage, trained) == 0.46


def test_an_epoch_is_not_chosen_by_a_classifier_that_nothing_trains(tmp_path):
    config = configure(
        tmp_path, "candle_crt", balance="fixed", fixed_lambda=0.0, label_weight="0",
        feature_loss="r2", classifier_epochs=1, select_epoch="best", learning_rate=0.03, seed=1,
    ).replace(epochs=EPOCHS, batch_size=16)  # fmt: skip
    folder = open_run_folder(config)
    data = prepare(config, folder)
    policy = resolve_compute_policy(config.compute.precision, config.compute.xla)
    stage = (data, made_targets(data))
    trained = training.train_student(config, *stage, folder.path / "student", policy)
    trained.checkpoints.restore_selected("last")
    first = training.train_student(
        config.replace(method="candle"), *stage, folder.path / "student_stage1", policy
    )
    scores = [row[SCORE] for row in first.checkpoints.history]
    assert first.checkpoints.best_epoch < EPOCHS, scores
    for selected in ("best", "last"):
        first.checkpoints.restore_selected(selected)
        weights = [layer_weights(each.get_layer("stem_conv"))[0]
                   for each in (first.student, trained.student)]  # fmt: skip
        assert np.array_equal(*weights) == (selected == "last")


def test_another_selected_epoch_leaves_the_network_that_a_second_stage_was_trained_on(tmp_path):
    """Of a first stage whose second epoch is made up, and the worst."""
    config = configure(tmp_path, "crt", classifier_epochs=1, select_epoch="best")
    trained = _train(config)
    trained.checkpoints.restore_selected("last")
    before, first = trained.student.get_weights(), trained.first_stage
    first.restore(1)
    trained.student.set_weights([each + 1.0 for each in before])
    first.save({**first.history[-1], "epoch": 2, SCORE: 0.0})

    config = config.replace(epochs=2)
    config.to_json(tmp_path / "config.json")
    again = _train(config.replace(select_epoch="last"))
    again.checkpoints.restore_selected("last")
    for one, other in zip(again.student.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("settings", "accuracy", "expected"),
    [
        ({"label_weight": "0"}, 0.5, False),
        ({"label_weight": "auto"}, 1.0, False),
        ({"label_weight": "auto"}, None, False),
        ({"label_weight": "auto"}, 0.5, True),
        ({"label_weight": "0.3"}, 1.0, True),
        ({"label_weight": "0", "fixed_lambda": 0.5}, 1.0, True),
        ({"label_weight": "0", "balance": "plain"}, 1.0, True),
        # It is the teacher's, after what the student's features are projected to.
        ({"label_weight": "0", "student_head": "tied", "feature_loss": "r2"}, 1.0, True),
        ({"label_weight": "0", "method": "cross_entropy"}, 1.0, True),
    ],
    ids=str,
)
def test_what_gives_a_student_a_classifier_to_choose_an_epoch_by(
    tmp_path, settings, accuracy, expected
):
    config = configure(tmp_path, "candle", balance="fixed", fixed_lambda=0.0)
    config = config.replace(**settings)
    data = prepare(config, open_run_folder(config))
    targets = made_targets(data)
    calibrated = Calibrated(
        None, teacher_classifier(4, data.classes), targets, np.zeros((1, data.classes)), accuracy
    )
    assert has_trained_classifier(config, data, calibrated) == expected
    with nullcontext() if expected else pytest.raises(UserError, match="--method=candle_crt"):
        refuse_untrained_classifier(config, data, calibrated)


def test_a_run_whose_classifier_nothing_would_train_ends_before_the_student(tmp_path):
    """With one image of each class nothing tells what --label_weight=auto is."""
    import tests.tiny_parts  # noqa: F401

    config = Config(
        **{**TINY_RUN, "profile": "counts"}, class_counts=",".join("1" * 10), epochs=1,
        student="tiny_student", teacher="tiny_teacher", validation_fraction=0.0,
        select_epoch="last", calibration_epochs=1, calibration_resolutions=(32,),
        balance="schedule", first_lambda=0.0, last_lambda=0.0, run_dir=str(tmp_path),
    )  # fmt: skip
    told = "--label_weight=auto is 0 here, as the teacher's accuracy is not known, and"
    with pytest.raises(UserError, match=told):
        run(config)
    assert (tmp_path / "calibrate" / "checkpoints" / "progress.json").exists()
    assert not (tmp_path / "student").exists()
