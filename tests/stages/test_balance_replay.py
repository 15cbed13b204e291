"""Lambda of another run in an adversary's place, in the student's stage."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from candle_tf.config import Config
from candle_tf.errors import UserError
from candle_tf.methods.distillation import DistillationTrainer
from candle_tf.reporting.csv_columns import read_columns
from candle_tf.stages import train as training
from candle_tf.stages.balance_replay import keep_balance_replay, read_balance_replay
from tests.stages.interrupt import interrupt
from tests.stages.test_balance_floors import end_first_epoch, reference_run
from tests.stages.test_baselines import configure
from tests.stages.test_candle_options import prepare_stage
from tests.stages.test_train import one_block_student  # noqa: F401

TABLE = "step,lambda\n1,0.25\n2,0.75\n"
OF_CLASSES = "step,lambda,lambda_rare,lambda_medium,lambda_frequent\n1,0.5,0.1,0.2,0.3\n"


def _config(replay, **changes):
    return Config(dataset="digits", balance_replay=str(replay), **changes)


def test_lambda_is_read_from_the_columns_of_the_balance(tmp_path):
    scalar = reference_run(tmp_path / "scalar", TABLE, balance="adversarial")
    np.testing.assert_array_equal(read_balance_replay(_config(scalar)), [[0.25], [0.75]])
    of_classes = reference_run(tmp_path / "classes", OF_CLASSES, balance="class_adversarial")
    found = read_balance_replay(_config(of_classes, balance="class_adversarial"))
    np.testing.assert_array_equal(found, [[0.1, 0.2, 0.3]])
    assert read_balance_replay(Config(dataset="digits")) is None


def test_a_run_keeps_the_lambda_that_it_began_with(tmp_path):
    reference = reference_run(tmp_path / "reference", TABLE, balance="adversarial")
    config = _config(reference, run_dir=str(tmp_path / "run"))
    kept = keep_balance_replay(config)
    config.to_json(tmp_path / "run" / "config.json")
    end_first_epoch(tmp_path / "run")
    moved = shutil.move(reference, tmp_path / "moved")
    np.testing.assert_array_equal(read_balance_replay(config), kept)
    again = config.replace(balance_replay=str(moved))
    np.testing.assert_array_equal(read_balance_replay(again), kept)

    other = reference_run(tmp_path / "other", "step,lambda\n1,0.5\n", balance="adversarial")
    with pytest.raises(UserError, match=f"was {reference} and is now {other}, which has another"):
        read_balance_replay(config.replace(balance_replay=other))
    (tmp_path / "run" / "student" / "balance_replay.csv").write_text("lambda\n2\n")
    with pytest.raises(UserError, match=r"balance_replay.csv is damaged. Restore it"):
        read_balance_replay(config)


def test_the_lambda_of_a_run_that_stopped_before_its_first_epoch_is_not_another_run_s(tmp_path):
    first = reference_run(tmp_path / "first", TABLE, balance="adversarial")
    other = reference_run(tmp_path / "other", "step,lambda\n1,0.5\n", balance="adversarial")
    config = _config(first, run_dir=str(tmp_path / "run"))
    keep_balance_replay(config)
    again = config.replace(balance_replay=other)
    np.testing.assert_array_equal(read_balance_replay(again), [[0.5]])
    np.testing.assert_array_equal(keep_balance_replay(again), [[0.5]])
    end_first_epoch(tmp_path / "run")
    np.testing.assert_array_equal(read_balance_replay(again), [[0.5]])


@pytest.mark.parametrize(
    ("steps", "changes", "message"),
    [
        (TABLE, {"balance": "relative"}, "its lambda is not that of --balance=adversarial"),
        (TABLE, {"method": "cross_entropy"}, "is a run of --method=cross_entropy"),
        (TABLE, {"binary_steps": 2}, "has two training phases"),
        ("", {}, "steps.csv does not have lambda, each from 0 to 1"),
        ("step,kl\n1,2\n", {}, "does not have lambda"),
        ("step,lambda\n1,nan\n", {}, "does not have lambda"),
        ("step,lambda\n1,1.5\n", {}, "does not have lambda"),
        # An open quote before more than csv reads as one field.
        ('step,lambda\n1,"' + "0" * 140_000, {}, "does not have lambda"),
    ],
)
def test_a_run_that_has_no_such_lambda_is_refused(tmp_path, steps, changes, message):
    run = reference_run(tmp_path, steps, **{"balance": "adversarial", **changes})
    with pytest.raises(UserError, match=message):
        read_balance_replay(_config(run))


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        ({"balance_closed_form": True}, {}, "has --balance_closed_form"),
        ({"balance_permute_sizes": True}, {}, "True and 0 there, False and 0 here"),
        ({}, {"balance_permute_sizes": True}, "False and 0 there, True and 0 here"),
        (
            {"balance_permute_sizes": True},
            {"balance_permute_sizes": True, "seed": 7},
            "True and 0 there, True and 7 here",
        ),
    ],
)
def test_a_lambda_of_other_classes_is_refused(tmp_path, before, now, message):
    run = reference_run(tmp_path, OF_CLASSES, balance="class_adversarial", **before)
    with pytest.raises(UserError, match=message):
        read_balance_replay(_config(run, balance="class_adversarial", **now))
    same = {name: value for name, value in before.items() if name != "balance_closed_form"}
    if same:
        assert read_balance_replay(_config(run, balance="class_adversarial", **same)) is not None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"balance_replay": "runs/a", "binary_steps": 2}, "contradicts --binary_steps=2"),
        ({"balance_replay": "runs/a"}, "--balance_replay contradicts --method=cross_entropy"),
        ({"balance_closed_form": True}, "--balance_closed_form contradicts --method=cross_entropy"),
        ({"balance_permute_sizes": True}, "--balance_permute_sizes contradicts --method="),
        ({"balance_floors": "runs/a"}, "--balance_floors contradicts --method=cross_entropy"),
    ],
)
def test_a_control_that_would_do_nothing_is_refused(settings, message):
    method = "candle" if "binary_steps" in settings else "cross_entropy"
    with pytest.raises(UserError, match=message):
        Config(dataset="digits", method=method, balance="class_adversarial", **settings)


def test_what_is_no_finished_run_is_told(tmp_path):
    with pytest.raises(UserError, match=r"--balance_replay=.*none is no finished run: it has no"):
        read_balance_replay(_config(tmp_path / "none"))


def _train(config, interrupted=None):
    _, stage = prepare_stage(config)
    if interrupted:
        with interrupt(DistillationTrainer, "evaluate", call=interrupted):
            training.train_student(*stage)
    trained = training.train_student(*stage)
    trained.checkpoints.restore_selected("last")
    return trained


def _losses(config):
    return read_columns(Path(config.run.run_dir) / "student" / "steps.csv")["kl"]


# Of classes lambda is recorded at three sizes, and nearly linear between them.
@pytest.mark.parametrize(
    ("balance", "tolerance"), [("adversarial", 1e-4), ("class_adversarial", 1e-3)]
)
def test_the_replay_of_an_adversary_is_its_training_without_the_adversary(
    tmp_path, balance, tolerance
):
    settings = {"label_weight": "0", "teacher_view": "same", "balance_entropy": 0.05,
                "balance": balance}  # fmt: skip
    first = configure(tmp_path / "first", "candle", **settings).replace(epochs=2)
    _train(first)
    (tmp_path / "first" / "report.json").write_text("{}")
    replay = first.replace(run_dir=str(tmp_path / "replay"), balance_replay=str(tmp_path / "first"))
    _train(replay, interrupted=2)
    np.testing.assert_allclose(_losses(replay), _losses(first), rtol=tolerance)
    fixed = first.replace(run_dir=str(tmp_path / "fixed"), balance="fixed", fixed_lambda=0.1)
    _train(fixed)
    assert np.abs(_losses(fixed) / _losses(first) - 1).max() > 10 * tolerance


def test_means_of_the_closed_form_are_resumed(tmp_path):
    settings = {"balance": "class_adversarial", "balance_closed_form": True}
    whole, resumed = (
        configure(tmp_path / name, "candle", teacher_view="same", **settings).replace(epochs=2)
        for name in ("whole", "resumed")
    )
    one, other = _train(whole), _train(resumed, interrupted=2)
    for a, b in zip(one.student.weights, other.student.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=a.name)
    steps = (Path(whole.run.run_dir) / "student" / "steps.csv").read_text()
    assert steps == (Path(resumed.run.run_dir) / "student" / "steps.csv").read_text()
