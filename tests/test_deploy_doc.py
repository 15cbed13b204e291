"""docs/deploy.md: the first Python in it runs as it stands, on an export of a small student."""

import re
import subprocess
import sys
from pathlib import Path

from PIL import Image

import candle_tf
from candle_tf.deploy.saved_model.writer import export_saved_model
from tests.deploy.test_binarize import CLASSES, photographs, small_student

ROOT = Path(candle_tf.__file__).parents[1]


def test_files_that_are_named_to_the_container_are_mounted_in_it():
    text = (ROOT / "docs" / "deploy.md").read_text()
    named = re.findall(r"--\w+_file=(/models/[\w.]+)", text)
    assert len(named) == 2
    for path in named:
        assert f'-v "$PWD/{Path(path).name}:{path}:ro"' in text


def test_the_python_example_names_a_class(tmp_path):
    names = tuple(f"class {number}" for number in range(CLASSES))
    export_saved_model(
        small_student(), tmp_path / "runs" / "quickstart" / "export" / "saved_model", names,
        image_side=32,
    )  # fmt: skip
    Image.fromarray(photographs()[0]).save(tmp_path / "image.png")
    code, *_ = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "deploy.md").read_text(), re.S)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    name, score = done.stdout.strip().rsplit(" ", 1)
    assert name in names
    assert 1 / CLASSES <= float(score) <= 1
