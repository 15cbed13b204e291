"""Whether the step waits for images: training on files against training on images in memory.

    python -m tools.bench_input --data_dir=caltech101.zip --json=input.json

Four sides take turns, each an epoch of the same student's full training steps on the same images:
`ready` (the finished inputs of one batch again and again: no input pipeline at all), `memory`
(decoded images in memory), `disk` (the store, memory-mapped: --store=disk) and `stream` (files
decoded whenever needed: --store=stream). The store is filled before; that is a run's first epoch.
Then each kind of view is made without a student: its part of the step's time.
"""

import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from candle_tf import app
from candle_tf.config import Config
from candle_tf.errors import UserError
from candle_tf.files import require_writable_file, write_atomically
from candle_tf.reporting.table import text_table

if TYPE_CHECKING:
    from candle_tf.data.augment.augmentation import Augmentation
    from candle_tf.data.subset import Subset
    from tools.benchmarks.workload import Workload

_SIDES = ("memory", "disk", "stream")


def define_flags() -> None:
    """Defines this main's flags."""
    defaults = Config()
    student = defaults.student
    flags.DEFINE_string("data_dir", "", "a folder or archive of images")
    flags.DEFINE_integer("images", 512, "how many of them an epoch has", lower_bound=1)
    flags.DEFINE_string("student", student.student, "whose steps are timed")
    flags.DEFINE_float("width", student.width, "multiplier of the student's channels")
    flags.DEFINE_integer("image_size", student.image_size, "side of the student's input")
    flags.DEFINE_integer("batch_size", defaults.training.batch_size, "images in a step")
    flags.DEFINE_integer("side", 160, "side of the stored images in pixels", lower_bound=8)
    flags.DEFINE_integer("repeats", 5, "rounds in which every side is timed", lower_bound=1)
    flags.DEFINE_string("json", None, "where to write the figures")


def measure(load: "Workload", data_dir: str, side: int, repeats: int) -> dict[str, Any]:
    """Times all sides in turn.

    Args:
        load: the student, and `images` images an epoch.
        data_dir: a folder or archive.
        side: of the stored images in pixels.
        repeats: rounds.

    Returns:
        JSON-ready: "steps", by side the seconds of its epochs and the quotients by those of "ready"
        and "memory"; "views", by kind of view the same without a student and the quotient by
        "memory"; "peak_mb".

    Raises:
        UserError: where data_dir holds too few images, or cannot be read.
    """
    from candle_tf.timing import alternate, images_per_second, ratio_of
    from tools.benchmarks.memory import peak
    from tools.benchmarks.workload import cross_entropy, one_epoch

    with (
        tempfile.TemporaryDirectory() as folder,
        _open_stores(load, data_dir, side, folder) as examples,
    ):
        trainer = cross_entropy(load)
        sides = {name: one_epoch(load, examples[name], trainer) for name in _SIDES}
        seconds = alternate({"ready": _ready(load, examples["memory"], trainer), **sides}, repeats)
        without_student = alternate(
            {name: _views_alone(load, *given) for name, given in _views(examples).items()}, repeats
        )
    return {
        "settings": {**dataclasses.asdict(load), "side": side, "repeats": repeats},
        "steps": {
            name: {
                "seconds": times,
                "images_per_s": images_per_second(times, load.images),
                "over_ready": dataclasses.asdict(ratio_of(times, seconds["ready"])),
                "over_memory": dataclasses.asdict(ratio_of(times, seconds["memory"])),
            }
            for name, times in seconds.items()
        },
        "views": {
            name: {
                "seconds": times,
                "ms_per_image": 1e3 / images_per_second(times, load.images),
                "of_step": dataclasses.asdict(ratio_of(times, seconds["memory"])),
            }
            for name, times in without_student.items()
        },
        "peak_mb": peak(),
    }


@contextmanager
def _open_stores(
    load: "Workload", data_dir: str, side: int, folder: str
) -> Iterator[dict[str, "Subset"]]:
    """The same images in memory, in a store on disk, and from their files."""
    from candle_tf.data.images.store import open_image_store
    from candle_tf.data.sources.registry import open_source
    from candle_tf.data.subset import Subset

    with open_source("folder", data_dir) as source:
        if len(source.train.ids) < load.images:
            raise UserError(
                f"--data_dir={data_dir} holds {len(source.train.ids)} training images, fewer "
                f"than the {load.images} of --images; give a larger set or a smaller number."
            )
        # Of all classes: files of one class lie together and may be alike.
        order = np.random.default_rng(0).permutation(len(source.train.ids))[: load.images]
        ids = [source.train.ids[place] for place in order]
        labels = source.train.labels[order] % load.classes
        disk, stream = (
            open_image_store(source, ids, side, Path(folder), store=store)
            for store in ("disk", "stream")
        )
        memory = dataclasses.replace(disk, array=np.array(disk.array))
        rows = np.arange(len(ids))
        stores = zip(_SIDES, (memory, disk, stream), strict=True)
        yield {name: Subset(store, rows, labels) for name, store in stores}


