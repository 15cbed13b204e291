"""Parts of a user's own: the examples of docs/plugins.md run, and mistakes are one message."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import candle_tf
from candle_tf.config import Config
from candle_tf.errors import UserError
from candle_tf.plugins import import_plugins, refuse_new_plugins
from candle_tf.run_folder import open_run_folder
from candle_tf.stages.reference_run import open_reference_run
from candle_tf.stages.trained_student import load_trained_student
from tests.command import start

ROOT = Path(candle_tf.__file__).parents[1]
MODULES = "my_student,my_loss,my_teacher,my_source,my_augmentation"
DISTILLATION = "my_logit_loss,my_feature_loss,my_balance"
SMALL = ["--dataset=stripes", "--profile=exponential", "--imbalance_factor=2",
         "--image_size=16", "--student=my_student",
         "--width=0.5", "--stem_stride=1", "--batch_size=16", "--epochs=2",
         "--calibration_epochs=2",
         "--calibration_resolutions=32", "--validation_fraction=0.2"]  # fmt: skip

WRONG_PARTS = """
from candle_tf.data.augment.settings import OPERATIONS
from candle_tf.data.samplers import SAMPLERS
from candle_tf.methods.registry import BALANCES, FEATURE_LOSSES, LOGIT_LOSSES, METHODS
from candle_tf.students.architectures.registry import STUDENTS

def raises(shape, classes, *, width, stem_stride):
    raise ValueError("no such width")

def mean(logits, labels, counts):
    return logits[0, 0]

def half(counts, done):
    return 0 * counts + 0.5

def alike(counts, done):
    return 0 * counts + 1 / len(counts)

def unconvertible(shape, classes, *, width, stem_stride):
    import larq, tensorflow as tf
    pixels = tf.keras.Input(shape)
    binary = larq.layers.QuantConv2D(32, 3, kernel_quantizer="ste_sign", name="mine")(pixels)
    features = tf.keras.layers.GlobalAveragePooling2D()(binary)
    logits = tf.keras.layers.Dense(classes)(features)
    return tf.keras.Model(pixels, {"features": features, "logits": logits})

STUDENTS.register("raises", raises)
STUDENTS.register("unconvertible", unconvertible)
METHODS.register("mean", mean)
OPERATIONS.register("number", 3)
OPERATIONS.register("right", "wrong_operations:Right")
OPERATIONS.register("short", "wrong_operations:Short")
OPERATIONS.register("unsaid", "wrong_operations:Unsaid")
SAMPLERS.register("half", half)
SAMPLERS.register("alike", alike)
BALANCES.register("half", half)
FEATURE_LOSSES.register("half", half)
LOGIT_LOSSES.register("half", half)
LOGIT_LOSSES.register("gone", "nowhere:build")
"""
WRONG_OPERATIONS = """
import numpy as np
import tensorflow as tf
from candle_tf.data.augment.operation import Operation

class Short(Operation):
    @classmethod
    def from_settings(cls, settings):
        return cls()

    def draw(self, drawing):
        return {"x": np.zeros(3)}

    def signature(self, before):
        return {"x": tf.TensorSpec(before["keys"].shape, tf.float32)}

    def apply(self, pixels, rendering):
        return pixels

class Unsaid(Short):
    def signature(self, before):
        return {}

