"""Building, caching and falling back; on a source of a few lines, which compiles in a moment."""

import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from absl import logging

from candle_tf.errors import UserError
from candle_tf.native import build
from candle_tf.native.build import AUTO, NATIVE, PLAIN, native_operators
from tests.native.availability import needs_native

EMPTY = 'extern "C" int candle() { return 1; }\n'


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A source of one line, a cache of its own, and nothing known yet."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "small.cc").write_text(EMPTY)
    monkeypatch.setattr(build, "SOURCE", source)
    monkeypatch.setattr(build, "PREBUILT", tmp_path / "prebuilt")
    monkeypatch.setattr(build, "_FILES", ("small.cc",))
    monkeypatch.setattr(build, "_KERNELS", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    build._find_operators.cache_clear()
    yield tmp_path
    build._find_operators.cache_clear()


def _libraries(folder: Path) -> list[Path]:
    return sorted((folder / "cache" / "candle_tf").glob("*.so"))


def _reasons(caplog) -> list[str]:
    return [
        r.getMessage() for r in caplog.records if "TensorFlow's own operators" in r.getMessage()
    ]


@needs_native
def test_it_is_built_once(small):
    assert native_operators(AUTO) is not None
    library = _libraries(small)[0]
    written = library.stat().st_mtime_ns
    build._find_operators.cache_clear()
    assert native_operators(NATIVE) is not None
    assert library.stat().st_mtime_ns == written
    assert len(_libraries(small)) == 1


@needs_native
@pytest.mark.usefixtures("small")
def test_those_who_come_at_the_same_time_wait_for_one_build(caplog):
    logging.get_absl_logger().propagate = True
    with caplog.at_level("INFO", logger="absl"), ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: build._library(), range(4)))
    assert len(set(paths)) == 1
    assert sum("compiling" in record.getMessage() for record in caplog.records) == 1


@needs_native
def test_another_source_or_compiler_is_another_library(small, monkeypatch):
    first = build._library()
    (small / "source" / "small.cc").write_text(EMPTY.replace("1", "2"))
    second = build._library()
    wrapper = small / "cxx"
    wrapper.write_text('#!/bin/sh\n[ "$1" = --version ] && echo other && exit\nexec c++ "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("CXX", str(wrapper))
    assert len({first, second, build._library()}) == 3


@needs_native
def test_a_compiler_with_arguments_is_run_with_them(small, monkeypatch):
    (small / "with space").mkdir()
    wrapper = small / "with space" / "cache"
    wrapper.write_text(f'#!/bin/sh\necho "$1" >> "{small}/asked"\nexec "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("CXX", f"'{wrapper}' c++ -DOF_CXX")
    (small / "source" / "small.cc").write_text(EMPTY + "#ifndef OF_CXX\n#error without\n#endif\n")
    assert build._library().exists()
    assert set((small / "asked").read_text().split()) == {"c++"}
    monkeypatch.setenv("CXX", "c++ 'unclosed")
    with pytest.raises(build.NotBuiltError, match="unclosed"):
        build.find_compiler()


@pytest.mark.usefixtures("small")
def test_without_a_compiler_there_is_one_line_and_the_plain_composition(monkeypatch, caplog):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with caplog.at_level("INFO", logger="absl"):
        assert native_operators(AUTO) is None
        assert native_operators(AUTO) is None
    assert len(_reasons(caplog)) == 1
    assert "there is no C++ compiler (no-such-compiler)" in _reasons(caplog)[0]
    with pytest.raises(UserError, match=r"--kernels=native: .*no C\+\+ compiler.*--kernels=auto"):
        native_operators(NATIVE)


@needs_native
def test_a_source_that_does_not_compile_leaves_nothing_behind(small, caplog):
    (small / "source" / "small.cc").write_text("int x = nonsense;\n")
    with caplog.at_level("INFO", logger="absl"):
        assert native_operators(AUTO) is None
    assert len(_reasons(caplog)) == 1
    assert "nonsense" in _reasons(caplog)[0]
    assert [path.name for path in (small / "cache" / "candle_tf").iterdir()] == ["native.lock"]


def test_a_cache_that_cannot_be_written_is_told(small, monkeypatch, caplog):
    (small / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(small / "file"))
    with caplog.at_level("INFO", logger="absl"):
        assert native_operators(AUTO) is None
    assert len(_reasons(caplog)) == 1


@needs_native
def test_a_library_for_another_tensorflow_is_told(small, caplog):
    library = build._library()
    (small / "source" / "small.cc").write_text(
        'extern "C" int not_in_this_tensorflow();\nstatic int called = not_in_this_tensorflow();\n'
    )
    broken = build._library()
    broken.replace(library)
    (small / "source" / "small.cc").write_text(EMPTY)
    with caplog.at_level("INFO", logger="absl"):
        assert native_operators(AUTO) is None
    assert len(_reasons(caplog)) == 1
    assert "not_in_this_tensorflow" in _reasons(caplog)[0]


@needs_native
def test_a_prebuilt_library_needs_no_compiler(small, monkeypatch):
    path = build.build_into(small / "prebuilt")
    assert path.parent == small / "prebuilt"
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert native_operators(NATIVE) is not None
    assert _libraries(small) == []


def test_what_cannot_be_built_ahead_is_an_error_of_the_user(small, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="no-such-compiler"):
        build.build_into(small / "prebuilt")


def test_plain_builds_nothing(small):
    assert native_operators(PLAIN) is None
    assert not (small / "cache").exists()


def test_another_word_is_refused():
    with pytest.raises(ValueError, match="fast"):
        native_operators("fast")


def test_every_source_is_part_of_the_key_and_of_the_build():
    """A file that is included by none and listed nowhere would be dead, or missing in a wheel."""
    compiled = {source.name for source, _, _ in build._units(platform.machine())}
    text = "".join(path.read_text() for path in build.SOURCE.iterdir())
    for path in build.SOURCE.iterdir():
        assert path.suffix in (".cc", ".h")
        assert path.name in compiled or f'#include "{path.name}"' in text


@needs_native
def test_importing_the_wrappers_builds_nothing(tmp_path):
    code = "import candle_tf.native.ops, candle_tf.methods.trainer"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(build.__file__).parents[2],
        env={"PATH": "", "XDG_CACHE_HOME": str(tmp_path), "TF_USE_LEGACY_KERAS": "1"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0
    assert list(tmp_path.iterdir()) == []


@needs_native
def test_sources_compile_for_another_cpu_without_its_instruction_sets(small, monkeypatch):
    kernels = {"small.cc": ("kernels", {"avx2": ("-mno-such-option",)})}
    monkeypatch.setattr(build, "_KERNELS", kernels)
    assert build.compile_for("aarch64", build.find_compiler()) == 2
    with pytest.raises(UserError, match=r"do not compile for x86_64: .*no-such-option"):
        build.compile_for("x86_64", build.find_compiler())
    with pytest.raises(UserError, match="do not compile for aarch64: no-such-g"):
        build.compile_for("aarch64", "no-such-g++")
    assert not _libraries(small)
