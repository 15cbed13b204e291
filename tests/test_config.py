import dataclasses
import fnmatch
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from absl import flags

import candle_tf
from candle_tf import app
from candle_tf.config import Config
from candle_tf.errors import UserError
from candle_tf.methods.method import DistillationMethod, TwoStageMethod
from candle_tf.methods.registry import (
    CANDLE,
    LOGIT_LOSSES,
    METHODS,
    WITH_LABEL_LOSS,
    WITH_SECOND_STAGE,
    WITH_TEACHER,
)
from candle_tf.recipes import RECIPES
from candle_tf.settings import as_flags
from candle_tf.stages.training_requirements import check_training_requirements
from candle_tf.students.architectures.registry import STUDENTS
from tools.tables.definition import read_definition
from tools.tables.records import cell_config_without_data

ROOT = Path(candle_tf.__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.cfg"))
TABLES = sorted((ROOT / "configs" / "tables").glob("*.json"))
FIELDS = Config.fields()
SMOOTHING = "calibration_loss=label_aware_smoothing or method=mislas"
REPLAY = "without balance_replay"
# What else must be set for a value to make sense.
COMPANIONS = {
    ("profile", "counts"): {"class_counts": "5,3"},
    ("validation_fraction", 0): {"select_epoch": "last"},
    ("teacher_mode", "online"): {"teacher_view": "same"},
    ("randaugment_layers", 1): {"randaugment_magnitude": 5.0},
    ("randaugment_layers", 14): {"randaugment_magnitude": 5.0},
    ("mix", "mixup"): {"teacher_view": "same"},
    ("mix_alpha", 1e-3): {"mix": "mixup", "teacher_view": "same"},
    ("mix_alpha", 1e3): {"mix": "cutmix", "method": "cross_entropy"},
    ("binary_learning_rate", 1e3): {"optimizer": "adam_sgd"},
    ("imbalance_factor", 1e9): {"profile": "step"},
    ("mix", "cutmix"): {"method": "cross_entropy"},
    ("mix_views", "half"): {"method": "cross_entropy", "mix": "cutmix"},
    ("unmixed_from", 0): {"method": "cross_entropy", "mix": "cutmix", "mix_views": "half"},
    ("student_head", "tied"): {"feature_loss": "r2"},
    ("map_weight", 1e3): {"teacher_view": "same"},
    ("tail_views", 10_000): {"teacher_view": "same"},
    ("unlabelled_views", 10_000): {"unlabelled_dir": "more", "teacher_view": "same"},
}


def bounds(name):
    return {
        kind: bound
        for kind, bound in FIELDS[name].metadata["bounds"].items()
        if math.isfinite(bound)
    }


def as_value(name, number):
    return (number,) if isinstance(FIELDS[name].default, tuple) else number


def outside(name):
    """Values just beyond each bound of a numeric setting."""
    is_float = isinstance(FIELDS[name].default, float)
    step = 0.25 if is_float else 1
    beyond = {"at_least": -step, "above": 0, "at_most": step, "below": 0}
    numbers = [bound + beyond[kind] for kind, bound in bounds(name).items()]
    return numbers + ([math.nan, math.inf, -math.inf] if is_float else [])


NUMERIC = [name for name, field in FIELDS.items() if not isinstance(field.default, str | bool)]
CHOICES = [name for name, field in FIELDS.items() if field.metadata["choices"]]


def refusal(**settings):
    with pytest.raises(UserError) as caught:
        Config(**settings)
    return str(caught.value)


def assert_one_sentence(message):
    assert "\n" not in message
    assert message.endswith(".")
    assert ". " not in message


def test_the_defaults_are_valid_and_documented():
    config = Config()
    # The profile follows from the data set.
    defaults = {name: field.default for name, field in FIELDS.items()}
    assert {name: config[name] for name in FIELDS} == defaults | {"profile": "exponential"}
    assert defaults["profile"] == "auto"
    for field in FIELDS.values():
        assert len(field.metadata["help"]) > 10
        assert type(field.default) in (bool, int, float, str, tuple)


def test_a_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().training.epochs = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().training.epochs = 3


@pytest.mark.parametrize("name", CHOICES)
def test_an_unknown_name_is_refused_with_the_known_ones(name):
    message = refusal(**{name: "no_such_thing"})
    assert f"--{name}=no_such_thing" in message
    for choice in FIELDS[name].metadata["choices"]:
        assert choice in message
    assert_one_sentence(message)


@pytest.mark.parametrize(
    ("name", "choice"), [(name, c) for name in CHOICES for c in FIELDS[name].metadata["choices"]]
)
def test_every_choice_is_accepted(name, choice):
    config = Config(**{name: choice, **COMPANIONS.get((name, choice), {})})
    resolved = {("profile", "auto"): "exponential"}  # of the digits
    assert config[name] == resolved.get((name, choice), choice)


@pytest.mark.parametrize(("name", "number"), [(n, v) for n in NUMERIC for v in outside(n)])
def test_a_number_out_of_range_is_refused_with_the_range(name, number):
    message = refusal(**{name: as_value(name, number)})
    assert f"--{name}={number} " in message
    for kind, bound in bounds(name).items():
        written = int(bound) if bound == int(bound) else bound
        assert f"{kind.replace('_', ' ')} {written}" in message
    assert_one_sentence(message)


@pytest.mark.parametrize(
    ("name", "bound"),
    [(n, b) for n in NUMERIC for k, b in bounds(n).items() if k.startswith("at_")],
)
def test_the_ends_of_a_range_are_accepted(name, bound):
    value = as_value(name, bound)
    config = Config(**{name: value, **COMPANIONS.get((name, bound), {})})
    assert config[name] == value


@pytest.mark.parametrize(
    "settings",
    [
        {"dataset": "tfds:caltech101:3.0.1"},
        {"dataset": "fashion_mnist"},
        {"dataset": "fashion_mnist", "data_dir": "idx"},
        {"dataset": "folder", "data_dir": "x.tar"},
        {"dataset": "list", "data_dir": "x", "train_list": "t.txt", "class_names": "n.txt"},
    ],
)
def test_data_sets_that_a_run_can_open_are_accepted(settings):
    assert Config(**settings).data.dataset == settings["dataset"]


def test_every_number_has_bounds():
    assert [name for name in NUMERIC if not bounds(name)] == []


def test_one_bad_resolution_among_good_ones_is_named():
    message = refusal(calibration_resolutions=(96, 15, 128))
    assert "--calibration_resolutions=15" in message
    assert "at least 16" in message


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dataset": "folder"}, ["--data_dir", "empty", "--dataset=folder"]),
        ({"data_dir": "x.zip"}, ["--data_dir=x.zip", "--dataset=digits"]),
        ({"dataset": "digit"}, ["--dataset=digit ", "digits, folder", "tfds:<builder>"]),
        ({"dataset": "tfds:"}, ["--dataset=tfds: ", "tfds:<builder>"]),
        ({"dataset": "list"}, ["--data_dir", "empty", "--dataset=list"]),
        ({"dataset": "list", "data_dir": "x"}, ["--train_list is empty", "--dataset=list"]),
        (
            {"dataset": "folder", "data_dir": "x", "class_names": "n.txt"},
            ["--class_names=n.txt", "--dataset=folder", "--dataset=list"],
        ),
        ({"test_list": "t.csv"}, ["--test_list=t.csv", "--dataset=digits"]),
        (
            {"student_weights_sha256": "abc"},
            ["--student_weights_sha256=abc", "--student_weights,", "empty"],
        ),
        (
            {"teacher_weights_sha256": "abc"},
            ["--teacher_weights_sha256=abc", "--teacher_weights,", "empty"],
        ),
        ({"profile": "counts"}, ["--profile=counts", "--class_counts="]),
        ({"class_counts": "5,3"}, ["--profile=exponential", "--class_counts=5,3"]),
        ({"calibration_resolutions": ()}, ["--calibration_resolutions", "empty"]),
        (
            {"validation_fraction": 0.0, "select_epoch": "best"},
            ["--select_epoch=best", "--validation_fraction=0", "--select_epoch=last"],
        ),
        ({"mix": "mixup"}, ["--mix=mixup", "--teacher_view=whole", "--teacher_view=same"]),
        ({"mix": "mixup", "method": "ltkd"}, ["--mix=mixup", "--teacher_view=whole"]),
        (
            {"randaugment_layers": 3},
            ["--randaugment_layers=3", "--randaugment_magnitude=0", "up to 10"],
        ),
        ({"mix_alpha": 0.2}, ["--mix_alpha=0.2", "--mix=none", "cutmix"]),
        (
            {"map_weight": 0.25},
            ["--map_weight=0.25", "--teacher_view=whole", "different boxes", "--teacher_view=same"],
        ),
        (
            {"map_weight": 0.25, "teacher_view": "same", "teacher_mode": "online"},
            ["--map_weight=0.25", "--teacher_mode=online", "--teacher_mode=cached"],
        ),
        (
            {"map_weight": 0.25, "teacher_view": "same", "method": "ltkd"},
            ["--map_weight=0.25", "--method=ltkd", "--method=candle"],
        ),
        *(
            (
                {"prior_correction": strength, "method": method},
                [f"--prior_correction={strength}", f"--method={method}", "--prior_correction=0"],
            )
            for strength, method in (("0.5", "cross_entropy"), ("auto", "candle_crt"))
        ),
        (
            {"logit_loss": "dist", "method": "plain_distillation"},
            ["--logit_loss=dist", "--method=plain_distillation", "--method=candle"],
        ),
        (
            {"feature_loss": "r2", "method": "balanced_softmax"},
            ["--feature_loss=r2", "--method=balanced_softmax", "leave --feature_loss out"],
        ),
        (
            {"student_head": "tied", "feature_loss": "r2", "method": "ltkd"},
            ["--student_head=tied", "--method=ltkd", "--student_head=free"],
        ),
        (
            {"tail_views": 16},
            ["--tail_views=16", "--teacher_view=whole", "--teacher_view=same"],
        ),
        (
            {"tail_views": 16, "teacher_view": "same", "teacher_mode": "online"},
            ["--tail_views=16", "--teacher_mode=online", "--teacher_mode=cached"],
        ),
        (
            {"teacher_top_k": 8, "logit_loss": "standardized"},
            ["--teacher_top_k=8", "--logit_loss=standardized", "variance", "--logit_loss=kl"],
        ),
        (
            {"teacher_top_k": 8, "logit_loss": "dist", "method": "candle_crt"},
            ["--teacher_top_k=8", "--logit_loss=dist", "correlations", "--logit_loss=kl"],
        ),
        (
            {"teacher_top_k": 8, "method": "ltkd"},
            ["--teacher_top_k=8", "--method=ltkd", "groups of classes", "softmax(z / T)"],
        ),
        (
            {"teacher_top_k": 8, "method": "dive"},
            ["--teacher_top_k=8", "--method=dive", "--dive_power"],
        ),
        ({"method": "paco", "unlabelled_dir": "x"}, ["--unlabelled_dir=x", "--method=paco"]),
        (
            {"binary_learning_rate": 0.02},
            ["--binary_learning_rate=0.02", "--optimizer=adam", "adam_sgd or bop"],
        ),
        (
            {"optimizer": "bop", "binary_weight_decay": 1e-8},
            ["--binary_weight_decay=1e-08", "--optimizer=bop", "no latent weights"],
        ),
        (
            {"optimizer": "bop", "clip_latent_weights": False},
            ["--noclip_latent_weights", "--optimizer=bop", "no latent weights"],
        ),
        (
            {"optimizer": "bop", "binary_steps": 2},
            ["--binary_steps=2", "--optimizer=bop", "float kernels"],
        ),
        (
            {"binary_weight_decay": 1e-8, "binary_steps": 2},
            ["--binary_weight_decay=1e-08", "--binary_steps=2", "--weight_decay"],
        ),
        (
            {"xla": "on", "precision": "bfloat16"},
            ["--precision=bfloat16", "--xla=on", "--xla=off"],
        ),
        (
            {"teacher_mode": "online"},
            ["--teacher_mode=online", "--teacher_view=whole", "--teacher_view=same"],
        ),
    ],
)
def test_contradictory_settings_are_refused(settings, said):
    message = refusal(**settings)
    for words in said:
        assert words in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adam_sgd", "learning_rate": 0.1, "binary_learning_rate": 0.01},
        {"optimizer": "bop", "binary_learning_rate": 1e-4, "weight_decay": 1e-3},
        {"weight_decay": 1e-3, "binary_weight_decay": 1e-8},
        {"binary_steps": 2, "weight_decay": 1e-5, "clip_latent_weights": False},
        {"optimizer": "adam_sgd", "binary_steps": 2},
    ],
)
def test_published_recipes_are_accepted(settings):
    config = Config(**settings)
    assert {name: config[name] for name in settings} == settings


