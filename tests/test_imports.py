"""The order of imports: from mains down to pure functions, and never back."""

import ast
import fnmatch
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import candle_tf

PACKAGE = Path(candle_tf.__file__).parent

# From the top down. A module may import modules of lower layers, and those of its own group (a
# group is a subpackage, or the names in one set).
LAYERS: list[tuple[str, list[set[str]]]] = [
    # Read flags, call stages, print; a list that `mains()` finds by their last lines.
    ("mains", [{"<mains>"}]),
    # The one bridge from flags to Config, for mains alone.
    ("app", [{"app"}]),
    # What users call from Python: as a main, without flags.
    ("interface", [{"api"}]),
    # Stages know the Config and a run's folder, and call what is below with plain arguments.
    ("stages", [{"stages"}]),
    # What is done with networks and figures; neighbours that do not know each other.
    ("methods", [{"methods"}, {"deploy"}, {"reporting"}, {"serving"}]),
    # Networks, built or loaded; the two kinds do not know each other.
    ("networks", [{"students"}, {"teachers"}]),
    # Images, splits, views and batches; files of weights.
    ("data", [{"data"}, {"weight_files"}]),
    # A run's settings and folder: they know nothing of what the run does.
    ("records", [{"config", "changed_settings", "run_folder", "output_files"}]),
    # Each package's settings, and the names that are their choices: no TensorFlow.
    (
        "settings",
        [
            {
                "data.augment.settings",
                "data.samplers",
                "data.settings",
                "data.sources.registry",
                "data.sources.source",
                "methods.long_tail.settings",
                "methods.registry",
                "methods.settings",
                "students.architectures.registry",
                "students.settings",
                "teachers.registry",
                "teachers.settings",
            }
        ],
    ),
    # Operators in C++, built and wrapped; devices and machines that train together.
    ("native", [{"native"}, {"distribute"}]),
    # Pure functions and tables, and the smallest helpers.
    (
        "pure",
        [
            {
                "",
                "command_help",
                "errors",
                "files",
                "folder_kinds",
                "folder_lock",
                "plugins",
                "progress",
                "recipes",
                "metrics",
                "data.epoch_steps",
                "data.image_sizes",
                "data.splits.longtail",
                "data.catalog",
                "registry",
                "runtime_messages",
                "terminal",
                "settings",
                "settings_without_effect",
                "timing",
            }
        ],
    ),
]
# Settings reach only those who turn them into plain arguments.
MAY_KNOW_CONFIG = {"app", "api", "stages", "run_folder"}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def is_main(tree: ast.Module) -> bool:
    return any(
        isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
        for node in tree.body
    )


MAINS = {name for name, tree in TREES.items() if is_main(tree)}


