"""Resident memory of a training, epoch by epoch, in a process of its own.

The peak is the operating system's own record, which covers TensorFlow's buffers too.
"""

import contextlib
import io
import multiprocessing
import os
import tempfile
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tools.benchmarks.workload import Workload

_MEGABYTE = 1e6


def training_memory(load: "Workload", epochs: int = 4) -> dict[str, Any]:
    """Trains a student on stored targets, with checkpoints and logs, and watches its memory.

    Args:
        load: the student; `load.images` images are one epoch.
        epochs: at least 3.

    Returns:
        JSON-ready, in MB: "peak" of the process after each epoch, "now" resident then, "before"
        the training (TensorFlow and the images), "growth" of what is resident from the second
        epoch to the last.

    Raises:
        RuntimeError: where the process ended without a reply.
    """
    context = multiprocessing.get_context("spawn")
    figures: Any = context.Queue()
    process = context.Process(target=_train, args=(load, epochs, figures))
    process.start()
    while True:
        try:
            result = figures.get(timeout=5)
            break
        except Empty:
            if not process.is_alive():
                raise RuntimeError(
                    f"the training ended with code {process.exitcode} and sent no figures"
                ) from None
    process.join()
    return result


def resident() -> float:
    """Resident memory of this process now, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / _MEGABYTE


def peak() -> float:
    """Highest resident memory of this process so far, in MB."""
    # Not getrusage: its maximum includes that of the process which started this one.
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.split()[0]) * 1024 / _MEGABYTE
    raise OSError("/proc/self/status tells no VmHWM, the highest resident memory")


def _train(load: "Workload", epochs: int, figures: Any) -> None:
    import tensorflow as tf

    from candle_tf.data.augment.precomputed_views import same_for_all
    from candle_tf.methods.training_loop import fit
    from tools.benchmarks.workload import (
        batches_of,
        distillation,
        noise_subset,
        random_targets,
    )

    class Watch(tf.keras.callbacks.Callback):
        """Memory at the end of each epoch."""

        def __init__(self) -> None:
            super().__init__()
            self.peaks: list[float] = []
            self.now: list[float] = []

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
            self.peaks.append(peak())
            self.now.append(resident())

    examples = noise_subset(load.images, load.classes, load.image_size)
    views = same_for_all(len(examples), 4)
    watch = Watch()
    before = resident()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        stored = random_targets(load, views, Path(folder))
        fit(
            distillation(load),
            lambda first_epoch: batches_of(
                load,
                examples,
                first_epoch=first_epoch,
                epochs=epochs,
                precomputed=views,
                targets=stored,
            ),
            steps=load.steps,
            epochs=epochs,
            folder=Path(folder) / "training",
            callbacks=[watch],
        )
    figures.put({
        "before": before,
        "peak": watch.peaks,
        "now": watch.now,
        "growth": watch.now[-1] - watch.now[1],
    })  # fmt: skip