@pytest.mark.parametrize(
    "settings",
    [
        # Its first stage is CANDLE's, and learns features by the tied classifier.
        {"method": "candle_crt", "student_head": "tied", "feature_loss": "r2"},
        {"method": "balanced_softmax", "teacher_view": "same", "tail_views": 16},
        # Not above --views, it is no other number of views.
        {"tail_views": 4},
        {"prior_correction": "auto"},
        {"teacher_top_k": 8, "balance": "class_adversarial"},
        # No power, and no loss of CANDLE's.
        {"teacher_top_k": 8, "method": "dive", "dive_power": 1.0},
        {"teacher_top_k": 8, "method": "plain_distillation"},
        {"method": "candle_crt", "logit_loss": "dist"},
    ],
)
def test_options_that_a_method_has_are_accepted(settings):
    config = Config(**settings)
    assert {name: config[name] for name in settings} == settings


def test_the_cache_is_in_the_run_folder_unless_told_otherwise():
    assert str(Config(run_dir="runs/a").run.cache_path) == "runs/a/cache"
    assert str(Config(run_dir="runs/a", cache_dir="shared").run.cache_path) == "shared"


def test_the_older_name_of_stretch_is_accepted():
    assert Config(resize="squeeze") == Config(resize="stretch") == Config()
    assert Config.from_dict({"resize": "squeeze"}, "x").to_dict()["resize"] == "stretch"