class Right(Unsaid):
    def draw(self, drawing):
        return {}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The examples as files."""
    folder = tmp_path_factory.mktemp("plugins")
    text = (ROOT / "docs" / "plugins.md").read_text()
    blocks = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", text, re.S)
    assert len(blocks) == 11
    for name, code in blocks:
        (folder / name).write_text(code)
    return folder


def train(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return start("candle_tf.train", *flags, cwd=folder)


@pytest.mark.parametrize(
    "flags",
    [["--method=my_loss"],
     ["--method=candle", "--teacher=my_teacher", "--logit_loss=centred_squares",
      "--feature_loss=absolute_error", "--balance=in_nats"]],
    ids=["loss", "teacher"],
)  # fmt: skip
def test_the_examples_train_and_export(folder, flags, request):
    run_dir = folder / request.node.callspec.id
    modules = f"{MODULES},{DISTILLATION}"
    done = train(folder, f"--plugin={modules}", *SMALL, *flags, f"--run_dir={run_dir}")
    assert done.returncode == 0, done.stderr[-3000:]
    config = json.loads((run_dir / "config.json").read_text())
    assert config["plugin"] == modules
    assert (run_dir / "export" / "student.lce.tflite").exists()
    again = train(folder, f"--config={run_dir / 'config.json'}", f"--plugin={modules}")
    assert again.returncode == 0, again.stderr[-3000:]


def test_a_teacher_that_was_changed_is_told_where_its_features_are_cached(folder, tmp_path):
    for path in folder.glob("my_*.py"):
        (tmp_path / path.name).write_text(path.read_text())
    flags = [f"--plugin={MODULES}", *SMALL, "--teacher=my_teacher", "--cache_dir=cache"]
    done = start("candle_tf.cache_features", *flags, "--run_dir=before", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    code = (tmp_path / "my_teacher.py").read_text()
    assert code.count("pixels / 255.0") == 1
    (tmp_path / "my_teacher.py").write_text(code.replace("pixels / 255.0", "pixels / 1.0"))
    done = train(tmp_path, *flags, "--run_dir=after")
    assert done.returncode == 2
    assert re.search(
        r"cache/features-32px-\w+\.npy has values of --teacher=my_teacher", done.stderr
    )
    assert "--cache_dir" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_examples_are_checked_with_a_line_for_every_one(folder):
    done = start("tools.check_plugin", f"--plugin={MODULES},my_method,{DISTILLATION}", cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.sub(r" of \d+ to \d+", "", done.stdout).splitlines() == [
        "ok    student 'my_student' (my_student:build_my_student): "
        "features [5, 16], logits [5, 3], 4 binary layers",
        "ok    method 'my_loss' (my_loss:focal_loss): "
        "its arguments, and losses float32 [B] where they need no queue",
        "ok    method 'my_method' (my_weights:METHOD): "
        "its arguments, and losses float32 [B] where they need no queue",
        "ok    teacher 'my_teacher' (my_teacher:load_my_teacher): features [5, 32]",
        "ok    source 'stripes' (my_source:open_stripes): 48 images of 2 classes, (16, 16, 3)",
        "ok    augmentation 'darken' (my_darken:Darken): views [5, 32, 32, 3]",
        "ok    balance 'in_nats' (my_balance:build_in_nats): a total loss, and its lambda",
        "ok    feature loss 'absolute_error' (my_feature_loss:build_absolute_error): "
        "losses float32 [B], and those of constant predictions",
        "ok    logit loss 'centred_squares' (my_logit_loss:LOSS): "
        "losses float32 [B], and those of constant predictions",
    ]


def test_wrong_parts_are_told_together(tmp_path):
    (tmp_path / "wrong_parts.py").write_text(WRONG_PARTS)
    (tmp_path / "wrong_operations.py").write_text(WRONG_OPERATIONS)
    done = start("tools.check_plugin", "--plugin=wrong_parts", cwd=tmp_path)
    assert done.returncode == 2
    assert "11 of 13 parts of --plugin=wrong_parts are wrong" in done.stderr
    for line, words in zip(
        done.stdout.splitlines(),
        [
            "WRONG student 'raises' (wrong_parts:raises) raised ValueError: no such width",
            "WRONG student 'unconvertible' (wrong_parts:unconvertible): The converter would not "
            "keep layer mine of model binary: ",
            "WRONG method 'mean' (wrong_parts:mean) gave float32 ()",
            "WRONG augmentation 'number' is no subclass of candle_tf.data.augment.operation.",
            "ok    augmentation 'right' (wrong_operations:Right): views [5, 32, 32, 3]",
            "WRONG augmentation 'short' (wrong_operations:Short): `draw` gave 'x' as float64 [3]; ",
            "WRONG augmentation 'unsaid' (wrong_operations:Unsaid): x is in `draw` or in `signat",
            "WRONG sampler 'half' (wrong_parts:half) gave [0.5, 0.5, 0.5]",
            "ok    sampler 'alike' (wrong_parts:alike): probabilities of classes",
            "WRONG balance 'half' (wrong_parts:half) raised TypeError: ",
            "WRONG feature loss 'half' (wrong_parts:half) raised TypeError: ",
            "WRONG logit loss 'half' (wrong_parts:half) has no method of_uniform, which an object",
            "WRONG 'gone' stands for 'nowhere:build', which cannot be imported",
        ],
        strict=True,
    ):
        assert line.startswith(words), line


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (None, "is no module in"),
        ("import module_that_is_absent", "needs module_that_is_absent"),
        ("import sys; sys.exit(3)", "broken ends the program when it is imported (exit code 3)"),
        ("1 / 0", "fails when it is imported: ZeroDivisionError"),
        ("from candle_tf.students.architectures.registry import STUDENTS\n"
         "STUDENTS.register('reactnet_a', 'a:b')", "the name 'reactnet_a' is taken"),
    ],
)  # fmt: skip
def test_what_cannot_be_imported_is_one_message(tmp_path, code, words):
    if code is not None:
        (tmp_path / "broken.py").write_text(code)
    done = train(tmp_path, "--plugin=broken", "--dataset=digits")
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_names_are_known_with_the_plugin_alone(folder):
    done = train(folder, *SMALL)
    assert done.returncode == 2
    assert "is not known" in done.stderr


@pytest.mark.parametrize("name", ["../../x", ".x", "a..b", "a b", "\ud800", "x.py/"])
def test_what_is_no_name_of_a_module_is_not_imported(name):
    with pytest.raises(UserError, match="is no name of a module"):
        import_plugins(name)


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """A run folder, below the working directory, whose settings name a module in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    run_dir = Path("theirs")
    (run_dir / "student" / "checkpoints").mkdir(parents=True)
    (run_dir / "payload.py").write_text("open('imported', 'w').close()")
    (run_dir / "config.json").write_text('{"plugin": "theirs.payload"}')
    for name in ("report.json", "student/steps.csv", "student/checkpoints/progress.json"):
        (run_dir / name).write_text("{}")
    yield run_dir
    for name in ("theirs.payload", "theirs"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "read",
    [
        lambda run: Config.from_json(run / "config.json"),
        lambda run: load_trained_student(run, 1),
        lambda run: open_reference_run("balance_floors", str(run), "--balance=fixed"),
        lambda run: open_run_folder(Config(run_dir=str(run))),
    ],
    ids=["settings", "trained student", "reference run", "resumed run"],
)
def test_to_read_a_run_imports_no_plugin_that_its_settings_alone_name(
    theirs: Path, read: Callable[[Path], object]
) -> None:
    with pytest.raises(UserError, match=r"theirs/config\.json names the plugin 'theirs\.payload'.*"
                       r"give --plugin=theirs\.payload.*import it first"):  # fmt: skip
        read(theirs)
    assert not Path("imported").exists()


