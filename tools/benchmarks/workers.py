"""What it costs to train by several workers: one process against two on the same cores.

No speed-up is to be expected on one machine. What the ratio shows is the overhead: exchange of
gradients and of batch norm's statistics over the loopback, optimizer steps that every worker takes,
and smaller batches on fewer cores each.
"""

import json
import os
import socket
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from typing import Any

import tensorflow as tf

from candle_tf.distribute import BatchShare, open_workers
from candle_tf.methods.trainer import TOTAL_LOSS
from candle_tf.students.layers.sync_batch_norm import synchronize_batch_norm
from candle_tf.timing import Side, alternate, images_per_second, ratio_of
from tools.benchmarks.processes import start_processes
from tools.benchmarks.step import one_batch
from tools.benchmarks.workload import Workload, cross_entropy


def workers_ratio(load: Workload, repeats: int = 5, count: int = 2) -> dict[str, Any]:
    """Time of one process's steps over that of several workers' with the same global batch.

    Args:
        load: the student. A batch of `load.batch_size` lies in memory.
        repeats: rounds; a round takes `load.steps` steps of each side.
        count: of the workers, which have as many cores each as the process's divided by it.

    Returns:
        JSON-ready: median, min and max of the ratio, images_per_s of each side, "overhead" (the
        part of the workers' time that the process does not need, at the median), "workers", and
        the seconds.

    Raises:
        RuntimeError: where a worker ended.
    """
    cores = sorted(os.sched_getaffinity(0))
    own = [cores[number::count] or cores for number in range(count)]
    addresses = [f"localhost:{port}" for port in free_ports(count)]
    with ExitStack() as stack:
        one = start_processes(stack, [partial(_steps, load)])
        together = start_processes(
            stack,
            [partial(_steps, load, addresses, number, own[number]) for number in range(count)],
        )
        seconds = alternate({"one process": one, f"{count} workers": together}, repeats)
    process, workers = seconds.values()
    ratio = ratio_of(process, workers)
    return {
        **asdict(ratio),
        "images_per_s": {
            name: images_per_second(times, load.images) for name, times in seconds.items()
        },
        "overhead": 1.0 - ratio.median,
        "workers": count,
        "seconds": seconds,
        "student": asdict(load),
    }


def free_ports(count: int) -> list[int]:
    """Numbers of ports of this machine that nothing listens on."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _steps(
    load: Workload,
    addresses: list[str] | None = None,
    number: int = 0,
    cores: list[int] | None = None,
) -> Side:
    """Steps of this process, or of it as one of the workers; prepared before they are timed."""
    if addresses:
        os.sched_setaffinity(0, cores or [])
        os.environ["TF_CONFIG"] = json.dumps(
            {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": number}}
        )
    workers = open_workers("multi_worker" if addresses else "one")
    with workers.scope():
        trainer = cross_entropy(load)
        if workers.replicas > 1:
            synchronize_batch_norm(trainer.network)
    batches = workers.distribute(partial(_batches, load))
    step = trainer.make_train_function()
    iterator = iter(batches)

    def run() -> None:
        for _ in range(load.steps):
            logs = step(iterator)
        float(logs[TOTAL_LOSS])

    return run


def _batches(load: Workload, share: BatchShare) -> tf.data.Dataset:
    """A worker's share of one batch, again and again."""
    (places,) = share.slices(load.batch_size)
    batch = {name: value[places] for name, value in one_batch(load).items()}
    return tf.data.Dataset.from_tensors(batch).repeat()