def many_settings():
    return Config(
        dataset="folder", data_dir="größe/bilder.zip", calibration_resolutions=(64, 224),
        learning_rate=1e-4 / 3, center_features=False, seed=2**31 - 1, width=0.1,
    )  # fmt: skip


@pytest.mark.parametrize("config", [Config(), many_settings()], ids=["default", "changed"])
def test_json_gives_back_what_was_written(tmp_path, config):
    path = tmp_path / "new" / "config.json"
    config.to_json(path)
    assert Config.from_json(path) == config
    again = Config.from_json(str(path))
    assert type(again.calibration.calibration_resolutions) is tuple
    assert json.loads(path.read_text()).keys() == FIELDS.keys()


def from_text(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as caught:
        Config.from_json(path)
    message = str(caught.value)
    assert "\n" not in message
    return message, str(path)


def test_settings_left_out_of_the_file_take_their_defaults(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"epochs": 7, "width": 2}')
    config = Config.from_json(path)
    assert config == Config(epochs=7, width=2.0)
    assert isinstance(config.student.width, float)


def test_an_unknown_name_in_the_file_is_refused(tmp_path):
    message, path = from_text(tmp_path, '{"epochs": 7, "epoch": 7}')
    assert path in message
    assert "'epoch'" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", "3"), ("epochs", 3.5), ("epochs", 3.0), ("epochs", True), ("epochs", None),
        ("width", "1"), ("width", False), ("width", [1.0]),
        ("center_features", 1), ("center_features", "true"),
        ("dataset", 3), ("data_dir", None),
        ("calibration_resolutions", 96), ("calibration_resolutions", "96"),
        ("calibration_resolutions", [96, "128"]), ("calibration_resolutions", [96.0]),
        ("calibration_resolutions", [True]),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_type_is_refused(tmp_path, name, value):
    message, path = from_text(tmp_path, json.dumps({name: value}))
    assert path in message
    assert f"{name}={value!r}" in message
    assert type(FIELDS[name].default).__name__ in message


@pytest.mark.parametrize("text", ["", "{", "epochs: 3", b"\xff\xfe{}", '{"epochs": 3} {}'])
def test_a_file_that_is_not_json_is_refused(tmp_path, text):
    message, path = from_text(tmp_path, text)
    assert path in message


@pytest.mark.parametrize("text", ["[]", "3", "null", '"epochs"'])
def test_a_file_without_an_object_is_refused(tmp_path, text):
    message, path = from_text(tmp_path, text)
    assert path in message
    assert "object" in message


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_refused_in_a_file_too(tmp_path, number):
    message, _ = from_text(tmp_path, f'{{"learning_rate": {number}}}')
    assert "--learning_rate=" in message


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no settings file .*absent\.json"):
        Config.from_json(tmp_path / "absent.json")
    with pytest.raises(UserError, match=str(tmp_path)):
        Config.from_json(tmp_path)


@pytest.mark.parametrize("teacher", ["resnet", "keras_cv:", "keras_cv", "torch:resnet18", ""])
def test_a_teacher_of_no_known_form_is_refused_before_anything_is_read(teacher):
    with pytest.raises(UserError, match=r"--teacher=.*efficientnet_lite0.*keras_cv:<name>"):
        Config(teacher=teacher)


def test_names_are_unique_over_all_groups():
    names = [
        field.name for group in Config.groups().values() for field in dataclasses.fields(group)
    ]
    assert len(names) == len(set(names))


def test_settings_are_held_by_group_and_found_by_name():
    config = Config(epochs=3, width=0.5, seed=7)
    assert (config.training.epochs, config.student.width, config.run.seed) == (3, 0.5, 7)
    assert (config["epochs"], config["width"], config["seed"]) == (3, 0.5, 7)


def test_replace_changes_what_is_named_and_checks_again():
    config = Config(epochs=3, width=0.5)
    assert config.replace(epochs=4) == Config(epochs=4, width=0.5)
    assert config.training.epochs == 3
    with pytest.raises(UserError, match="--epochs=-1"):
        config.replace(epochs=-1)


def test_a_name_that_is_no_setting_is_a_defect():
    with pytest.raises(TypeError, match="'epoch'"):
        Config(epoch=3)


def test_a_name_registered_from_outside_is_a_choice_of_its_flag(monkeypatch):
    monkeypatch.setattr(STUDENTS, "_targets", dict(STUDENTS._targets))
    assert "--student=mine" in refusal(student="mine")
    STUDENTS.register("mine", "no_such_package.students:mine")
    assert Config(student="mine").student.student == "mine"
    assert "mine" in refusal(student="yours")


@pytest.mark.parametrize("name", ["epochs", "views", "batch_size"])
def test_whole_numbers_without_end_are_out_of_range(name):
    for number in (10**12, 10**30, 10**5000):
        with pytest.raises(UserError, match=f"--{name}=.* is out of range"):
            Config(**{name: number})


@pytest.mark.parametrize("temperature", [1e30, 1e-30, 0.0, float("nan")])
def test_a_temperature_that_nothing_learns_at_is_named(temperature):
    with pytest.raises(UserError, match=r"--temperature=.*(0\.01|1000|number)"):
        Config(temperature=temperature)


@pytest.mark.parametrize("name", ["run_dir", "cache_dir", "data_dir", "split", "teacher_weights"])
def test_a_leading_tilde_is_the_home_folder(name, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ant")
    dataset = "folder" if name == "data_dir" else "digits"
    assert Config(dataset=dataset, **{"data_dir": "x" * (dataset == "folder"), name: "~/x"})[
        name
    ] == ("/home/ant/x")
    with pytest.raises(UserError, match=r"~nobody_here/x: there is no user 'nobody_here'"):
        Config(**{name: "~nobody_here/x"})


@pytest.mark.parametrize(
    ("dataset", "profile"),
    [("digits", "exponential"), ("fashion_mnist", "exponential"), ("folder", "natural"),
     ("tfds:cifar10", "exponential"), ("tfds:cifar10:3.0.2", "exponential"),
     ("tfds:caltech101", "natural"), ("cub200", "exponential"), ("inaturalist2018", "natural")],
)  # fmt: skip
def test_only_balanced_benchmarks_are_made_long_tailed_by_default(dataset, profile):
    config = Config(dataset=dataset, data_dir="x" if dataset == "folder" else "")
    assert config.data.profile == profile
    assert Config.from_dict(config.to_dict(), "x").data.profile == profile


def test_settings_of_brackets_without_end_are_refused(tmp_path):
    for content in ("[" * 100_000, '{"learning_rate": 1' + "0" * 400 + "}"):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(UserError):
            Config.from_json(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"fixed_lambda": 0.7}, {"fixed_lambda": "balance=fixed"}),
        ({"fixed_lambda": 0.7, "balance": "fixed"}, {}),
        ({"fixed_lambda": 0.5}, {}),
        ({"mix_alpha": 0.2, "mix": "cutmix", "method": "cross_entropy"}, {}),
        ({"sampler_start": 0.8, "sampler": "square_root"}, {"sampler_start": "sampler=deferred_*"}),
        ({"sampler_start": 0.8, "sampler": "deferred_square_root"}, {}),
        ({"balance_tau": 1.0, "ldam_scale": 20.0, "method": "focal"},
         {"balance_tau": "balance=class_adversarial", "ldam_scale": "method=ldam_drw"}),
        ({"balance_entropy": 0.1, "balance": "relative"}, {}),
        ({"balance_entropy": 0.1, "balance_learning_rate": 0.01, "balance": "fixed"},
         {"balance_entropy": "balance=adversarial|relative",
          "balance_learning_rate": "balance=adversarial|relative|plain|class_adversarial"}),
        ({"label_weight": "0.5", "method": "focal"}, {"label_weight": CANDLE}),
        # Whether a table's other rows have a label loss changes nothing of this one.
        ({"label_weight": "0", "prior_correction": "0", "export_teacher": "off",
          "method": "focal"}, {}),
        ({"label_weight": "0", "method": "ltkd"}, {"label_weight": CANDLE}),
        ({"label_weight": "0", "method": "candle_crt"}, {}),
        ({"balance": "plain", "method": "focal"}, {"balance": CANDLE}),
        ({"balance": "fixed", "fixed_lambda": 0.9, "temperature": 4.0, "method": "focal"},
         {"balance": CANDLE, "fixed_lambda": CANDLE, "temperature": WITH_TEACHER}),
        ({"balance": "fixed", "fixed_lambda": 0.9, "temperature": 4.0, "method": "candle_crt"},
         {}),
        ({"temperature": 4.0, "method": "dive"}, {}),
        ({"class_balanced_beta": 0.9, "method": "ldam_drw"}, {}),
        ({"class_balanced_beta": 0.9, "distillation_label_weight": 0.3, "classifier_epochs": 3,
          "classifier_learning_rate": 0.1, "smoothing_head": 0.3, "smoothing_tail": 0.1,
          "map_fraction": 0.2, "anneal_fraction": 0.5},
         {"class_balanced_beta": "method=class_balanced|ldam_drw",
          "distillation_label_weight": "method=plain_distillation|ltkd|dive",
          "classifier_epochs": "method=crt|mislas|candle_crt",
          "classifier_learning_rate": "method=crt|mislas|candle_crt",
          "smoothing_head": SMOOTHING, "smoothing_tail": SMOOTHING, "map_fraction": "map_weight",
          "anneal_fraction": "student=bnext_*"}),
        ({"distillation_label_weight": 0.3, "method": "ltkd"}, {}),
        ({"classifier_epochs": 3, "smoothing_head": 0.3, "method": "mislas"}, {}),
        ({"smoothing_tail": 0.1, "calibration_loss": "label_aware_smoothing"}, {}),
        ({"smoothing_tail": 0.1, "calibration_loss": "label_aware_smoothing", "method": "focal"},
         {"smoothing_tail": f"{WITH_TEACHER} or method=mislas", "calibration_loss": WITH_TEACHER}),
        ({"smoothing_tail": 0.1, "calibration_loss": "label_aware_smoothing", "method": "mislas"},
         {"calibration_loss": WITH_TEACHER}),
        ({"map_fraction": 0.2, "map_weight": 0.25, "teacher_view": "same"}, {}),
        ({"anneal_fraction": 0.5, "student": "bnext_m"}, {}),
        ({"tail_views": 3}, {"tail_views": "teacher_view=same"}),
        ({"tail_views": 4, "teacher_view": "same"}, {"tail_views": "views below 4"}),
        ({"tail_views": 5, "teacher_view": "same"}, {}),
        ({"views": 5, "tail_views": 5, "teacher_view": "same", "teacher_mode": "online"},
         {"views": "teacher_mode=cached", "tail_views": "teacher_mode=cached"}),
        *[({"balance_learning_rate": 0.1, **others}, {})
          for others in ({}, {"balance": "plain"}, {"balance": "relative"},
                         {"balance": "class_adversarial"}, {"method": "candle_crt"})],
        ({"balance_learning_rate": 0.1, "method": "focal"}, {"balance_learning_rate": CANDLE}),
        ({"balance_learning_rate": 0.1, "balance_tau": 2.0, "balance_replay": "runs/x",
          "balance_prior": 0.4, "balance": "class_adversarial"},
         {"balance_learning_rate": REPLAY, "balance_tau": REPLAY}),
        ({"balance_learning_rate": 0.1, "balance_entropy": 0.3, "balance_replay": "runs/x"},
         {"balance_learning_rate": REPLAY, "balance_entropy": REPLAY}),
        ({"balance_tau": 2.0, "balance_replay": "runs/x", "balance": "relative"},
         {"balance_tau": f"balance=class_adversarial and {REPLAY}"}),
        ({"balance_tau": 2.0, "balance": "class_adversarial", "balance_closed_form": True}, {}),
        ({"balance_learning_rate": 0.1, "balance": "class_adversarial",
          "balance_closed_form": True},
         {"balance_learning_rate": "without balance_closed_form"}),
        ({"teacher": "efficientnet_lite1", "teacher_layers": 2, "calibration_epochs": 3,
          "combine_resolutions": "concatenate", "method": "cross_entropy"},
         dict.fromkeys(["teacher", "teacher_layers", "calibration_epochs", "combine_resolutions"],
                       WITH_TEACHER)),
        # Images are stored at the largest of them, and these views are the student's too.
        ({"calibration_resolutions": (224,), "teacher_view": "same", "views": 8,
          "method": "cross_entropy"}, {}),
        ({"crop_area": 0.1}, {"crop_area": "augmentation=random_resized_crop_flip"}),
        ({"crop_area": 0.1, "augmentation": "random_resized_crop_flip"}, {}),
        ({"imbalance_factor": 10.0, "profile": "natural"},
         {"imbalance_factor": "profile=exponential|step"}),
        # What a recipe and a data set bring was not given.
        ({"recipe": "patient", "method": "balanced_softmax"}, {}),
        ({"recipe": "patient", "temperature": 3.0, "method": "balanced_softmax"},
         {"temperature": WITH_TEACHER}),
        ({"recipe": "paper", "method": "ltkd"}, {}),
        ({"dataset": "dtd", "calibration_loss": "label_aware_smoothing", "smoothing_head": 0.01,
          "smoothing_tail": 0.39, "imbalance_factor": 10.0, "method": "focal"}, {}),
        # A loss or balance of the plugin may read it.
        ({"balance_entropy": 0.1, "balance": "fixed", "plugin": "tests.command"}, {}),
        ({"ldam_scale": 20.0, "method": "focal", "plugin": "tests.command"}, {}),
        ({"smoothing_tail": 0.1, "anneal_fraction": 0.5, "plugin": "tests.command"}, {}),
        ({"mix_views": "all", "sampler_start": 0.8, "plugin": "tests.command"},
         {"sampler_start": "sampler=deferred_*"}),
    ],
)  # fmt: skip
def test_settings_without_effect_are_known(settings, told):
    assert Config(**settings).without_effect() == told


