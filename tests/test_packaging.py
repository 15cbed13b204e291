"""The wheel and the source archive: whole, in step with the pinned requirements, and usable."""

import csv
import json
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections import defaultdict
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


def closure(names: set[str]) -> dict[str, Distribution]:
    """Installed distributions that the named ones need, and those, by normalized name."""
    found: dict[str, Distribution] = {}
    waiting = {(canonicalize_name(name), "") for name in names}
    seen: set[tuple[str, str]] = set()
    while waiting:
        name, extra = waiting.pop()
        seen.add((name, extra))
        found[name] = distribution(name)
        for requirement in map(Requirement, found[name].requires or []):
            if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
                continue
            extras = {"", *requirement.extras}
            waiting |= {(canonicalize_name(requirement.name), each) for each in extras} - seen
    return found


def link(found: dict[str, Distribution], site_packages: Path) -> None:
    """Links the files of distributions, a folder as a whole where no other one has files in it."""
    records = {canonicalize_name(each.name): each.read_text("RECORD") for each in distributions()}
    files = [
        (name, row[0])
        for name, record in records.items()
        for row in csv.reader((record or "").splitlines())
        if not row[0].startswith(("/", "../"))
    ]
    owners: dict[str, set[str]] = defaultdict(set)
    for name, path in files:
        owners[path.partition("/")[0]].add(name)
    shared = {top for top, names in owners.items() if len(names) > 1}
    linked = {
        (name, path if top in shared else top)
        for name, path in files
        for top in [path.partition("/")[0]]
        if name in found
    }
    for name, entry in linked:
        target = site_packages / entry
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(Path(str(found[name].locate_file(entry))).resolve())


def test_an_installed_wheel_trains(built, tmp_path):
    """Outside of the checkout, beside what it says it needs alone; an epoch of the quickstart.

    Of this environment's packages, its environment has those that the wheel's metadata and theirs
    name: one that is missing there is missing here.
    """
    environment = tmp_path / "environment"
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    site_packages = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    found = closure({Requirement(each).name for each in PROJECT["dependencies"]})
    assert not {"pytest", "mypy", "mkdocs"} & set(found)
    link(found, site_packages)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--quiet",
           "--disable-pip-version-check"]  # fmt: skip
    wheel = ["install", "--no-index", "--no-deps", "--no-compile", str(built[0])]
    subprocess.run([*pip, *wheel], check=True)
    # The versions that the metadata asks for are there, of the wheel and of what it needs.
    checked = subprocess.run([*pip, "check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    train = [environment / "bin" / "candle-train", "--flagfile=configs/quickstart.cfg",
             "--epochs=1", "--calibration_epochs=1", "--export_teacher=off",
             "--image_size=16", "--stem_stride=1", "--width=0.125", "--calibration_resolutions=64",
             f"--run_dir={tmp_path / 'run'}"]  # fmt: skip
    done = subprocess.run(train, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report
    assert (tmp_path / "run" / "export" / "student.lce.tflite").stat().st_size > 10_000


def test_every_tool_has_a_target_of_bazel():
    """But for `tools/bench.py`, whose target would have the name of the package's own."""
    mains = {
        path.stem
        for path in (ROOT / "tools").glob("*.py")
        if '__name__ == "__main__"' in path.read_text()
    }
    assert "check_plugin" in mains
    text = (ROOT / "BUILD").read_text()
    rule = re.search(r'srcs = \["tools/%s\.py" % name\],.*?for name in \[(.*?)\]', text, re.S)
    assert rule
    assert set(re.findall(r'"(\w+)"', rule[1])) == mains - {"bench"}