def test_all_plugins_that_are_not_imported_are_told_at_once():
    words = "plugins not_here, nor_here, which are .*give --plugin=not_here,nor_here, or in Python"
    with pytest.raises(UserError, match=words):
        refuse_new_plugins("not_here, pytest, nor_here", Path("config.json"))
    refuse_new_plugins("pytest", Path("config.json"))


def test_a_run_is_read_where_its_plugin_is_imported_or_given(theirs):
    import_plugins("theirs.payload")
    assert Path("imported").exists()
    assert Config.from_json(theirs / "config.json").run.plugin == "theirs.payload"
    config = Config(run_dir=str(theirs), plugin="theirs.payload")
    assert open_run_folder(config).has_begun


def test_settings_of_another_plugin_that_nothing_was_trained_by_do_not_block_others(theirs):
    for name in ("report.json", "student/checkpoints/progress.json"):
        (theirs / name).unlink()
    # Images are checked before a split is saved; one without that record is a user's.
    (theirs / "data_check.json").write_text("{}")
    (theirs / "split.json").write_text("drawn by the settings before")
    folder = open_run_folder(Config(run_dir=str(theirs)))
    assert Config.from_json(folder.config_path).run.plugin == ""
    assert not folder.split_path.exists()
    assert not Path("imported").exists()