FEATURES_ALONE = {"balance": "fixed", "fixed_lambda": 0.0, "label_weight": "0.0"}


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({}, "--fixed_lambda=0 with --label_weight=0 .*or --fixed_lambda above 0"),
        ({"balance": "schedule", "first_lambda": 0.0, "last_lambda": 0.0},
         "--first_lambda=0 --last_lambda=0 with .*or --last_lambda above 0"),
    ],
)  # fmt: skip
def test_a_classifier_that_nothing_trains_is_refused(changes, remedy):
    given = {**FEATURES_ALONE, **changes}
    with pytest.raises(UserError, match=f"{remedy}") as told:
        Config.with_catalog(given, "here")
    assert "--method=candle_crt" in str(told.value)
    # Settings that are read of an older run, and of the first of two stages.
    assert Config(**given).balance.largest_lambda == 0
    with pytest.raises(UserError, match=f"{remedy}"):
        check_training_requirements(Config(**given), replicas=1)


@pytest.mark.parametrize(
    "changes",
    [
        {"label_weight": "0.1"},
        {"label_weight": "auto"},
        {"fixed_lambda": 0.1},
        {"balance": "schedule"},
        {"balance": "schedule", "first_lambda": 0.0},
        {"balance": "schedule", "last_lambda": 0.0},
        {"balance": "plain"},
        {"method": "candle_crt"},
        {"method": "focal"},
        {"student_head": "tied", "feature_loss": "r2"},
    ],
    ids=str,
)
def test_a_classifier_that_something_trains_is_not_refused(changes):
    Config.with_catalog({**FEATURES_ALONE, **changes}, "here")


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_recipe_has_a_setting_without_effect(recipe):
    assert Config(recipe=recipe).without_effect() == {}


