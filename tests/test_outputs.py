"""Commands refuse outputs that cannot be written before the work whose results they are."""

import pytest

from tests.command import start


@pytest.mark.parametrize(
    ("module", "arguments", "flags"),
    [
        ("candle_tf.analyze", ["/nowhere"], ["html"]),
        ("candle_tf.evaluate", ["/nowhere"], ["csv", "json"]),
        ("candle_tf.predict", ["/nowhere", "x.png"], ["csv", "jsonl", "html"]),
        ("candle_tf.report", ["/nowhere"], ["html", "json"]),
        ("tools.bench", [], ["json"]),
        ("tools.bench_index", [], ["json"]),
        ("tools.bench_input", ["--data_dir=/nowhere"], ["json"]),
        ("tools.student_table", [], ["json"]),
    ],
)
def test_outputs_are_refused_before_the_work(module, arguments, flags, tmp_path):
    for flag in flags:
        # A folder is where the file would be.
        done = start(module, *arguments, f"--{flag}={tmp_path}")
        assert (done.returncode, done.stdout) == (2, "")
        assert f"{tmp_path} cannot be written" in done.stderr
