"""Compiles the native operators once, keeps the library, and loads it.

    operators = native_operators("auto")        # TensorFlow's module of operators, or None
    operators.candle_adam(...)

Nothing but a C++ compiler and the headers inside the tensorflow package is needed. The library lies
in a cache folder under a name that depends on the sources, the compiler, the flags and TensorFlow's
version, so that a change of any of them builds another one.
"""

import fcntl
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tensorflow as tf
from absl import logging

from candle_tf.errors import UserError

AUTO, NATIVE, PLAIN = "auto", "native", "plain"
KERNELS = (AUTO, NATIVE, PLAIN)

SOURCE = Path(__file__).parent / "source"
# Where a wheel or an image may carry the library, built by `build_into`.
PREBUILT = Path(__file__).parent / "prebuilt"

_COMPILERS = ("g++", "c++", "clang++")
_FLAGS = ("-O2", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off")
# What is compiled once, the longest first.
_FILES = ("operators.cc", "dispatch.cc")
_AVX2 = ("-mavx2", "-mfma")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl")
_X86 = {"avx2": _AVX2, "avx512": _AVX512}
# Files that are compiled for several instruction sets: the end of the name of the function that
# each gives, and the sets beside the machine's baseline.
_KERNELS: Mapping[str, tuple[str, Mapping[str, tuple[str, ...]]]] = {
    "kernels.cc": ("kernels", _X86),
    "binary_kernels.cc": (
        "binary_kernels",
        {**_X86, "avx512popcnt": (*_AVX512, "-mavx512vpopcntdq")},
    ),
    "lookup_kernels.cc": ("lookup_kernels", _X86),
    "gemm_kernels.cc": ("gemm_kernels", {**_X86, "avx512bf16": (*_AVX512, "-mavx512bf16")}),
}


class NotBuiltError(Exception):
    """Why there is no library, in one sentence."""


def native_operators(kernels: str) -> Any:
    """The module of native operators that --kernels stands for.

    Built, at most once a process, on the first call that wants it; what was found is logged in one
    line.

    Args:
        kernels: "plain" (none), "auto" (those that can be had), or "native" (they must be).

    Returns:
        The module that `tf.load_op_library` gives, or None for the plain composition.

    Raises:
        UserError: for "native", where they cannot be built or loaded.
        ValueError: for another word.
    """
    if kernels not in KERNELS:
        raise ValueError(f"unknown kernels {kernels!r}: one of {', '.join(KERNELS)}")
    if kernels == PLAIN:
        return None
    module, reason = _find_operators()
    if module is None and kernels == NATIVE:
        raise UserError(f"--kernels=native: {reason} Give --kernels=auto to train without them.")
    return module


@functools.lru_cache(maxsize=1)
def _find_operators() -> tuple[Any, str]:
    """The module, or None and why."""
    try:
        return tf.load_op_library(str(_library())), ""
    # A RuntimeError is Python's where a user has no home folder.
    except (NotBuiltError, OSError, RuntimeError, tf.errors.OpError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = f"the native operators cannot be used here: {lines[0].rstrip('.')}."
        told = reason[0].upper() + reason[1:]
        logging.info("%s Training runs on TensorFlow's own operators.", told)
        return None, reason


def _library() -> Path:
    """The library's file, built if there is none."""
    prebuilt = PREBUILT / _prebuilt_name()
    if prebuilt.exists():
        return prebuilt
    compiler = find_compiler()
    path = cached_path(compiler)
    if path.exists():
        return path
    with _lock(path.parent):
        if not path.exists():
            logging.info("compiling native operators, once (about a minute), into %s", path)
            build(compiler, path)
    return path


def cached_path(compiler: str) -> Path:
    """The file in the cache of the library that a compiler makes of these sources."""
    return cache_folder() / f"{_key(_version_of(compiler))}.so"


def cache_folder() -> Path:
    """The folder of built libraries: candle_tf in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "candle_tf"


def find_compiler() -> str:
    """The C++ compiler: $CXX, or the first of the usual names on the path.

    Returns:
        A command line as for a shell: $CXX may have arguments ("ccache g++").

    Raises:
        NotBuiltError: where there is none.
    """
    wanted = os.environ.get("CXX", "").strip()
    names = (wanted,) if wanted else _COMPILERS
    for name in names:
        try:
            command, *arguments = shlex.split(name)
        except ValueError as error:
            raise NotBuiltError(f"CXX={name} is no command ({error})") from error
        if found := shutil.which(command):
            return shlex.join([found, *arguments])
    raise NotBuiltError(f"there is no C++ compiler ({', '.join(names)})")


def build(compiler: str, path: Path, extra: Sequence[str] = ()) -> None:
    """Compiles and links the library; puts it in place in one step.

    Args:
        compiler: a C++17 compiler that takes g++'s options, as a command line.
        path: the library's file, in a folder that exists.
        extra: further options for each file and for linking (sanitizers).
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        folder = Path(name)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(
                pool.map(
                    lambda unit: _compile(compiler, unit, folder, extra),
                    _units(platform.machine()),
                )
            )
        library = folder / path.name
        objects_and_flags = [*map(str, objects), *tf.sysconfig.get_link_flags(), *extra]
        _run([*shlex.split(compiler), "-shared", "-o", str(library), *objects_and_flags])
        library.replace(path)


def build_into(folder: Path = PREBUILT) -> Path:
    """Builds the library that a wheel or an image carries; it needs no compiler afterwards.

    Args:
        folder: for it; only a library in `PREBUILT` is loaded.

    Returns:
        The library's file.

    Raises:
        UserError: where it cannot be built.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _prebuilt_name()
    try:
        build(find_compiler(), path)
    except NotBuiltError as error:
        raise UserError(f"The native operators cannot be built: {error}") from error
    return path


def compile_for(machine: str, compiler: str) -> int:
    """Compiles every source for another kind of CPU, and keeps nothing.

    Args:
        machine: as `platform.machine` names it: "aarch64", "x86_64".
        compiler: a cross compiler for it.

    Returns:
        How many objects were compiled.

    Raises:
        UserError: where one cannot be compiled.
    """
    units = _units(machine)
    with tempfile.TemporaryDirectory() as name:
        try:
            for unit in units:
                _compile(compiler, unit, Path(name), ())
        except NotBuiltError as error:
            raise UserError(
                f"The native operators do not compile for {machine}: {error}"
            ) from error
    return len(units)


def _units(machine: str) -> list[tuple[Path, str, tuple[str, ...]]]:
    """What is compiled for a kind of CPU: source, name of the object, options of its own."""
    x86 = machine in ("x86_64", "AMD64")
    kernels = [
        (SOURCE / file, f"{name}_{suffix}", (f"-DCANDLE_KERNELS={name}_{suffix}", *options))
        for file, (suffix, sets) in _KERNELS.items()
        for name, options in {"baseline": (), **(sets if x86 else {})}.items()
    ]
    return [*((SOURCE / file, Path(file).stem, ()) for file in _FILES), *kernels]


def _compile(
    compiler: str, unit: tuple[Path, str, tuple[str, ...]], folder: Path, extra: Sequence[str]
) -> Path:
    source, name, options = unit
    result = folder / f"{name}.o"
    flags = [*_compile_flags(), *options, *extra]
    _run([*shlex.split(compiler), *flags, "-c", str(source), "-o", str(result)])
    return result


def _compile_flags() -> list[str]:
    # TensorFlow's own headers are full of warnings.
    return [*tf.sysconfig.get_compile_flags(), "-std=c++17", "-w", *_FLAGS]


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise NotBuiltError(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line.lower()]
        reason = (errors or done.stderr.splitlines() or ["no message"])[0]
        raise NotBuiltError(f"{Path(command[0]).name} failed: {reason}")


def _version_of(compiler: str) -> str:
    command = [*shlex.split(compiler), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout or compiler).splitlines()[0]


def _prebuilt_name() -> str:
    return f"{_key('')}.so"


def _key(compiler: str) -> str:
    digest = hashlib.sha256()
    for path in sorted(SOURCE.iterdir()):
        if path.suffix in (".cc", ".h"):
            digest.update(path.name.encode() + path.read_bytes())
    # The flags' folders are the installation's; what they hold follows from the version.
    flags = [flag for flag in _compile_flags() if not flag.startswith("-I")]
    about = [compiler, tf.__version__, platform.machine(), *flags, repr(_KERNELS)]
    digest.update("\0".join(about).encode())
    return f"native-{digest.hexdigest()[:16]}"


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One process builds; others wait for it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "native.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