@pytest.mark.parametrize("name", [name for name in FIELDS if FIELDS[name].metadata["only_for"]])
def test_what_a_setting_is_for_is_a_setting_with_that_value(name):
    """Help, warning and settings cannot name different things."""
    only_for = FIELDS[name].metadata["only_for"]
    assert FIELDS[name].metadata["help"].startswith(f"for {as_flags(only_for)}: ")
    for condition in re.split(" and | or ", only_for):
        other, _, wanted = condition.removeprefix("without ").partition("=")
        field = FIELDS[other]
        choices = [str(choice) for choice in field.metadata["choices"]]
        if isinstance(field.default, bool):
            choices = ["False", "True"]
        assert all(fnmatch.filter(choices, pattern) for pattern in wanted.split("|") if wanted)


def test_what_a_setting_is_for_is_told_as_flags():
    assert as_flags("a=b|c") == "--a=b|c"
    assert as_flags("a and b=c or d=e_*") == "--a and --b=c or --d=e_*"
    assert as_flags("a=b and without c") == "--a=b and without --c"
    assert as_flags("without c or a and without d") == "without --c or --a and without --d"


def test_methods_that_a_setting_is_for_are_those_that_are_so():
    config = Config()
    kinds = {
        CANDLE: lambda name: config.replace(method=name).training.is_candle,
        WITH_TEACHER: lambda name: config.replace(method=name).training.distils,
        WITH_LABEL_LOSS: lambda name: isinstance(METHODS[name], DistillationMethod),
        WITH_SECOND_STAGE: lambda name: isinstance(METHODS[name], TwoStageMethod),
        "method=mislas": lambda name: getattr(METHODS[name], "loss", "") == "label_aware_smoothing",
    }
    for only_for, is_so in kinds.items():
        patterns = only_for.removeprefix("method=").split("|")
        assert {name for name in METHODS if is_so(name)} == set(patterns)
    assert {name for name in METHODS if config.replace(method=name).training.has_label_loss} == {
        name for name in METHODS if isinstance(METHODS[name], DistillationMethod)
    }


