"""Mains are run as processes of their own, as a user starts them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

import candle_tf
from candle_tf import app
from candle_tf.config import Config

MAIN = """
import json, signal, sys, time, weakref
from pathlib import Path
from candle_tf import app
from candle_tf.errors import UserError

def main(config):
    if config.run.run_dir == "user":
        raise UserError("the widget is bent; straighten it.")
    if config.run.run_dir == "defect":
        raise ValueError("a defect of ours")
    if config.run.run_dir == "full":
        with open("/dev/full", "w") as file:
            file.write("x")
    if config.run.run_dir.startswith("stat-"):
        Path(config.run.run_dir).exists()
    if config.run.run_dir == "ctrl-c":
        raise KeyboardInterrupt
    if config.run.run_dir == "ctrl-c in a callback":
        # A test that runs in the background has it ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        watched = type("Watched", (), {})()
        callback = weakref.ref(watched, lambda _: signal.raise_signal(signal.SIGINT))
        del watched
        for _ in range(600):
            time.sleep(0.05)
    if config.run.run_dir == "ctrl-c at the end":
        # Removed after all work, when Python takes its modules apart.
        class Watched:
            def __del__(self):
                raise KeyboardInterrupt
        globals()["watched"] = Watched()
    if config.run.run_dir == "flags":
        app.flags.DEFINE_string("epochs", "", "defined twice")
    assert "tensorflow" not in sys.modules
    print(json.dumps(config.to_dict()))

if __name__ == "__main__":
    app.define_config_flags()
    resumes = "--recipe=patient" in sys.argv
    app.run(lambda _: main(app.config_from_flags()), resumes=resumes)
