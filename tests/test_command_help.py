"""What the mains say of themselves."""

import pytest

from candle_tf.command_help import TRAINING_HELP, asks_for_help
from candle_tf.config import Config
from tests.command import start_from_nothing

NEED_ARGUMENTS = ("candle_tf.train", "candle_tf.cache_features", "candle_tf.pretrain",
                  "candle_tf.report", "candle_tf.serve",
                  "tools.compare_methods", "tools.compare_tables", "tools.run_table")  # fmt: skip


@pytest.mark.parametrize("module", NEED_ARGUMENTS)
def test_no_arguments_explain_and_start_nothing(module):
    done = start_from_nothing(module)
    assert done.returncode == 2
    assert done.stdout == ""
    assert f"python -m {module} " in done.stderr
    assert done.stderr.rstrip().endswith(f"python -m {module} --helpfull")
    assert "Traceback" not in done.stderr


def test_help_of_training_shows_some_flags_and_names_the_way_to_all():
    done = start_from_nothing("candle_tf.train", "--flagfile=no_such_file", "--help")
    assert done.returncode == 0
    assert done.stderr == ""
    shown = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  --")]
    assert shown == [f"--{name}" for names in TRAINING_HELP.values() for name in names]
    assert 20 <= len(shown) <= 25
    # What README begins with.
    assert {"--recipe", "--plugin", "--test_list", "--stem_stride", "--prior_correction"} <= {
        *shown
    }
    assert len(Config.fields()) > 2 * len(shown)
    for title in TRAINING_HELP:
        assert f"\n{title}:\n" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_help_of_a_main_with_few_flags_shows_all_of_them():
    done = start_from_nothing("candle_tf.datasets", "-h")
    assert done.returncode == 0
    assert "--tfds_dir" in done.stdout
    assert "--json" in done.stdout


def test_help_of_a_tool_that_imports_tensorflow_says_nothing_else():
    done = start_from_nothing("tools.build_native", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--compile_for" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "asks"),
    [(["--help"], True), (["a", "-h"], True), (["--helpfull"], False), (["--", "--help"], False),
     (["--hel"], False), ([], False)],
)  # fmt: skip
def test_what_asks_for_help(arguments, asks):
    assert asks_for_help(arguments) == asks