# Settings that have an effect with all others, or where images, files or the machine decide.
FOR_ALL = {
    "dataset", "data_dir", "train_list", "test_list", "validation_list", "class_names",
    "archive_encoding", "on_bad_image", "near_duplicates", "profile", "validation_fraction",
    "test_fraction", "split", "resize", "store", "sampler", "augmentation", "color_jitter",
    "randaugment_magnitude", "mix", "teacher_view", "calibration_resolutions", "student",
    "image_size", "width", "stem_stride", "student_weights", "export_student", "method", "epochs",
    "batch_size", "binary_steps", "select_epoch", "progressive_sizes", "reestimate_batch_norm",
    "precision", "xla", "kernels", "strategy", "sync_batch_norm", "optimizer", "learning_rate",
    "warmup_fraction", "rate_decay", "clip_norm", "weight_decay", "binary_weight_decay",
    "clip_latent_weights", "weight_average", "seed", "run_dir", "cache_dir", "recipe", "plugin",
}  # fmt: skip


def test_every_setting_says_what_it_is_for_or_is_for_all():
    for_some = {name for name in FIELDS if FIELDS[name].metadata["only_for"]}
    assert for_some | FOR_ALL == set(FIELDS)
    assert not for_some & FOR_ALL


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_no_configuration_has_a_setting_without_effect_with_any_method(path):
    """They are compared on one flagfile (`tools.compare_methods`)."""
    values = flags.FlagValues()
    app.define_config_flags(values)
    values(["candle_tf.train", f"--flagfile={path}"])
    place = {} if values["dataset"].value == "digits" else {"data_dir": "x", "train_list": "x.csv"}
    if values["dataset"].value == "folder":
        place.pop("train_list")
    config = app.config_from_flags(values, **place)
    for method in METHODS:
        assert config.replace(method=method).without_effect() == {}