def _ready(load: "Workload", examples: "Subset", trainer: Any) -> Callable[[], None]:
    """As many steps on one batch that is there already."""
    import tensorflow as tf

    from candle_tf.methods.trainer import TOTAL_LOSS
    from tools.benchmarks.workload import batches_of

    batch = next(iter(batches_of(load, examples)))
    batches = tf.data.Dataset.from_tensors(batch).repeat()
    step = trainer.make_train_function()

    def run() -> None:
        iterator = iter(batches)
        for _ in range(load.steps):
            logs = step(iterator)
        float(logs[TOTAL_LOSS])

    return run


def _views(examples: dict[str, "Subset"]) -> dict[str, tuple["Subset", "Augmentation"]]:
    from candle_tf.data.augment.augmentation import make_augmentation
    from candle_tf.data.augment.settings import AugmentSettings

    def views(kind: str = "pad_crop_flip", **settings: Any) -> "Augmentation":
        return make_augmentation(AugmentSettings(kind, **settings), seed=0)

    memory = examples["memory"]
    return {
        "pad_crop_flip": (memory, views()),
        "pad_crop_flip, stream": (examples["stream"], views()),
        "random_resized_crop_flip": (memory, views("random_resized_crop_flip")),
        "color_jitter 0.4": (memory, views(color_jitter=0.4)),
        "randaugment 2, 9": (memory, views(randaugment_magnitude=9.0)),
        "cutmix": (memory, views(mix="cutmix")),
    }


def _views_alone(
    load: "Workload", examples: "Subset", augmentation: "Augmentation"
) -> Callable[[], None]:
    from tools.benchmarks.workload import batches_of

    batches = batches_of(load, examples, augmentation)

    def run() -> None:
        for batch in batches:
            assert batch["inputs"].shape[0] == load.batch_size

    return run


def _quotient(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.3f} ({ratio['min']:.3f}-{ratio['max']:.3f})"


def as_text(figures: dict[str, Any]) -> str:
    """The printed form: medians, and the spread over rounds in brackets."""
    steps = [
        {
            "images": name,
            "images/s": f"{row['images_per_s']:.1f}",
            "time / ready": _quotient(row["over_ready"]),
            "time / memory": _quotient(row["over_memory"]),
        }
        for name, row in figures["steps"].items()
    ]
    views = [
        {
            "views alone": name,
            "ms an image": f"{row['ms_per_image']:.2f}",
            "time / step": _quotient(row["of_step"]),
        }
        for name, row in figures["views"].items()
    ]
    return "\n".join(
        [
            text_table(steps, tuple(steps[0]), left=("images",)),
            "",
            text_table(views, tuple(views[0]), left=("views alone",)),
            "",
            f"peak resident memory: {figures['peak_mb']:.0f} MB",
        ]
    )


def main() -> None:
    """Measures, prints and writes."""
    given = flags.FLAGS
    if not given.data_dir:
        raise UserError("--data_dir is empty; give a folder or an archive of images.")
    if given.images < given.batch_size:
        raise UserError(
            f"--images={given.images} is less than one batch, --batch_size={given.batch_size}."
        )
    if given.json:
        require_writable_file(Path(given.json))
    # The same ranges, and the same words, as in a training.
    config = Config(
        student=given.student,
        width=given.width,
        image_size=given.image_size,
        batch_size=given.batch_size,
    )
    from tools.benchmarks.workload import Workload

    load = Workload(
        student=config.student.student,
        width=config.student.width,
        image_size=config.student.image_size,
        batch_size=config.training.batch_size,
        steps=given.images // config.training.batch_size,
    )
    figures = measure(load, given.data_dir, given.side, given.repeats)
    if given.json:
        write_atomically(Path(given.json), (json.dumps(figures, indent=2) + "\n").encode())
    print(as_text(figures))


if __name__ == "__main__":
    define_flags()
    app.run(lambda _: main())
