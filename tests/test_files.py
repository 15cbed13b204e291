import ast
import errno
import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import tensorflow as tf

from candle_tf.errors import UserError
from candle_tf.files import (
    explain_full_disk,
    parse_json,
    read_json_object,
    require_writable_file,
    sha256_of_file,
    write_atomically,
    write_each,
)

_ROOT = Path(__file__).parents[1]


def test_writes_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "a" / "b" / "file.json"
    write_atomically(path, b"first, and longer")
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    assert [p.name for p in path.parent.iterdir()] == ["file.json"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("bad", ["text", None, 3])
def test_a_failing_write_leaves_the_old_file_and_no_litter(tmp_path, bad):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, bad)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_failing_replacement_leaves_no_litter(tmp_path):
    taken = tmp_path / "taken"
    (taken / "inside").mkdir(parents=True)
    with pytest.raises(UserError, match="taken cannot be written"):
        write_atomically(taken, b"new")
    assert os.listdir(tmp_path) == ["taken"]
    assert os.listdir(taken) == ["inside"]


@pytest.mark.parametrize("name", ["folder", "file/a", "file/a/b", "n" * 250, "link", "gone"])
def test_a_path_that_cannot_be_written_is_refused_before_as_it_is_at_the_end(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    (tmp_path / "gone").symlink_to(tmp_path / "file" / "a")
    before = sorted(os.listdir(tmp_path))
    for check in (require_writable_file, lambda path: write_atomically(path, b"new")):
        with pytest.raises(UserError, match="cannot be written"):
            check(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == before
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.skipif(os.geteuid() == 0, reason="may write anywhere")
def test_a_folder_without_rights_is_refused_before(tmp_path):
    tmp_path.chmod(0o500)
    for name in ("file", "a/b/file"):
        with pytest.raises(UserError, match="Permission denied"):
            require_writable_file(tmp_path / name)


def test_what_can_be_written_is_not_touched_before(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(os.listdir(tmp_path))
    for name in ("file", "new", "a/b/new", "pipe", "/dev/null"):
        require_writable_file(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == before
    assert (tmp_path / "file").read_bytes() == b"old"


def test_files_are_written_also_where_another_one_cannot_be(tmp_path):
    paths = [tmp_path, tmp_path / "a", tmp_path / "a" / "b", tmp_path / "c"]
    with pytest.raises(UserError) as told:
        write_each(partial(write_atomically, path, b"new") for path in paths)
    assert [(tmp_path / name).read_bytes() for name in "ac"] == [b"new", b"new"]
    for path in (paths[0], paths[2]):
        assert f"{path} cannot be written" in str(told.value)


def test_a_link_stays_one_and_its_file_is_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "report.json"
    link.symlink_to(tmp_path / "disk" / "report.json")
    for data in (b"first", b"second"):
        write_atomically(link, data)
        assert link.is_symlink()
        assert (tmp_path / "disk" / "report.json").read_bytes() == data
    assert sorted(os.listdir(tmp_path)) == ["disk", "report.json"]


def test_a_pipe_is_written_to(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_bytes)
        write_atomically(pipe, [b"two ", b"pieces"])
        assert read.result(60) == b"two pieces"
    assert pipe.is_fifo()


_TO_STANDARD_OUTPUT = """
import sys
from pathlib import Path
from candle_tf.files import write_atomically

print("before")
write_atomically(Path(sys.argv[1]), b"figures\\n")
print("after")
"""


@pytest.mark.parametrize("to", ["a pipe", "a file"])
def test_standard_output_is_written_to(tmp_path, to):
    # As /dev/stdout is, which a wrong write would replace.
    link = tmp_path / "stdout"
    link.symlink_to("/proc/self/fd/1")
    command = [sys.executable, "-c", _TO_STANDARD_OUTPUT, str(link)]
    if to == "a pipe":
        printed = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, check=True).stdout
    else:
        with (tmp_path / "out").open("wb") as out:
            subprocess.run(command, cwd=_ROOT, stdout=out, check=True)
        printed = (tmp_path / "out").read_bytes()
        assert sorted(os.listdir(tmp_path)) == ["out", "stdout"]
    assert link.is_symlink()
    assert printed == b"before\nfigures\nafter\n"


_ON_A_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from candle_tf.errors import UserError
from candle_tf.files import write_atomically

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomically(Path(sys.argv[1]), b"x" * 5000)
except UserError as error:
    sys.exit(0 if "cannot be written" in str(error) else 3)
sys.exit(4)
"""


def test_a_write_that_fails_half_way_leaves_the_old_file_and_no_litter(tmp_path):
    """In a process of its own, as the limit holds for pytest's output too."""
    path = tmp_path / "report.html"
    path.write_bytes(b"old")
    process = subprocess.run([sys.executable, "-c", _ON_A_FULL_DISK, path], cwd=_ROOT)
    assert process.returncode == 0
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["report.html"]


def test_a_reader_keeps_the_file_it_opened(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with path.open("rb") as reader:
        write_atomically(path, b"new, and longer")
        assert reader.read() == b"old"


@pytest.mark.parametrize("size", [0, 3, 1 << 20, (1 << 20) + 1])
def test_sha256_of_a_file(tmp_path, size):
    data = bytes(i * 7 % 256 for i in range(256)) * (size // 256) + b"x" * (size % 256)
    path = tmp_path / "file"
    path.write_bytes(data)
    assert sha256_of_file(path) == hashlib.sha256(data).hexdigest()


def test_sha256_of_a_published_example(tmp_path):
    """FIPS 180-2, appendix B.1."""
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert sha256_of_file(path) == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"],
    ids=["empty", "cut", "list", "no text", "brackets", "digits"],
)
def test_json_that_is_no_object_is_refused_by_name(tmp_path, data):
    path = tmp_path / "record.json"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"record\.json is damaged .* Delete it\.$"):
        read_json_object(path, "Delete it.")


def test_a_json_object_is_read(tmp_path):
    (tmp_path / "record.json").write_text('{"a": [1, "ä"]}', encoding="utf-8")
    assert read_json_object(tmp_path / "record.json", "") == {"a": [1, "ä"]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("9" * 5000, "whole number of thousands of digits"),
        ("{", "Expecting property name"),
        (b"\xff\xfe\xff", "can't decode"),
    ],
    ids=["brackets", "objects", "digits", "cut", "no text"],
)
def test_json_that_python_cannot_read_is_a_value_error(text, words):
    with pytest.raises(ValueError, match=words):
        parse_json(text)


def test_json_of_others_is_read_in_one_place():
    """Else a reader would forget what `parse_json` guards against."""
    own = {"files.py"}
    package = _ROOT / "candle_tf"
    found = [
        f"{path.relative_to(package)}:{node.lineno}"
        for path in package.rglob("*.py")
        if str(path.relative_to(package)) not in own
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr in ("load", "loads")
        and isinstance(node.value, ast.Name)
        and node.value.id in ("json", "pickle")
    ]
    assert not found


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_explained(tmp_path):
    with pytest.raises(OSError, match="No space left") as full:
        Path("/dev/full").write_text("x")
    message = str(explain_full_disk(full.value, tmp_path))
    assert f"no room left on the disk in {tmp_path}, where " in message
    assert "MB are free" in message
    assert message.endswith("run the same command again: it resumes.")
    assert "no room left" in str(explain_full_disk(full.value))


def test_tensorflows_own_error_is_explained_and_others_are_not(tmp_path):
    error = tf.errors.ResourceExhaustedError(
        None, None, "x/variables; No space left on device\n[t]"
    )
    assert "(x/variables; No space left on device)" in str(explain_full_disk(error, tmp_path))
    named = OSError(errno.EDQUOT, "Disk quota exceeded", str(tmp_path / "file"))
    assert f"on the disk in {tmp_path}, where" in str(explain_full_disk(named))
    assert explain_full_disk(FileNotFoundError(errno.ENOENT, "none", "x")) is None
    assert explain_full_disk(ValueError("shapes")) is None


def test_a_file_that_finds_no_room_is_told_with_its_bytes(tmp_path, monkeypatch):
    def fill(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fill)
    with pytest.raises(UserError, match=r"MB are free for .*new, which needs 3\.0 MB \(.*resumes"):
        write_atomically(tmp_path / "new", bytes(3_000_000))
    assert not list(tmp_path.iterdir())