def test_no_kept_table_has_a_setting_without_effect_or_one_that_is_refused():
    cells = [cell for path in TABLES for cell in read_definition(path).cells]
    # What a seed changes is the seed.
    rows = {(cell.flagfile, str(cell.settings)): cell for cell in cells}
    for cell in rows.values():
        assert cell_config_without_data(cell, {}).without_effect() == {}, cell.name


@pytest.mark.parametrize("method", ["plain_distillation", "ltkd", "dive"])
@pytest.mark.parametrize("weight", ["0.3", "1", "adaptive"])
def test_the_label_weight_of_candle_is_refused_for_methods_with_one_of_their_own(method, weight):
    given = {"method": method, "label_weight": weight}
    with pytest.raises(UserError) as told:
        Config.with_catalog(given, "here")
    assert f"--label_weight={weight} contradicts --method={method}" in str(told.value)
    assert "--distillation_label_weight (0.5 here)" in str(told.value)
    # An older run is read, and a table may have no label loss in any of its rows.
    assert Config(**given).balance.label_weight == weight
    for other in ("0", "auto"):
        Config.with_catalog({"method": method, "label_weight": other}, "here")
    Config.with_catalog({"method": method}, "here", before={"label_weight": weight})


def test_a_run_of_before_a_setting_has_the_value_that_it_had(tmp_path):
    path = tmp_path / "config.json"
    Config(method="candle").to_json(path)
    values = json.loads(path.read_text())
    assert values.pop("prior_correction") == "1"
    path.write_text(json.dumps(values))
    assert Config.from_json(path).balance.prior_correction == "0"
    # A user's own file of a few settings has today's defaults.
    path.write_text(json.dumps({"method": "candle", "epochs": 3}))
    assert Config.from_json(path).balance.prior_correction == "1"


