"""The wheel and the source archive: whole, in step with the pinned requirements, and usable."""

import json
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import candle_tf

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no reader of TOML")

ROOT = Path(candle_tf.__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements(*names: str) -> set[Requirement]:
    """The packages of requirement files, with versions and markers."""
    lines = "\n".join((ROOT / name).read_text() for name in names)
    return {Requirement(line) for line in re.findall(r"^\w[^#\n]*", lines, re.MULTILINE)}


@pytest.mark.parametrize("extra", [None, "serve", "duplicates", "teachers", "dev"])
def test_versions_are_those_of_the_requirement_files(extra):
    wanted = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    pinned = requirements("requirements.txt", "requirements-serve.txt", "requirements-dev.txt")
    assert {Requirement(each) for each in wanted} <= pinned


def test_all_direct_requirements_are_in_the_metadata():
    direct = (ROOT / "requirements.txt").read_text().partition("\n\n")[0]
    names = set(re.findall(r"^([\w.-]+)==", direct, re.MULTILINE))
    assert {"tensorflow", "protobuf"} <= names
    assert names <= {Requirement(each).name for each in PROJECT["dependencies"]}


@pytest.mark.parametrize("script", sorted(PROJECT["scripts"]))
def test_console_scripts_name_functions(script):
    module, _, function = PROJECT["scripts"][script].partition(":")
    code = f"from {module} import {function}; assert callable({function})"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Wheel and source archive, built from a copy of the tracked files."""
    folder = tmp_path_factory.mktemp("dist")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if tracked.returncode:
        pytest.skip("the source is no git checkout, so what belongs to it cannot be told")
    source = tmp_path_factory.mktemp("source")
    for name in filter(None, tracked.stdout.decode().split("\0")):
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


def test_the_wheel_holds_code_configurations_and_types(built):
    names = set(zipfile.ZipFile(built[0]).namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "candle_tf").rglob("*.py")}
    assert modules <= names
    assert "candle_tf/py.typed" in names
    configs = {f"candle_tf/configs/{path.name}" for path in (ROOT / "configs").glob("*.cfg")}
    assert configs <= names
    assert not any(name.startswith(("tests/", "tools/")) for name in names)


def test_the_source_archive_holds_what_building_takes(built):
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "setup.py", "README.md", "LICENSE", "configs/quickstart.cfg"} <= names


def test_an_installed_wheel_trains(built, tmp_path):
    """A new environment from the index, outside of the checkout; one epoch of the quickstart."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    pip = [environment / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check",
           "--no-compile"]  # fmt: skip
    subprocess.run(
        [*pip, "--constraint", str(ROOT / "requirements.txt"), str(built[0])], check=True
    )
    train = [environment / "bin" / "candle-train", "--flagfile=configs/quickstart.cfg",
             "--epochs=1", "--calibration_epochs=1", "--export_teacher=off",
             f"--run_dir={tmp_path / 'run'}"]  # fmt: skip
    done = subprocess.run(train, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report
    assert (tmp_path / "run" / "export" / "student.lce.tflite").stat().st_size > 10_000