def imports_of(tree: ast.AST) -> set[str]:
    """Full names a tree imports anywhere; of `from a import b` both a and a.b."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


def edges(name: str) -> set[str]:
    """Modules of the package that a module imports, each by its own name."""
    inner = {full.removeprefix("candle_tf").lstrip(".") for full in imports_of(TREES[name])
             if full.split(".")[0] == "candle_tf"}  # fmt: skip
    found = inner & set(MODULES)
    # `from candle_tf.data import views` is an import of data.views; the package is passed through.
    through = {a for a in found if any(b.startswith(f"{a}.") for b in found)}
    only_root = {""} if f"import {PACKAGE.name}\n" in MODULES[name].read_text() else set()
    return (found - through - {""}) | only_root


def group(name: str) -> tuple[int, str]:
    """Layer (0 is the top) and group of a module."""
    if name in MAINS:
        return 0, name  # mains do not import each other
    for candidate in (name, name.split(".")[0]):
        for depth, (_, groups) in enumerate(LAYERS):
            for members in groups:
                if candidate in members:
                    return depth, min(members)
    raise AssertionError(f"{name} has no place in LAYERS: give it one")


def test_there_are_modules_to_check():
    assert {"app", "data.augment.crops", "methods.distillation", "stages.train"} <= set(MODULES)
    assert "data.augment.augmentation" in edges("data.pipeline")
    assert edges("data.splits.longtail") == {"errors"}
    assert "" in edges("run_folder")
    assert group("data.splits.longtail") > group("data.pipeline") > group("students.layers")


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_downwards(name):
    layer, own = group(name)
    wrong = [
        target
        for target in edges(name)
        if not (group(target)[0] > layer or group(target) == (layer, own))
    ]
    assert wrong == [], f"{name} ({LAYERS[layer][0]}) must not import {wrong}"


def registered_targets(tree: ast.AST) -> set[str]:
    """Modules of the package that are named as "module:attribute", which a registry imports."""
    texts = (n.value for n in ast.walk(tree) if isinstance(n, ast.Constant))
    named = (
        re.fullmatch(r"candle_tf\.([\w.]+):\w+", text) for text in texts if isinstance(text, str)
    )
    return {found[1] for found in named if found}


@pytest.mark.parametrize("name", MODULES)
def test_registries_name_what_their_package_may_import(name):
    """A registry of names lies low, so that flags wait for nothing; its parts in its package."""
    layer, own = group(name.split(".")[0]) if "." in name else group(name)
    wrong = [
        target
        for target in registered_targets(TREES[name])
        if not (group(target)[0] > layer or group(target) == (layer, own))
    ]
    assert wrong == [], f"{name} ({LAYERS[layer][0]}) must not register {wrong}"


def test_there_are_registered_targets_to_check():
    assert "methods.long_tail.paco" in registered_targets(TREES["methods.registry"])
    assert registered_targets(TREES["stages"]) == {"stages.run_teacher"}


def documented_rows() -> list[list[str]]:
    """What each row of the table in docs/architecture.md names, as it is written there."""
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    table = re.search(r"\| row \| packages \|.*?\n\n", text, re.S)
    assert table
    cells = [line.split("|")[2] for line in table[0].strip().splitlines()[2:]]
    return [re.findall(r"`([^`]+)`", cell) for cell in cells]


def named_modules(text: str) -> set[str]:
    """The modules that "data/", "config.py" or "*/settings.py" stands for."""
    pattern = f"{text}*" if text.endswith("/") else text
    return {
        name
        for name, path in MODULES.items()
        if fnmatch.fnmatchcase(str(path.relative_to(PACKAGE)), pattern)
    }


def test_the_documented_rows_are_those_that_are_checked():
    rows = documented_rows()
    assert len(rows) == len(LAYERS)
    settings = [name for name, _ in LAYERS].index("settings")
    for depth, texts in enumerate(rows):
        for text in texts:
            named = named_modules(text)
            assert named, text
            # Packages of the rows above hold settings, pure functions, and small mains, too.
            assert any(group(name)[0] == depth for name in named), text
            assert {group(name)[0] for name in named} <= {0, depth, settings, len(LAYERS) - 1}, text
    for depth, (title, _) in enumerate(LAYERS[:-1]):
        named = set().union(*map(named_modules, rows[depth]))
        own = {name for name in MODULES if group(name)[0] == depth}
        missing = {name for name in own if depth or "." not in name} - named
        assert missing == set(), f"docs/architecture.md lacks in {title}: {missing}"


@pytest.mark.parametrize("name", MODULES)
def test_settings_are_known_above_alone(name):
    knows = "config" in edges(name)
    assert not knows or name in MAINS or name.split(".")[0] in MAY_KNOW_CONFIG


def test_there_are_no_cycles():
    sorter = graphlib.TopologicalSorter({name: edges(name) - {name} for name in MODULES})
    assert len(list(sorter.static_order())) == len(MODULES)


def test_imports_are_absolute():
    relative = [
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


def test_no_module_is_a_drawer_for_everything():
    drawers = {"utils", "util", "helpers", "common", "misc"}
    assert [name for name in MODULES if drawers & set(name.split("."))] == []


def reads_flags(tree: ast.Module) -> bool:
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return "FLAGS" in names | attributes or any(
        n.startswith("absl.flags") for n in imports_of(tree)
    )


@pytest.mark.parametrize("name", MODULES)
def test_flags_are_read_by_mains_and_their_bridge_alone(name):
    assert not reads_flags(TREES[name]) or name in MAINS | {"app"}


def test_the_bridge_does_read_flags():
    assert reads_flags(TREES["app"])


@pytest.mark.parametrize("name", [m for m in MODULES if m not in MAINS | {"app"}])
def test_absl_app_is_for_mains(name):
    assert not {"absl.app"} & imports_of(TREES[name])


@pytest.mark.parametrize("name", MODULES)
def test_the_compute_engine_is_imported_where_it_is_used(name):
    """It is large, has no wheel for some machines, and a SavedModel is served without it."""
    functions = [n for n in ast.walk(TREES[name]) if isinstance(n, ast.FunctionDef)]
    inside = {id(child) for function in functions for child in ast.walk(function)}
    outside = [
        node.lineno
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.Import | ast.ImportFrom)
        and id(node) not in inside
        and any(n.split(".")[0] == "larq_compute_engine" for n in imports_of(node))
    ]
    assert outside == []


def test_settings_and_flags_do_not_wait_for_tensorflow():
    """A mistyped flag is told at once, and so is what a split looks like."""
    code = (
        "import sys, candle_tf.app, candle_tf.run_folder, candle_tf.metrics, "
        "candle_tf.data.splits.longtail; sys.exit('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, check=False)
    assert done.returncode == 0