@pytest.mark.parametrize("method", ["candle", "candle_crt"])
def test_a_plugins_logit_loss_says_what_it_needs_of_the_teachers_logits(monkeypatch, method):
    for name, told in (("needs", {"needs_all_logits": "ranks"}), ("silent", {})):
        monkeypatch.setitem(LOGIT_LOSSES._targets, name, SimpleNamespace(**told))
    Config(method=method, teacher_top_k=8, logit_loss="silent")
    Config(method=method, logit_loss="needs")
    told = r"--teacher_top_k=8 contradicts --logit_loss=needs, which is of ranks: .*logit_loss=kl"
    with pytest.raises(UserError, match=told):
        Config(method=method, teacher_top_k=8, logit_loss="needs")


def test_a_plugins_method_says_what_it_needs_of_the_teachers_logits(monkeypatch):
    method = DistillationMethod(
        lambda *_: None,
        needs_all_logits=lambda settings: "ranks" if settings.dive_power < 1 else "",
    )
    monkeypatch.setitem(METHODS._targets, "mine", method)
    Config(method="mine", teacher_top_k=8, dive_power=1.0)
    with pytest.raises(UserError, match=r"--teacher_top_k=8 contradicts --method=mine, .* ranks:"):
        Config(method="mine", teacher_top_k=8)
    with pytest.raises(UserError, match=r"--label_weight=0\.3 contradicts --method=mine"):
        Config.with_catalog({"method": "mine", "label_weight": "0.3"}, "here")
