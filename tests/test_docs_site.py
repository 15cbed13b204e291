"""The documentation as a site: it builds without warnings, and its API page has the docstrings."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(
    not importlib.util.find_spec("mkdocs"), reason="mkdocs of requirements-dev.txt is not here"
)
def test_the_site_builds_without_warnings_and_shows_the_api(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    page = (tmp_path / "api" / "index.html").read_text()
    for words in ("keras_model", "The trained student as a Keras 2 model", "select_epoch"):
        assert words in page
