import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from candle_tf.data.cached_arrays import key_digest, stored_array
from candle_tf.errors import UserError

_ROOT = Path(__file__).parents[2]
SHAPE = (10, 3)
BLOCK = 4
BLOCKS = [(0, 4), (4, 8), (8, 10)]
KEY = {"teacher": "abc", "side": 8}


def expected_rows(factor: float = 1.0) -> np.ndarray:
    return (np.arange(30).reshape(SHAPE) * factor).astype(np.float16)


class Work:
    """Computes `expected_rows` and records the ranges it was called with."""

    def __init__(self, factor: float = 1.0, fails_at: int | None = None) -> None:
        self.factor, self.fails_at = factor, fails_at
        self.ranges: list[tuple[int, int]] = []

    def __call__(self, start: int, stop: int) -> np.ndarray:
        if start == self.fails_at:
            raise RuntimeError("interrupted")
        self.ranges.append((start, stop))
        return expected_rows(self.factor)[start:stop]


def open_array(folder, work, key=KEY, shape=SHAPE, block=BLOCK):
    return stored_array(folder, "features", key, shape, "float16", block, work)


def only(folder, suffix):
    (path,) = folder.glob(f"*{suffix}")
    return path


def flip_byte(path, row):
    """Changes one byte of a row of a stored float16 array."""
    data = bytearray(path.read_bytes())
    header = len(data) - expected_rows().nbytes
    data[header + row * SHAPE[1] * 2] ^= 0x10
    path.write_bytes(bytes(data))


def test_computes_every_row_once_in_order(tmp_path):
    work = Work()
    array = open_array(tmp_path / "made" / "here", work)
    assert work.ranges == BLOCKS
    assert array.dtype == np.float16
    np.testing.assert_array_equal(array, expected_rows())


def test_opens_again_without_computing(tmp_path):
    open_array(tmp_path, Work())
    work = Work(factor=5.0)
    np.testing.assert_array_equal(open_array(tmp_path, work), expected_rows())
    assert work.ranges == []


def test_the_array_cannot_be_written_to(tmp_path):
    for array in (open_array(tmp_path, Work()), open_array(tmp_path, Work())):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1


@pytest.mark.parametrize("block", [1, 2])
def test_resumes_at_the_block_that_failed(tmp_path, block):
    first = Work(fails_at=BLOCKS[block][0])
    with pytest.raises(RuntimeError, match="interrupted"):
        open_array(tmp_path, first)
    assert first.ranges == BLOCKS[:block]
    second = Work()
    np.testing.assert_array_equal(open_array(tmp_path, second), expected_rows())
    assert second.ranges == BLOCKS[block:]
    third = Work()
    open_array(tmp_path, third)
    assert third.ranges == []


def test_restarts_where_the_first_block_failed(tmp_path):
    with pytest.raises(RuntimeError, match="interrupted"):
        open_array(tmp_path, Work(fails_at=0))
    work = Work()
    np.testing.assert_array_equal(open_array(tmp_path, work), expected_rows())
    assert work.ranges == BLOCKS


@pytest.mark.parametrize(("row", "block"), [(0, 0), (5, 1), (9, 2)])
def test_a_damaged_block_alone_is_computed_again(tmp_path, caplog, row, block):
    open_array(tmp_path, Work())
    flip_byte(only(tmp_path, ".npy"), row)
    work = Work()
    with caplog.at_level(logging.WARNING):
        array = open_array(tmp_path, work)
    assert work.ranges == [BLOCKS[block]]
    np.testing.assert_array_equal(array, expected_rows())
    assert "1 damaged block(s)" in caplog.text
    again = Work()
    open_array(tmp_path, again)
    assert again.ranges == []


def test_another_key_is_another_file(tmp_path):
    open_array(tmp_path, Work())
    other = {**KEY, "teacher": "def"}
    work = Work(factor=2.0)
    np.testing.assert_array_equal(open_array(tmp_path, work, key=other), expected_rows(2.0))
    assert work.ranges == BLOCKS
    assert len(list(tmp_path.glob("*.npy"))) == 2
    np.testing.assert_array_equal(open_array(tmp_path, Work(fails_at=0)), expected_rows())


def test_the_order_of_the_key_does_not_matter(tmp_path):
    open_array(tmp_path, Work())
    work = Work()
    open_array(tmp_path, work, key=dict(reversed(KEY.items())))
    assert work.ranges == []
    assert key_digest(KEY) == key_digest(dict(reversed(KEY.items())))
    assert key_digest(KEY) != key_digest({**KEY, "side": 9})


