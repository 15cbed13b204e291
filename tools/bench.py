"""What is fast here, in ratios of two sides that are timed in turn on this machine.

    python -m tools.bench --json=bench.json
    python -m tools.bench --rows=step,distill --data_dir=images.zip

The rows, and what is at least expected of them:

step         a training step against the plain Keras and larq composition in float32; at width 0.5
             with native operators against --kernels=plain, and in the precision that
             --precision=auto takes against float32
validation   what an epoch computes beside its steps, at width 0.5: logits of validation images and
             statistics of batch norms, with native operators against --kernels=plain
distill      a distillation step on cached targets against a cross-entropy step
options      a step with each of CANDLE's optional losses against one with the defaults
calibrate    calibration of 30 epochs on stored features against a backbone in every epoch
total        distillation of 30 epochs with its cache's build against an online teacher, at the
             paper's three resolutions and (..._small) at the three that our configurations have
growth       time an image over the number of images, of classes and of pixels
gradients    the error of gradients in bfloat16, by lookup tables and by Winograd's transforms
settings     time an image over the images in a batch, and over TensorFlow's threads
memory       resident memory of a training, epoch by epoch, with native operators and without
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from absl import flags, logging

from candle_tf import app
from candle_tf.errors import UserError
from candle_tf.files import require_writable_file, write_atomically

ROWS = (
    "step",
    "validation",
    "distill",
    "options",
    "calibrate",
    "total",
    "growth",
    "gradients",
    "settings",
    "memory",
    "workers",
)
# What is asked of a figure, in words.
TARGETS = {
    "step_ratio_b32": "at least 5",
    "step_ratio_b128": "at least 5",
    "distill_over_ce": "at most 1.05",
    "calibrate_ratio": "at least 20",
    "distill_total_ratio": "at least 2.5",
}
_OF_OPTIONS = "at most 1.1"
_STEP_BATCHES = (32, 128)
_BATCH_SIZES = (16, 32, 64, 128, 256)
_IMAGE_SIDE = 160
_CALIBRATED = 1024
# CANDLE's own resolutions, and the smaller ones that our configurations begin with.
_PAPERS_RESOLUTIONS = (128, 224, 480)
_OUR_RESOLUTIONS = (96, 128, 160)
_LEFT = ("figure", "asked", "images/s")
# Growth is a matter of ratios: a narrower student shows it in less time.
_GROWTH_WIDTH = 0.25


def main(rows: list[str], data_dir: str, repeats: int, json_path: str) -> None:
    """Runs the rows asked for, prints each as it is done, and writes them together."""
    if json_path:
        require_writable_file(Path(json_path))
    figures: dict[str, Any] = {}
    for row in rows:
        logging.info("--- %s", row)
        figures.update(_measure(row, data_dir, repeats))
        if json_path:
            write_atomically(Path(json_path), (json.dumps(figures, indent=1) + "\n").encode())
    print("\n" + table_of(figures))


def _measure(row: str, data_dir: str, repeats: int) -> dict[str, Any]:
    # Imported here, so that a mistyped flag is refused at once and not after TensorFlow's start.
    from candle_tf.data.subset import Subset
    from candle_tf.teachers.backbones import Teacher, load_teacher
    from tools.benchmarks import (
        gradient_error,
        growth,
        loss_options,
        memory,
        settings,
        step,
        teacher_cost,
        validation,
        workers,
    )
    from tools.benchmarks.workload import Workload, from_folder, noise_subset

    load = Workload()

    def images(count: int) -> Subset:
        if not data_dir:
            return noise_subset(count, load.classes, _IMAGE_SIDE)
        return from_folder(data_dir, count, _IMAGE_SIDE, folder)

    def teacher() -> Teacher:
        return load_teacher("efficientnet_lite0", "", "")

    measure: dict[str, Callable[[], dict[str, Any]]] = {
        "step": lambda: {
            **step.step_ratios(replace(load, steps=1), _STEP_BATCHES, repeats),
            "kernels_ratio_w05_b64": step.kernels_ratio(replace(load, width=0.5), repeats),
            "precision_ratio_w05_b64": step.precision_ratio(replace(load, width=0.5), repeats),
            "precision_ratio_b32": step.precision_ratio(replace(load, batch_size=32), repeats),
        },
        "validation": lambda: validation.validation_ratios(replace(load, width=0.5), repeats),
        "distill": lambda: {
            "distill_over_ce": teacher_cost.distill_over_ce(load, images(load.images), repeats)
        },
        "options": lambda: loss_options.loss_option_ratios(replace(load, width=0.5), repeats),
        "calibrate": lambda: {
            "calibrate_ratio": teacher_cost.calibrate_ratio(
                teacher(), images(_CALIBRATED), load.classes, repeats=repeats
            )
        },
        "total": lambda: {
            name: teacher_cost.distill_total_ratio(
                teacher(), load, images(load.images), resolutions, repeats=repeats
            )
            for name, resolutions in {
                "distill_total_ratio": _PAPERS_RESOLUTIONS,
                "distill_total_ratio_small": _OUR_RESOLUTIONS,
            }.items()
        },
        "growth": lambda: {
            "cache_growth": growth.cache_growth(teacher(), repeats=repeats),
            "step_growth": growth.step_growth(
                replace(load, width=_GROWTH_WIDTH), folder, repeats=repeats
            ),
        },
        "gradients": lambda: {
            "gradient_error": gradient_error.gradient_errors(
                replace(load, width=0.5), images(load.batch_size)
            )
        },
        "settings": lambda: {
            "settings": {
                "by_batch_size": settings.batch_size_times(load, _BATCH_SIZES, repeats),
                "by_threads": settings.thread_times(load, settings.thread_settings(), repeats),
            }
        },
        "memory": lambda: {
            f"memory_{kernels}": memory.training_memory(
                replace(load, batch_size=128, kernels=kernels)
            )
            for kernels in ("auto", "plain")
        },
        "workers": lambda: {
            "one_over_two_workers": workers.workers_ratio(
                replace(load, width=_GROWTH_WIDTH), repeats
            )
        },
    }
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        return measure[row]()


def table_of(figures: dict[str, Any]) -> str:
    """The figures as text: ratios with their spread and what is asked, profiles, growth, memory."""
    from candle_tf.reporting.table import text_table

    ratios = [_ratio_row(name, figures[name]) for name in figures if "median" in figures[name]]
    errors = figures.get("gradient_error", {})
    parts = [text_table(ratios, list(ratios[0]), left=_LEFT)] if ratios else []
    for name, figure in figures.items():
        for side, shares in figure.get("profile", {}).items():
            listed = ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items())
            parts.append(f"{name}, {side}: {listed}")
    parts += [
        f"{name}: {figure['overhead']:.0%} of the workers' time is overhead"
        for name, figure in figures.items()
        if "overhead" in figure
    ]
    parts += [
        f"error of the gradients by {how}: {error['median']:.2%} of the float32 gradient "
        f"({error['min']:.2%} to {error['max']:.2%} over the kernels)"
        for how, error in errors.items()
    ]
    parts += [_compared_lines(name, figures[name]) for name in figures if _is_compared(name)]
    for name, figure in figures.items():
        if name.startswith("memory_"):
            told = "; ".join(
                f"{when} " + ", ".join(f"{each:,.0f}" for each in _several(value))
                for when, value in figure.items()
            )
            kernels = name.removeprefix("memory_")
            parts.append(f"resident MB of a training with --kernels={kernels}: {told}")
    return "\n".join(parts)


def _ratio_row(name: str, figure: dict[str, Any]) -> dict[str, str]:
    speeds = ", ".join(f"{side} {speed:.1f}" for side, speed in figure["images_per_s"].items())
    spread = {key: f"{figure[key]:.2f}" for key in ("median", "min", "max")}
    asked = TARGETS.get(name, _OF_OPTIONS if name.startswith("option_") else "")
    return {"figure": name, **spread, "asked": asked, "images/s": speeds}


def _several(value: float | list[float]) -> list[float]:
    return value if isinstance(value, list) else [value]


def _is_compared(name: str) -> bool:
    return name == "settings" or name.endswith("_growth")


def _compared_lines(name: str, compared: dict[str, Any]) -> str:
    """Time of a unit of work at each size, over that at the first."""
    lines = []
    for along, sizes in compared.items():
        listed = ", ".join(f"{size}: {ratio['median']:.2f}" for size, ratio in sizes.items())
        lines.append(f"{name} {along.replace('_', ' ')}: {listed}")
    return "\n".join(lines)


def _rows(names: list[str]) -> list[str]:
    unknown = [name for name in names if name not in ROWS]
    if unknown or not names:
        raise UserError(
            f"--rows={','.join(names)} is not known; it is a list of {', '.join(ROWS)}."
        )
    return names


if __name__ == "__main__":
    flags.DEFINE_list("rows", list(ROWS), f"what to measure: of {', '.join(ROWS)}")
    flags.DEFINE_string("data_dir", "", "a folder or archive of images; else noise is generated")
    flags.DEFINE_integer("repeats", 5, "rounds of each comparison", lower_bound=1)
    flags.DEFINE_string("json", "", "also write the figures to this file")
    app.run(
        lambda _: main(
            _rows(flags.FLAGS.rows), flags.FLAGS.data_dir, flags.FLAGS.repeats, flags.FLAGS.json
        )
    )
