"""Where the losses of an adversary that sees the class begin to count: another run's end."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from candle_tf.config import Config
from candle_tf.data.augment.settings import AugmentSettings
from candle_tf.errors import UserError
from candle_tf.stages.balance_floors import keep_balance_floors, read_balance_floors
from candle_tf.stages.split import draw_split, open_data
from candle_tf.stages.training_requirements import check_split_requirements


def reference_run(folder, steps="", **changes):
    """A finished run's files, as far as they are read."""
    settings = {"dataset": "digits", "balance": "fixed", "fixed_lambda": 0.5, **changes}
    (folder / "student").mkdir(parents=True, exist_ok=True)
    Config(run_dir=str(folder), **settings).to_json(folder / "config.json")
    (folder / "report.json").write_text("{}")
    (folder / "student" / "steps.csv").write_text(steps)
    return str(folder)


def adversarial(floors, **changes):
    return Config(dataset="digits", balance="class_adversarial", balance_floors=floors, **changes)


def table(kl, fs):
    rows = [f"{step},{a},{b}" for step, (a, b) in enumerate(zip(kl, fs, strict=True), 1)]
    return "step,kl,fs\n" + "\n".join(rows) + "\n"


def test_floors_are_the_means_of_the_last_tenth_of_the_steps(tmp_path):
    rng = np.random.default_rng(0)
    kl, fs = rng.gamma(2, 1, 40), rng.gamma(2, 0.1, 40)
    found = read_balance_floors(adversarial(reference_run(tmp_path, table(kl, fs))))
    assert found == pytest.approx((kl[36:].mean(), fs[36:].mean()))
    assert read_balance_floors(Config(dataset="digits")) == (0.0, 0.0)


def end_first_epoch(run_dir):
    """Leaves what the first epoch of a training leaves."""
    path = Path(run_dir) / "student" / "checkpoints" / "progress.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"history": [{}]}')


def test_a_run_keeps_the_floors_that_it_began_with(tmp_path):
    reference = reference_run(tmp_path / "reference", table([3.0], [0.5]))
    config = adversarial(reference, run_dir=str(tmp_path / "run"))
    assert keep_balance_floors(config) == (3.0, 0.5)
    end_first_epoch(tmp_path / "run")
    reference_run(tmp_path / "reference", table([3.0, 1.0], [0.5, 0.1]))
    assert keep_balance_floors(config) == (3.0, 0.5)
    shutil.rmtree(reference)
    assert read_balance_floors(config) == (3.0, 0.5)


def begin(config):
    """Leaves what a student's training leaves after its first epoch."""
    config.to_json(Path(config.run.run_dir) / "config.json")
    floors = keep_balance_floors(config)
    end_first_epoch(config.run.run_dir)
    return floors


def test_floors_of_a_run_that_stopped_before_its_first_epoch_are_not_another_run_s(tmp_path):
    first = reference_run(tmp_path / "first", table([3.0], [0.5]))
    other = reference_run(tmp_path / "other", table([1.0], [0.1]))
    config = adversarial(first, run_dir=str(tmp_path / "run"))
    assert keep_balance_floors(config) == (3.0, 0.5)
    again = config.replace(balance_floors=other)
    assert read_balance_floors(again) == (1.0, 0.1)
    assert keep_balance_floors(again) == (1.0, 0.1)
    end_first_epoch(tmp_path / "run")
    assert read_balance_floors(again) == (1.0, 0.1)
    with pytest.raises(UserError, match="none is no finished run"):
        read_balance_floors(
            config.replace(balance_floors=str(tmp_path / "none"), run_dir=str(tmp_path / "new"))
        )


def test_a_run_is_not_resumed_with_another_runs_floors(tmp_path):
    first = reference_run(tmp_path / "first", table([3.0], [0.5]))
    other = reference_run(tmp_path / "other", table([1.0], [0.1]))
    (tmp_path / "run").mkdir()
    config = adversarial(first, run_dir=str(tmp_path / "run"))
    begin(config)
    with pytest.raises(UserError) as caught:
        read_balance_floors(config.replace(balance_floors=other))
    message = str(caught.value)
    assert f"--balance_floors was {first} and is now {other}" in message
    assert "3 and 0.5" in message
    assert "1 and 0.1" in message
    # Nothing is left of the attempt.
    assert read_balance_floors(config) == (3.0, 0.5)