"""


@pytest.fixture
def start(tmp_path):
    """Runs the main in tmp_path with arguments."""
    (tmp_path / "main.py").write_text(MAIN)
    root = str(Path(candle_tf.__file__).parents[1])

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "main.py", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": root},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture
def settings(start):
    """Settings that a command line leads to."""

    def run(*arguments):
        done = start(*arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture
def refusal(start):
    """What a command line that must fail says, in one message without a traceback."""

    def run(*arguments):
        done = start(*arguments)
        assert done.returncode == 2
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        return done.stderr

    return run


def another(field):
    """A valid value that is not the default, as written on a command line and as JSON."""
    default, choices = field.default, field.metadata["choices"]
    if choices:
        others = [choice for choice in choices if choice != default]
        # "counts" needs a list of counts, which has no default.
        value = "counts" if "counts" in others else (others or [default])[0]
    elif isinstance(default, bool):
        value = not default
    elif isinstance(default, int):
        value = 1 if field.name == "stem_stride" else default + 1
    elif isinstance(default, float):
        value = default * 0.5 + 0.003
    elif isinstance(default, tuple):
        value = [64, 224]
    else:
        known = {"teacher": "keras_cv:some", "dataset": "list", "archive_encoding": "cp932",
                 "plugin": "json", "label_weight": "0.25"}  # fmt: skip
        value = known.get(field.name, f"some_{field.name}")
    written = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return written, value


def test_every_setting_is_a_flag(settings):
    # Each contradicts another setting: two phases and a decay of latent weights, stored logits and
    # a teacher that runs online, images without labels and a method that needs them, maps and
    # whole images, floors and a lambda that all classes share, averages and Bop, two sizes and one
    # epoch, CANDLE's options and another method, controls of a lambda that all classes share, views
    # of images without labels that are not given.
    apart = {
        "binary_steps": 2, "teacher_top_k": 8, "unlabelled_dir": "more", "map_weight": 0.25,
        "balance_floors": "runs/fixed", "balance_replay": "runs/played",
        "balance_closed_form": True, "balance_permute_sizes": True,
        "weight_average": 0.9, "progressive_sizes": "48:0.5,64",
        "prior_correction": "0.5", "student_head": "tied", "unlabelled_views": 3,
        "logit_loss": "dist", "feature_loss": "r2",
    }  # fmt: skip
    beside = {
        "map_weight": ["--teacher_view=same"],
        "balance_floors": ["--balance=class_adversarial"],
        "balance_closed_form": ["--balance=class_adversarial"],
        "balance_permute_sizes": ["--balance=class_adversarial"],
        "progressive_sizes": ["--epochs=2"],
        "student_head": ["--feature_loss=r2"],
        "unlabelled_views": ["--unlabelled_dir=more", "--teacher_view=same"],
    }
    values = {f.name: another(f) for f in Config.fields().values() if f.name not in apart}
    read = settings(*[f"--{name}={written}" for name, (written, _) in values.items()])
    defaults = Config().to_dict()
    of_recipe = Config(recipe=values["recipe"][1]).to_dict()
    alone = {name: of_recipe[name] for name in apart}
    assert read == {**{name: value for name, (_, value) in values.items()}, **alone}
    for name, value in apart.items():
        assert settings(f"--{name}={value}", *beside.get(name, []))[name] == value
    # All but the settings of which there is only one value so far.
    assert all(read[f.name] != defaults[f.name] for f in Config.fields().values()
               if len(f.metadata["choices"]) != 1 and f.name not in apart)  # fmt: skip


def test_no_flag_at_all_is_the_default(settings):
    assert settings() == Config().to_dict()


def test_flags_carry_help_and_choices():
    defined = flags.FlagValues()
    app.define_config_flags(defined)
    for field in Config.fields().values():
        text = defined[field.name].help
        assert field.metadata["help"] in text
        assert all(choice in text for choice in field.metadata["choices"])


def test_help_shows_the_flags(start):
    done = start("--helpfull")
    assert done.returncode == 0
    assert "--imbalance_factor" in done.stdout
    assert "Traceback" not in done.stderr


def test_relative_paths_are_of_the_folder_in_which_bazel_run_was_called(
    start, tmp_path, monkeypatch
):
    (tmp_path / "called").mkdir()
    (tmp_path / "called" / "mine.cfg").write_text("--epochs=3\n")
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path / "called"))
    done = start("--flagfile=mine.cfg")
    assert json.loads(done.stdout)["epochs"] == 3


def test_negated_booleans_and_separate_values(settings):
    read = settings("--nocenter_features", "--epochs", "3")
    assert read["center_features"] is False
    assert read["epochs"] == 3


def test_flagfiles_within_flagfiles(settings, tmp_path):
    (tmp_path / "base.cfg").write_text("# the base\n--epochs=3\n--seed=2\n--width=0.5\n")
    (tmp_path / "mine.cfg").write_text("// mine\n\n--seed=1\n--flagfile=base.cfg\n--epochs=4\n")
    read = settings("--flagfile=mine.cfg", "--batch_size=8")
    # Later wins, and a file stands where it is named.
    assert (read["epochs"], read["seed"], read["width"], read["batch_size"]) == (4, 2, 0.5, 8)
    assert settings("--epochs=9", "--flagfile=mine.cfg")["epochs"] == 4
    assert settings("--flagfile=mine.cfg", "--epochs=9")["epochs"] == 9


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--epoch=3"], ["'epoch'", "epochs"]),
        (["--zzz=3"], ["'zzz'"]),
        (["--epochs=abc"], ["--epochs=abc", "whole number"]),
        (["--epochs=1.5"], ["--epochs=1.5", "whole number"]),
        (["--epochs="], ["--epochs=", "whole number"]),
        (["--epochs"], ["--epochs", "Missing value"]),
        (["--width=wide"], ["--width=wide", "a number"]),
        (["--width=nan"], ["--width=nan", "above 0", "at most 4"]),
        (["--center_features=maybe"], ["--center_features=maybe", "true or false"]),
        (["--calibration_resolutions=96,b"], ["--calibration_resolutions=96,b", "whole numbers"]),
        (["--calibration_resolutions="], ["--calibration_resolutions", "empty"]),
        (["--calibration_resolutions=96,8"], ["--calibration_resolutions=8", "at least 16"]),
        (["--method=magic"], ["--method=magic", "candle", "cross_entropy", "balanced_softmax"]),
        (["--dataset=folder"], ["--data_dir", "--dataset=folder"]),
        (["--dataset=digit"], ["--dataset=digit ", "digits, folder", "tfds:<builder>"]),
        (["train"], ["'train'", "not a flag"]),
        (["--epochs=3", "epochs=4"], ["'epochs=4'", "not a flag"]),
        (["--flagfile=absent.cfg"], ["flagfile", "absent.cfg"]),
        (["--flagfile=."], ["flagfile", "'.'"]),
        (["--flagfile"], ["flagfile", "no argument"]),
        (["--config=absent.json"], ["settings file", "absent.json"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("-") else None,
)
def test_what_is_not_understood_is_refused_in_one_message(refusal, arguments, said):
    message = refusal(*arguments)
    for words in said:
        assert words in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"--flagfile=absent.cfg\n", "absent.cfg"),
        (b"--epochs=many\n", "--epochs=many"),
        (b"epochs=3\n", "'epochs=3'"),
        (b"--epohcs=3\n", "'epohcs'"),
        (b"\xff\xfe\x00", "not a text file"),
    ],
)
def test_what_is_wrong_in_a_flagfile_is_refused(refusal, tmp_path, content, said):
    (tmp_path / "mine.cfg").write_bytes(content)
    assert said in refusal("--flagfile=mine.cfg")


def test_flags_win_over_the_settings_file(settings, tmp_path):
    Config(epochs=7, width=0.5, seed=9, center_features=False).to_json(tmp_path / "config.json")
    (tmp_path / "mine.cfg").write_text("--seed=3\n")
    read = settings("--config=config.json", "--flagfile=mine.cfg", "--epochs=8")
    assert read == {
        **Config().to_dict(), "epochs": 8, "width": 0.5, "seed": 3, "center_features": False,
    }  # fmt: skip
    # Also where what is given is the default.
    assert settings("--epochs=0", "--center_features", "--config=config.json") == {
        **Config().to_dict(), "width": 0.5, "seed": 9,
    }  # fmt: skip


def test_images_without_the_name_of_a_data_set_are_a_folder(settings, refusal, tmp_path):
    read = settings("--data_dir=a.zip")
    assert (read["dataset"], read["data_dir"], read["profile"]) == ("folder", "a.zip", "natural")
    assert settings("--data_dir=a.zip", "--dataset=folder") == read
    assert settings("--data_dir=")["dataset"] == settings()["dataset"] == "digits"
    said = refusal("--data_dir=a.zip", "--train_list=a.csv")
    assert (
        "--train_list=a.csv contradicts --dataset=folder; it is for --dataset=list or coco" in said
    )
    # A run's settings have its data set.
    Config(dataset="list", data_dir="a", train_list="a.csv").to_json(tmp_path / "config.json")
    assert settings("--config=config.json", "--data_dir=b")["dataset"] == "list"


def test_flags_can_fix_what_contradicts_in_a_settings_file(settings, tmp_path):
    (tmp_path / "config.json").write_text('{"dataset": "folder", "data_dir": "a.zip"}')
    read = settings("--config=config.json", "--dataset=digits", "--data_dir=")
    assert (read["dataset"], read["data_dir"]) == ("digits", "")


def test_a_data_set_of_the_catalog_brings_its_settings_beside_a_settings_file(settings, tmp_path):
    before = Config(dataset="folder", data_dir="a.zip", width=0.5, seed=4, image_size=48)
    before.to_json(tmp_path / "config.json")
    given = ("--dataset=cifar10_lt100", "--seed=5", "--data_dir=")
    alone, read = settings(*given), settings("--config=config.json", *given)
    brought = {name for name, value in alone.items() if value != Config().to_dict()[name]}
    assert brought > {"selection", "image_size"}
    assert {name: read[name] for name in brought} == {name: alone[name] for name in brought}
    assert (before.data.profile, read["profile"]) == ("natural", "exponential")
    assert read["width"] == 0.5
    assert settings("--config=config.json", *given, "--image_size=96")["image_size"] == 96
    # Its own data set brings nothing: the file may have chosen otherwise.
    chosen = Config.with_catalog({"dataset": "cifar10_lt100", "image_size": 32}, "here")
    chosen.to_json(tmp_path / "config.json")
    assert settings("--config=config.json", "--dataset=cifar10_lt100") == chosen.to_dict()


@pytest.mark.parametrize(
    ("dataset", "profile"), [("fashion_mnist", "exponential"), ("folder", "natural")]
)
def test_the_profile_of_a_settings_file_is_that_of_its_data_set(
    settings, tmp_path, dataset, profile
):
    other = Config(dataset="list", train_list="a.csv", data_dir="a.zip", profile="step")
    other.to_json(tmp_path / "config.json")
    given = (f"--dataset={dataset}", "--data_dir=b.zip", "--train_list=")
    read = settings("--config=config.json", *given)
    assert read["profile"] == profile
    Config(dataset=dataset, data_dir="a.zip", profile="step").to_json(tmp_path / "config.json")
    read = settings("--config=config.json", f"--dataset={dataset}", "--data_dir=b.zip")
    assert read["profile"] == "step"
    other.replace(profile="counts", class_counts="5,4").to_json(tmp_path / "config.json")
    read = settings("--config=config.json", *given)
    assert (read["profile"], read["class_counts"]) == ("counts", "5,4")


def test_an_imbalance_factor_without_effect_is_refused_beside_a_settings_file(refusal, tmp_path):
    Config(dataset="folder", data_dir="a.zip").to_json(tmp_path / "config.json")
    told = refusal("--config=config.json", "--imbalance_factor=10")
    assert "--imbalance_factor=10 has no effect on --dataset=folder" in told


def test_a_plugin_of_the_settings_file_alone_is_not_imported(settings, refusal, tmp_path):
    (tmp_path / "payload.py").write_text("open('imported', 'w').close()")
    (tmp_path / "config.json").write_text('{"plugin": "payload", "epochs": 7}')
    assert "config.json names the plugin 'payload'" in refusal("--config=config.json")
    assert not (tmp_path / "imported").exists()
    read = settings("--config=config.json", "--plugin=payload")
    assert (read["plugin"], read["epochs"]) == ("payload", 7)
    assert (tmp_path / "imported").exists()


def test_a_chain_of_flagfiles_without_end_is_refused(refusal, tmp_path):
    for number in range(1500):
        (tmp_path / f"{number}.cfg").write_text(f"--flagfile={tmp_path / str(number + 1)}.cfg\n")
    (tmp_path / "1500.cfg").write_text("--epochs=1\n")
    assert "nested too deeply" in refusal(f"--flagfile={tmp_path / '0.cfg'}")


@pytest.mark.parametrize("digits", ["9" * 30, "9" * 5000])
def test_numbers_without_end_are_one_short_sentence(refusal, digits):
    assert len(refusal(f"--epochs={digits}")) < 300


def test_a_user_error_is_one_message(refusal):
    assert refusal("--run_dir=user") == "error: the widget is bent; straighten it.\n"


@pytest.mark.parametrize("name", ["\u00e9" * 200, "e" * 300])
def test_a_path_that_no_file_system_takes_is_one_message(refusal, name):
    told = refusal(f"--run_dir=stat-{name}")
    assert told.startswith(f"error: stat-{name[:50]}")
    assert told.endswith(
        "... cannot be used (File name too long). Give another path, or change its permissions.\n"
    )
    assert len(told) < 220


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_one_message(refusal):
    assert refusal("--run_dir=full").startswith("error: There is no room left on the disk")


@pytest.mark.parametrize(("where", "error"), [("defect", "ValueError: a defect of ours"),
                                              ("flags", "DuplicateFlagError")])  # fmt: skip
def test_a_defect_keeps_its_traceback(start, where, error):
    done = start(f"--run_dir={where}")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert error in done.stderr
    assert "main.py" in done.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "error: Stopped.\n"),
        (
            ["--recipe=patient"],
            "error: Stopped. The same command resumes from the last checkpoint.\n",
        ),
    ],
)
def test_ctrl_c_says_how_to_resume_where_that_is_so(start, given, said):
    done = start("--run_dir=ctrl-c", *given)
    assert (done.returncode, done.stderr) == (130, said)


def test_ctrl_c_that_stops_a_callback_of_a_weak_reference_stops_the_work(start):
    """Python itself drops it there, with a traceback."""
    done = start("--run_dir=ctrl-c in a callback")
    assert (done.returncode, done.stderr, done.stdout) == (130, "error: Stopped.\n", "")


def test_ctrl_c_once_all_is_done_keeps_no_process_from_its_end(start):
    """Where Python ends, no thread begins any more: who waits for one waits for ever."""
    done = start("--run_dir=ctrl-c at the end")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["run_dir"] == "ctrl-c at the end"


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--top=0", "--top=0 is out of range; it must be at least 1."),
        ("--top=x", "--top=x is not a whole number."),
        ("--share=2", "--share=2 is out of range; it must be at least 0.0 and at most 0.99."),
        ("--share=x", "--share=x is not a number."),
        ("--kind=c", "--kind=c: value should be one of <a|b>"),
    ],
)
def test_a_number_out_of_a_flags_own_range_is_told_as_that(tmp_path, flag, said):
    (tmp_path / "main.py").write_text(
        "from absl import flags\nfrom candle_tf import app\n"
        "flags.DEFINE_integer('top', 5, '', lower_bound=1)\n"
        "flags.DEFINE_float('share', 0.5, '', 0.0, 0.99)\n"
        "flags.DEFINE_enum('kind', 'a', ('a', 'b'), '')\n"
        "app.run(lambda _: print(flags.FLAGS.share))\n"
    )
    root = str(Path(app.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "main.py", flag], cwd=tmp_path, env={**os.environ, "PYTHONPATH": root},
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, f"error: {said}\n")


def test_an_imbalance_factor_that_has_no_effect_is_refused(start):
    given = ("--dataset=folder", "--data_dir=x", "--imbalance_factor=10")
    assert "has no effect on --dataset=folder" in start(*given).stderr
    assert start(*given, "--profile=step").returncode == 0


def test_what_a_terminal_cannot_show_is_written_as_codes(tmp_path):
    (tmp_path / "main.py").write_text(
        "from candle_tf import app\napp.run(lambda _: print('\\u65e5 \\u2500'))\n"
    )
    root = str(Path(app.__file__).parents[1])
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONPATH": root}
    done = subprocess.run(
        [sys.executable, "main.py"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "\\u65e5 \\u2500\n"), done.stderr


def test_a_leading_tilde_is_expanded_in_all_flags_and_arguments(tmp_path):
    (tmp_path / "main.py").write_text(
        "from absl import flags\nfrom candle_tf import app\nflags.DEFINE_string('out', '', '')\n"
        "app.run(lambda a: print(flags.FLAGS.out, *a[1:]), takes_arguments=True)\n"
    )
    root = str(Path(app.__file__).parents[1])
    environment = {**os.environ, "HOME": "/home/ant", "PYTHONPATH": root}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "main.py", *arguments],
            cwd=tmp_path, env=environment, capture_output=True, text=True,
        )  # fmt: skip

    assert run("--out=~/x", "~/y").stdout == "/home/ant/x /home/ant/y\n"
    done = run("--out=~nobody_here/x")
    assert (done.returncode, done.stderr.startswith("error: ~nobody_here/x: there is no")) == (
        2, True
    )  # fmt: skip


def test_a_reader_that_stops_reading_ends_the_program_without_a_traceback():
    program = "from candle_tf import app; app.run(lambda _: print('\\n'.join(['x' * 99] * 9999)))"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "x" * 99 + "\n"
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141
