"""docs/devices.md: its Python runs as it stands, on an export of a small student."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import candle_tf
from candle_tf.deploy.tflite.converter import convert, convert_float
from candle_tf.deploy.tflite.metadata import describe_files, encode_metadata
from tests.deploy.test_binarize import CLASSES, logits_of, photographs, small_student

ROOT = Path(candle_tf.__file__).parents[1]


def test_the_python_snippets_name_the_class_that_keras_names(tmp_path):
    export = tmp_path / "runs" / "quickstart" / "export"
    export.mkdir(parents=True)
    (export / "student.lce.tflite").write_bytes(convert(small_student()))
    (export / "student.float.tflite").write_bytes(convert_float(small_student()))
    labels = [f"class {number}" for number in range(CLASSES)]
    told = describe_files({}, labels=labels, side=32, image_side=32)
    (export / "student.json").write_bytes(encode_metadata(told))
    Image.fromarray(photographs()[0]).save(tmp_path / "image.png")

    snippets = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "devices.md").read_text(), re.S)
    assert len(snippets) == 2
    code = "\n".join([*snippets, 'print(about["labels"][logits.argmax()])'])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    expected = labels[int(np.argmax(logits_of(small_student())[0]))]
    assert done.stdout.split("\n")[:2] == [expected, expected]
    assert json.loads((export / "student.json").read_text())["labels"] == labels
