import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from candle_tf.data.cached_arrays import Shard, key_digest, stored_array
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


def test_finished_blocks_that_are_not_to_be_used_are_computed_again(tmp_path):
    open_array(tmp_path, Work(factor=5.0))
    given = {}

    def is_current(start, rows):
        given[start] = rows.copy()
        return start != 4

    work = Work()
    array = stored_array(
        tmp_path, "features", KEY, SHAPE, "float16", BLOCK, work, is_current=is_current
    )
    assert work.ranges == [(4, 8)]
    np.testing.assert_array_equal(array[4:8], expected_rows()[4:8])
    np.testing.assert_array_equal(array[:4], expected_rows(5.0)[:4])
    # It is asked of blocks that were finished before, each with its own rows.
    for start, stop in BLOCKS:
        np.testing.assert_array_equal(given[start], expected_rows(5.0)[start:stop])
    work = Work()
    np.testing.assert_array_equal(open_array(tmp_path, work), array)
    assert work.ranges == []
    fresh = Work()
    stored_array(
        tmp_path, "others", KEY, SHAPE, "float16", BLOCK, fresh, is_current=lambda *_: False
    )
    assert fresh.ranges == BLOCKS


def test_rows_of_finished_blocks_alone_are_checked_before_others_are_computed(tmp_path):
    given = []

    def check(rows, stored):
        given.append(rows)
        np.testing.assert_array_equal(stored, expected_rows()[rows])
        if not 0 < sum(map(len, given)) < 15:
            raise UserError("changed")

    def open_checked(work):
        return stored_array(
            tmp_path, "features", KEY, SHAPE, "float16", BLOCK, work, check=check
        )  # fmt: skip

    work = Work()
    open_checked(work)
    assert (given, work.ranges) == ([], BLOCKS)
    open_checked(Work())
    # Four pairs, of which the rows 3 and 6 are in two.
    assert given[0].tolist() == [0, 1, 2, 3, 5, 6, 8, 9]
    flip_byte(only(tmp_path, ".npy"), 5)
    work = Work()
    open_checked(work)
    assert given[1].tolist() == [0, 1, 2, 3, 8, 9]
    assert work.ranges == [(4, 8)]
    flip_byte(only(tmp_path, ".npy"), 5)
    work = Work()
    with pytest.raises(UserError, match="changed"):
        open_checked(work)
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


_ONE_OF_SEVERAL = """
import sys, time
from pathlib import Path
import numpy as np
from candle_tf.data.cached_arrays import stored_array

folder, name, hangs_at = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
def compute(start, stop):
    with (folder / f"{name}.blocks").open("a") as file:
        file.write(f"{start}\\n")
    time.sleep(600 if start == hangs_at else 0.02)
    return np.arange(3 * start, 3 * stop).reshape(-1, 3)
array = stored_array(folder, "features", {"of": "all"}, (120, 3), "float16", 3, compute)
assert (array == np.arange(360).reshape(120, 3)).all()
"""


def start_process(folder: Path, name: str, hangs_at: int = -1) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", _ONE_OF_SEVERAL, str(folder), name, str(hangs_at)], cwd=_ROOT
    )


def blocks_of(folder: Path, name: str) -> list[int]:
    path = folder / f"{name}.blocks"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def test_several_processes_compute_an_array_together(tmp_path):
    """Each block by one of them; all of them return the whole."""
    names = ("a", "b", "c")
    processes = [start_process(tmp_path, name) for name in names]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    by_process = [blocks_of(tmp_path, name) for name in names]
    assert sorted(start for part in by_process for start in part) == list(range(0, 120, 3))
    assert sum(map(bool, by_process)) >= 2


def test_the_block_of_a_killed_process_is_computed_by_another(tmp_path):
    stuck = start_process(tmp_path, "stuck", hangs_at=30)
    while 30 not in blocks_of(tmp_path, "stuck"):
        time.sleep(0.02)
    other = start_process(tmp_path, "other")
    while 117 not in blocks_of(tmp_path, "other"):
        time.sleep(0.02)
    # It waits for the block that is locked.
    assert other.poll() is None
    assert 30 not in blocks_of(tmp_path, "other")
    stuck.kill()
    stuck.wait(60)
    assert other.wait(60) == 0
    assert blocks_of(tmp_path, "other")[-1] == 30


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shards_are_all_blocks_once(tmp_path, count):
    work = Work()
    for number in range(count, 0, -1):
        shard = Shard(number, count)
        stored_array(tmp_path, "features", KEY, SHAPE, "float16", BLOCK, work, shard)
    assert sorted(work.ranges) == BLOCKS
    nothing = Work()
    np.testing.assert_array_equal(open_array(tmp_path, nothing), expected_rows())
    assert nothing.ranges == []


def test_a_structured_type_is_stored_and_checked(tmp_path):
    dtype = np.dtype([("values", "<f2", 2), ("rest", "<f4")])
    rows = np.zeros(10, dtype)
    rows["values"], rows["rest"] = np.arange(20).reshape(10, 2), np.arange(10)
    for _ in range(2):
        stored = stored_array(
            tmp_path, "features", KEY, (10,), dtype, BLOCK, lambda start, stop: rows[start:stop]
        )
        np.testing.assert_array_equal(stored, rows)
