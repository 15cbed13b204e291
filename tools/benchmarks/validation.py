"""What an epoch computes beside its steps: validation, and statistics of batch norms."""

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import tensorflow as tf

from candle_tf.methods.batch_norm_statistics import BatchNormStatistics
from candle_tf.students.fused_forward import evaluation_forward
from candle_tf.timing import alternate, images_per_second, ratio_of
from tools.benchmarks.step import one_batch, repeat_step
from tools.benchmarks.workload import Workload, new_student


def validation_ratios(load: Workload, repeats: int) -> dict[str, Any]:
    """Times with --kernels=plain over those with the workload's, on the same images.

    Args:
        load: the student; a round takes `load.steps` batches, which lie in memory.
        repeats: rounds.

    Returns:
        "validation_ratio", of logits as in evaluation, and "statistics_ratio", of statistics
        estimated again. Each JSON-ready: median, min and max, images_per_s, the seconds and the
        student.
    """
    sides = {"ours": load, "plain": replace(load, precision="auto", kernels="plain")}
    return {
        name: _compare({side: build(each) for side, each in sides.items()}, load, repeats)
        for name, build in {
            "validation_ratio": _validation,
            "statistics_ratio": _statistics,
        }.items()
    }


def _validation(load: Workload) -> Callable[[], None]:
    forward = tf.function(evaluation_forward(new_student(load)), autograph=False)
    images = one_batch(load)["inputs"]
    return repeat_step(lambda: forward(images)["logits"].numpy(), load.steps)


def _statistics(load: Workload) -> Callable[[], None]:
    statistics = BatchNormStatistics(new_student(load))
    batch = one_batch(load)
    return repeat_step(lambda: statistics.reestimate([batch]), load.steps)


def _compare(sides: dict[str, Callable[[], None]], load: Workload, repeats: int) -> dict[str, Any]:
    seconds = alternate(sides, repeats)
    speeds = {side: images_per_second(times, load.images) for side, times in seconds.items()}
    ratio = ratio_of(seconds["plain"], seconds["ours"])
    told = {"images_per_s": speeds, "seconds": seconds, "student": asdict(load)}
    return {**vars(ratio), **told}
