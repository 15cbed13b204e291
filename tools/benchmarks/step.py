"""The training step: ours against the plain composition, and where its time goes."""

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import tensorflow as tf

from candle_tf.methods.trainer import Trainer
from candle_tf.timing import alternate, images_per_second, ratio_of
from tools.benchmarks.step_profile import PRODUCTS, profile_operators, shares_by_kind
from tools.benchmarks.workload import Workload, cross_entropy, plain_cross_entropy


def step_ratio(load: Workload, repeats: int = 7) -> dict[str, Any]:
    """Time of a plain Keras and larq step in float32 over that of ours, on the same images.

    Args:
        load: the student; a step takes `load.batch_size` images, which lie in memory.
        repeats: rounds; a round takes `load.steps` steps of each side.

    Returns:
        As `_compare`.
    """
    return _compare(load, plain_cross_entropy(load), repeats)


def kernels_ratio(load: Workload, repeats: int = 7) -> dict[str, Any]:
    """Time of a step with --kernels=plain over that with the workload's; see `step_ratio`."""
    return _compare(load, cross_entropy(replace(load, precision="auto", kernels="plain")), repeats)


def precision_ratio(load: Workload, repeats: int = 7) -> dict[str, Any]:
    """Time of a step with --precision=float32 over that with the workload's; see `step_ratio`."""
    return _compare(load, cross_entropy(replace(load, precision="float32")), repeats)


def _compare(load: Workload, plain: Trainer, repeats: int) -> dict[str, Any]:
    """Times steps of ours and of a plain trainer in turn.

    Returns:
        JSON-ready: median, min and max of the ratio, images_per_s of each side, "precision" and
        "kernels" of ours, "profile" of each side (share of its operators' time by kind),
        "outside_products" (share of what is neither a convolution nor a matrix product) and the
        seconds.
    """
    batch = one_batch(load)
    steps = {"ours": build_step(cross_entropy(load), batch), "plain": build_step(plain, batch)}
    seconds = alternate(
        {name: repeat_step(step, load.steps) for name, step in steps.items()}, repeats, warmup=2
    )
    profile = {name: shares_by_kind(profile_operators(step)) for name, step in steps.items()}
    return {
        **vars(ratio_of(seconds["plain"], seconds["ours"])),
        "images_per_s": {
            name: images_per_second(times, load.images) for name, times in seconds.items()
        },
        "precision": load.compute_policy.dtype,
        "kernels": "native" if load.compute_policy.native else "plain",
        "profile": profile,
        "outside_products": {name: 1 - kinds[PRODUCTS] for name, kinds in profile.items()},
        "seconds": seconds,
        "student": asdict(load),
    }


def step_ratios(load: Workload, batch_sizes: tuple[int, ...], repeats: int) -> dict[str, Any]:
    """`step_ratio` at several batch sizes, as "step_ratio_b<size>".

    A timed part of any size has at least the images of one batch of the largest: what disturbs
    it for a moment then weighs alike.
    """
    largest = max(batch_sizes)
    return {
        f"step_ratio_b{size}": step_ratio(
            replace(load, batch_size=size, steps=max(load.steps, -(-largest // size))), repeats
        )
        for size in batch_sizes
    }


def training_steps(load: Workload) -> Callable[[], None]:
    """`load.steps` steps of ours on one batch in memory, done when it returns."""
    return repeat_step(build_step(cross_entropy(load), one_batch(load)), load.steps)


def one_batch(load: Workload) -> dict[str, tf.Tensor]:
    """A batch of noise in memory: "inputs" `[B, S, S, 3]` in 0..255 and "labels" `[B]`."""
    rng = np.random.default_rng(0)
    shape = (load.batch_size, load.image_size, load.image_size, 3)
    return {
        "inputs": tf.constant(rng.uniform(0, 255, shape), tf.float32),
        "labels": tf.constant(rng.integers(0, load.classes, load.batch_size), tf.int32),
    }


def build_step(trainer: Trainer, batch: dict[str, tf.Tensor]) -> Callable[[], None]:
    """One step as `fit` runs it, traced once; done when it returns."""
    traced = tf.function(lambda: trainer.train_step(batch))

    def run() -> None:
        for value in traced().values():
            value.numpy()

    return run


def repeat_step(step: Callable[[], None], times: int) -> Callable[[], None]:
    """The step, `times` times."""

    def run() -> None:
        for _ in range(times):
            step()

    return run