def test_another_block_size_is_computed_again(tmp_path):
    open_array(tmp_path, Work())
    work = Work()
    np.testing.assert_array_equal(open_array(tmp_path, work, block=5), expected_rows())
    assert work.ranges == [(0, 5), (5, 10)]


def test_the_key_stands_beside_the_array(tmp_path):
    open_array(tmp_path, Work())
    assert json.loads(only(tmp_path, ".json").read_text())["key"] == KEY


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"\xff\xfe", b"[]", b"null", b"{}", b'{"block": 4, "checksums": [1]}',
     b'{"block": 4, "checksums": {"first": 1}}'],
)  # fmt: skip
def test_a_damaged_record_is_made_again_with_a_warning(tmp_path, caplog, damage):
    open_array(tmp_path, Work())
    only(tmp_path, ".json").write_bytes(damage)
    work = Work()
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(open_array(tmp_path, work), expected_rows())
    assert work.ranges == BLOCKS
    assert "damaged" in caplog.text


@pytest.mark.parametrize("length", [0, 5, 70, -1], ids=["empty", "magic", "header", "last byte"])
def test_a_truncated_array_is_made_again_with_a_warning(tmp_path, caplog, length):
    open_array(tmp_path, Work())
    path = only(tmp_path, ".npy")
    path.write_bytes(path.read_bytes()[:length])
    work = Work()
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(open_array(tmp_path, work), expected_rows())
    assert work.ranges == BLOCKS
    assert "damaged" in caplog.text


def test_a_missing_record_or_array_is_made_again(tmp_path):
    for suffix in (".json", ".npy"):
        open_array(tmp_path, Work())
        only(tmp_path, suffix).unlink()
        work = Work()
        np.testing.assert_array_equal(open_array(tmp_path, work), expected_rows())
        assert work.ranges == BLOCKS


def test_a_file_under_the_name_of_another_key_is_not_used(tmp_path):
    """A name has only the first digits of the key's digest; the manifest holds the key."""
    other = {**KEY, "teacher": "def"}
    open_array(tmp_path, Work())
    for suffix in (".npy", ".json"):
        path = only(tmp_path, suffix)
        path.rename(tmp_path / f"features-{key_digest(other)[:16]}{suffix}")
    work = Work(factor=2.0)
    np.testing.assert_array_equal(open_array(tmp_path, work, key=other), expected_rows(2.0))
    assert work.ranges == BLOCKS


def test_the_size_and_what_is_missing_are_told(tmp_path, caplog):
    with pytest.raises(RuntimeError, match="interrupted"):
        open_array(tmp_path, Work(fails_at=4), shape=(10**5, 3))
    with (
        caplog.at_level(logging.INFO, logger="absl"),
        pytest.raises(RuntimeError, match="interrupted"),
    ):
        open_array(tmp_path, Work(fails_at=4), shape=(10**5, 3))
    assert "computing 99996 of 100000 rows; 0.6 MB on disk" in caplog.text


_ON_A_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from candle_tf.data.cached_arrays import stored_array
from candle_tf.errors import UserError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def compute(start, stop):
    sys.exit(5)
folder = Path(sys.argv[1])
folder.mkdir()
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
try:
    stored_array(folder, "features", {}, (1000, 10), "float16", 10, compute)
except UserError as error:
    sys.exit(0 if "cannot be reserved" in str(error) and "--cache_dir" in str(error) else 3)
sys.exit(4)
"""


def test_room_is_reserved_before_anything_is_computed(tmp_path):
    """In a process of its own, as the limit holds for pytest's output too."""
    folder = tmp_path / "cache"
    done = subprocess.run(
        [sys.executable, "-c", _ON_A_FULL_DISK, str(folder)], cwd=_ROOT, check=False
    )
    assert done.returncode == 0
    assert list(folder.glob("*.npy")) == []


def test_a_disk_that_is_too_small_is_named_before_anything_is_written(tmp_path):
    with pytest.raises(UserError) as caught:
        open_array(tmp_path, Work(), shape=(10**9, 10**6))
    message = str(caught.value)
    assert "features takes 2000000000 MB" in message
    assert "MB are free" in message
    assert str(tmp_path) in message
    assert "--cache_dir" in message
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