def test_a_moved_reference_is_the_one_that_a_run_began_with(tmp_path):
    first = reference_run(tmp_path / "first", table([3.0, 0.7], [0.5, 0.3]))
    (tmp_path / "run").mkdir()
    config = adversarial(first, run_dir=str(tmp_path / "run"))
    kept = begin(config)
    moved = shutil.move(first, tmp_path / "moved")
    assert read_balance_floors(config.replace(balance_floors=str(moved))) == kept
    with pytest.raises(UserError, match="is no finished run"):
        read_balance_floors(config.replace(balance_floors=str(tmp_path / "none")))
    shutil.rmtree(moved)
    assert read_balance_floors(config) == kept


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"balance": "adversarial"}, "--balance=adversarial; give one of candle with"),
        ({"method": "cross_entropy"}, "--method=cross_entropy and"),
        ({"temperature": 4.0}, "has --temperature=4.0, and this run 2.0"),
        ({"teacher_layers": 2}, "has --teacher_layers=2, and this run 1"),
        ({"feature_loss": "r2"}, "has --feature_loss=r2, and this run cosine"),
    ],
)
def test_another_run_s_losses_are_no_floors(tmp_path, changes, message):
    run = reference_run(tmp_path, table([1.0], [0.5]), **changes)
    with pytest.raises(UserError, match=message):
        read_balance_floors(adversarial(run))


# Of each setting that decides what is seen, a value that is not the default, with what it needs.
OTHER_VIEWS = {
    "augmentation": "pad_crop",
    "color_jitter": 0.4,
    "randaugment_magnitude": 5.0,
    "randaugment_layers": 3,
    "mix": "mixup",
    "mix_alpha": 0.5,
    "mix_views": "half",
    "unmixed_from": 0.9,
    "crop_area": 0.08,
    "views": 8,
    "tail_views": 8,
    "teacher_mode": "online",
    "resize": "crop",
    "seed": 1,
    "calibration_sampler": "class_balanced",
    "calibration_epochs": 3,
    "calibration_batch_size": 32,
    "unlabelled_views": 6,
}
NEEDED = {
    "randaugment_layers": {"randaugment_magnitude": 5.0},
    "mix_alpha": {"mix": "mixup"},
    "mix_views": {"mix": "mixup"},
    "unmixed_from": {"mix": "mixup", "mix_views": "half"},
    "unlabelled_views": {"unlabelled_dir": "more"},
}


@pytest.mark.parametrize("name", OTHER_VIEWS)
def test_losses_on_other_views_are_no_floors(tmp_path, name):
    shared = {"teacher_view": "same", **NEEDED.get(name, {})}
    value = OTHER_VIEWS[name]
    run = reference_run(tmp_path, table([1.0], [0.5]), **shared, **{name: value})
    assert read_balance_floors(adversarial(run, **shared, **{name: value})) == (1.0, 0.5)
    with pytest.raises(UserError, match=f"has --{name}={value}, and this run"):
        read_balance_floors(adversarial(run, **shared))


def test_every_setting_of_the_views_is_compared():
    assert {field.name for field in dataclasses.fields(AugmentSettings)} <= set(OTHER_VIEWS)


def test_losses_of_another_split_are_no_floors(tmp_path):
    run = reference_run(tmp_path / "fixed", table([1.0], [0.5]))
    (tmp_path / "run").mkdir()
    config = adversarial(run, run_dir=str(tmp_path / "run"))
    with open_data(config) as source:
        split, other = (draw_split(each, source) for each in (config, config.replace(seed=1)))
    assert split.hash != other.hash
    report = Path(run) / "report.json"
    report.write_text(json.dumps({"split": {"hash": split.hash}}))
    check_split_requirements(config, split, replicas=1)
    for content in ({"split": {"hash": other.hash}}, {"split": []}, {}):
        report.write_text(json.dumps(content))
        with pytest.raises(UserError, match="has another split: its losses are of other images"):
            check_split_requirements(config, split, replicas=1)
    # What a run has begun with it keeps.
    begin(config)
    shutil.rmtree(run)
    check_split_requirements(config, split, replicas=1)


@pytest.mark.parametrize(
    "steps", ["", "step,kl\n1,2\n", table(["nan"], [1.0]), "step,kl,fs\n1,a,2\n"]
)
def test_damaged_steps_are_told_before_anything_is_computed(tmp_path, steps):
    with pytest.raises(UserError, match=r"steps.csv of its student does not end with"):
        read_balance_floors(adversarial(reference_run(tmp_path, steps)))


def test_what_is_no_finished_run_is_told(tmp_path):
    with pytest.raises(UserError, match=r"is no finished run: it has no config.json"):
        read_balance_floors(adversarial(str(tmp_path / "none")))
    run = reference_run(tmp_path, table([1.0], [0.5]))
    (tmp_path / "report.json").unlink()
    with pytest.raises(UserError, match=r"it has no report.json"):
        read_balance_floors(adversarial(run))


def test_floors_are_for_the_adversary_that_sees_the_class():
    with pytest.raises(UserError, match="contradicts --balance=relative"):
        Config(dataset="digits", balance="relative", balance_floors="runs/fixed")
