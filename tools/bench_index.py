"""Shows that memory grows with the index alone: lists of three sizes indexed, split, streamed.

    python -m tools.bench_index --json=figures.json

Each size has a process of its own, with TensorFlow loaded, which opens a generated list file, draws
a long-tailed split, hashes it, and goes once over the training order of an epoch. What is printed
is each process's peak of resident memory as the operating system recorded it, and the time of each
step for an entry of the list, as a ratio to the smallest size's: 1.0 is time in proportion to size.
"""

import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from absl import flags

from candle_tf import app
from candle_tf.errors import UserError
from candle_tf.files import require_writable_file, write_atomically
from candle_tf.reporting.table import text_table
from tools.benchmarks.memory import peak

T = TypeVar("T")

CLASSES = 8_142
SIZES = ("13000", "130000", "1300000")
STEPS = ("index", "split", "hash", "stream")


def write_list(path: Path, entries: int, classes: int) -> None:
    """A list file as iNaturalist's: `<path> <label>`, classes in turn so that each has images."""
    with path.open("w") as file:
        for i in range(entries):
            label = i % classes
            name = f"train_val2018/Plantae/{label:04d}/{i * 2654435761 % 2**64:016x}{i:016x}.jpg"
            file.write(f"{name} {label}\n")


def measure(entries: int, classes: int) -> dict[str, Any]:
    """Figures of one size, from a process of its own.

    Returns:
        "entries", "classes", "peak_mb", "before_mb" (with TensorFlow and no data), "train"
        (images of the split), "hash" and "seconds" by step; JSON-ready.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, context.Pool(1) as pool:
        path = Path(folder) / "train.txt"
        write_list(path, entries, classes)
        return pool.apply(_measure_here, (str(path), entries, classes))


def _measure_here(path: str, entries: int, classes: int) -> dict[str, Any]:
    # With TensorFlow, as in a training; loaded first.
    import candle_tf.data.pipeline  # noqa: F401
    from candle_tf.data.samplers import epoch_order
    from candle_tf.data.sources.registry import open_source
    from candle_tf.data.splits.split import make_split

    before = peak()
    seconds: dict[str, float] = {}

    def time_call(step: str, work: Callable[[], T]) -> T:
        start = time.perf_counter()
        done = work()
        seconds[step] = time.perf_counter() - start
        return done

    source = time_call(
        "index", lambda: open_source("list", str(Path(path).parent), train_list=path)
    )
    split = time_call(
        "split",
        lambda: make_split(
            source,
            profile="natural",
            imbalance_factor=1,
            validation_fraction=0.1,
            test_fraction=0.2,
            seed=0,
        ),
    )
    digest = time_call("hash", lambda: split.hash)

    def stream() -> int:
        order = epoch_order(0, 0, len(split.train.ids))
        return sum(len(split.train.ids[i]) + int(split.train.labels[i]) for i in order)

    time_call("stream", stream)
    return {
        "entries": entries,
        "classes": classes,
        "train": len(split.train.ids),
        "hash": digest,
        "before_mb": before,
        "peak_mb": peak(),
        "seconds": seconds,
    }


def bench_text(figures: list[dict[str, Any]]) -> str:
    """Peaks, and times for an entry relative to the first size's."""
    first = figures[0]
    rows = []
    for row in figures:
        scale = first["entries"] / row["entries"]
        ratios = {step: row["seconds"][step] / first["seconds"][step] * scale for step in STEPS}
        rows.append(
            {
                "entries": f"{row['entries']:,}",
                "classes": f"{row['classes']:,}",
                "peak MB": f"{row['peak_mb']:.0f}",
                "before MB": f"{row['before_mb']:.0f}",
                **{step: f"{ratio:.2f}" for step, ratio in ratios.items()},
            }
        )
    return text_table(rows, list(rows[0]))


def main() -> None:
    """Measures all sizes, smallest first, and prints the table."""
    given = flags.FLAGS
    try:
        sizes = sorted(int(size) for size in given.sizes)
    except ValueError as error:
        raise UserError(f"--sizes={','.join(given.sizes)}: give whole numbers.") from error
    # Four images a class are the fewest from which a test set can be held out.
    classes = [min(given.classes, size // 4) for size in sizes]
    if not sizes or min(classes) < 2:
        raise UserError(f"--sizes={','.join(given.sizes)}, --classes={given.classes}: too few.")
    if given.json:
        require_writable_file(Path(given.json))
    figures = [measure(size, count) for size, count in zip(sizes, classes, strict=True)]
    if given.json:
        write_atomically(Path(given.json), (json.dumps(figures, indent=2) + "\n").encode())
    print(f"{bench_text(figures)}\n\nTimes are for an entry, relative to the first row's.")


if __name__ == "__main__":
    flags.DEFINE_list("sizes", list(SIZES), "numbers of entries")
    flags.DEFINE_integer("classes", CLASSES, "classes, fewer where a size is small")
    flags.DEFINE_string("json", None, "where to write the figures")
    app.run(lambda _: main())
