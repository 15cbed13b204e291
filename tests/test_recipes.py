"""--recipe: what is given wins over it, and a run's records hold what came of it."""

import json

import pytest
from absl import flags

from candle_tf import app
from candle_tf.config import Config
from candle_tf.data.catalog import settings_of
from candle_tf.errors import UserError
from candle_tf.recipes import RECIPES

# Of arXiv 2404.00285 and its authors' scripts; defaults may change, these may not.
PAPER = {
    "calibration_loss": "label_aware_smoothing", "calibration_sampler": "class_balanced",
    "calibration_resolutions": (128, 224, 480),
    "image_size": 224, "augmentation": "random_resized_crop_flip", "resize": "crop",
    "color_jitter": 0.4, "randaugment_magnitude": 0.0, "mix": "none", "teacher_view": "same",
    "method": "candle", "binary_steps": 1, "batch_size": 128, "optimizer": "adam",
    "sampler": "instance", "temperature": 2.0, "logit_loss": "kl", "feature_loss": "cosine",
    "center_features": False, "balance": "plain", "label_weight": "0", "prior_correction": "0",
    "student_head": "free", "combine_resolutions": "mean", "teacher_layers": 1,
    "map_weight": 0.0, "weight_average": 0.0, "progressive_sizes": "",
    "reestimate_batch_norm": False, "teacher_mode": "cached", "rate_decay": "cosine",
    "crop_area": 0.08, "views": 10,
    "warmup_fraction": 0.02, "clip_norm": 0.0, "weight_decay": 0.0, "clip_latent_weights": True,
}  # fmt: skip


def parse(*arguments: str) -> Config:
    values = flags.FlagValues()
    app.define_config_flags(values)
    values(["candle_tf.train", *arguments])
    return app.config_from_flags(values)


def test_the_papers_settings_stay_whatever_the_defaults_are():
    for config in (Config(recipe="paper"), parse("--recipe=paper")):
        assert {name: config[name] for name in PAPER} == PAPER
        others = set(Config.fields()) - set(PAPER) - {"recipe"}
        assert {name: config[name] for name in others} == {name: Config()[name] for name in others}
    assert set(RECIPES["paper"]) == set(PAPER)


def test_the_patient_recipe_shows_teacher_and_student_the_same_views_and_mixes_half():
    config = Config(recipe="patient", student_weights="pretrained", image_size=64, width=0.5)
    assert (config["teacher_view"], config["mix"], config["mix_views"]) == ("same", "mixup", "half")
    assert 0 < config["unmixed_from"] < 1
    others = set(Config.fields()) - set(RECIPES["patient"]) - {"recipe"}
    given = Config(student_weights="pretrained", image_size=64, width=0.5)
    assert {name: config[name] for name in others} == {name: given[name] for name in others}
    with pytest.raises(UserError, match="contradicts --teacher_view=whole"):
        parse("--recipe=patient", "--teacher_view=whole")


def test_the_default_recipe_changes_nothing():
    assert parse("--recipe=default") == parse() == Config()


def test_what_is_given_wins_also_where_it_is_the_default(tmp_path):
    flagfile = tmp_path / "run.cfg"
    flagfile.write_text("--batch_size=64\n")
    config = parse("--recipe=paper", "--center_features", f"--flagfile={flagfile}")
    assert (config["center_features"], config["batch_size"], config["balance"]) == (
        *(True, 64, "plain"),
    )
    assert Config(recipe="paper", batch_size=64)["batch_size"] == 64


def test_a_data_set_of_the_catalog_brings_its_own_smoothing_and_flags_win_over_both():
    own = settings_of("dtd")
    config = parse("--recipe=paper", "--dataset=dtd", "--image_size=64")
    assert (config["smoothing_tail"], config["balance"]) == (own["smoothing_tail"], "plain")
    assert config["image_size"] == 64


def test_a_record_holds_the_resolved_settings_and_is_read_back(tmp_path):
    config = Config(recipe="paper", epochs=7)
    config.to_json(tmp_path / "config.json")
    assert Config.from_json(tmp_path / "config.json") == config
    assert config.replace(epochs=8) == Config(recipe="paper", epochs=8)
    assert parse(f"--config={tmp_path / 'config.json'}") == config
    # A recipe that is given replaces its own settings of a record, and leaves the others.
    Config(epochs=7, batch_size=32, width=0.5).to_json(tmp_path / "config.json")
    again = parse(f"--config={tmp_path / 'config.json'}", "--recipe=paper")
    assert again == Config(recipe="paper", epochs=7, width=0.5)
    assert again == Config(epochs=7, batch_size=32, width=0.5).replace(recipe="paper")


def test_a_run_of_before_a_recipe_had_a_setting_has_the_value_that_it_had(tmp_path):
    path = tmp_path / "config.json"
    Config(recipe="paper", epochs=7, views=4).to_json(path)
    values = json.loads(path.read_text())
    del values["crop_area"]
    path.write_text(json.dumps(values))
    before = Config.from_json(path)
    assert (before.augment.crop_area, before.teacher.views) == (0.35, 4)
    # Where the recipe is given again, it brings what it has today.
    again = parse(f"--config={path}", "--recipe=paper")
    assert (again.augment.crop_area, again.teacher.views, again["epochs"]) == (0.08, 10, 7)


@pytest.mark.parametrize("name", sorted(set(PAPER)))
def test_all_of_them_are_settings(name):
    assert name in Config.fields()
