"""Training on several devices and machines, by TensorFlow's own strategies.

    workers = open_workers("auto")              # before anything else of TensorFlow
    with workers.end_together(), workers.scope():
        ...                                     # build and train
    # Every worker has come to the end here.

Every worker runs the same program with the same flags. Workers find each other by the environment
variable TF_CONFIG, as TensorFlow documents it for MultiWorkerMirroredStrategy. Worker 0 (or the
task "chief") writes; all of them read the folder of the run, which they must share.

TensorFlow waits without end for a worker that is gone, and its C++ code blocks the signals that
Python handles. So each worker asks every few seconds whether the others' ports are open, handles
SIGTERM and SIGINT in a thread, and ends its process with one sentence where it cannot continue.
"""

import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import tensorflow as tf
from absl import logging

from candle_tf.errors import UserError
from candle_tf.files import parse_json, write_atomically

_RESUME = "The same command on all workers resumes after the last whole epoch."
# A worker whose port is closed has ended; one that is silent may be busy.
_SECONDS_BETWEEN = 3.0
_REFUSED, _SILENT = 2, 8
# By which workers see that they share a folder.
_TOKEN = ".workers"
# What file systems of several machines may take to show a new file on all of them.
SECONDS_SHARED = 60


@dataclass(frozen=True)
class BatchShare:
    """Which replicas' shares of each global batch one pipeline gives, one after the other.

    Attributes:
        replicas: numbers of the replicas.
        count: replicas in all; each gets an equal and contiguous share of a batch.
    """

    replicas: range = range(1)
    count: int = 1

    def slices(self, size: int) -> list[slice]:
        """The places of a batch of so many examples, of each of the replicas.

        Raises:
            UserError: where the batch cannot be divided equally.
        """
        each, rest = divmod(size, self.count)
        if rest:
            raise UserError(
                f"A batch of {size} examples cannot be divided among {self.count} replicas. Give a "
                "batch size (it is that of all replicas together, and no larger than the training "
                "set) which is a multiple of their number."
            )
        return [slice(replica * each, (replica + 1) * each) for replica in self.replicas]

    def steps(self, count: int, largest: int) -> int | None:
        """How many batches `parts` is of, which Keras asks of several replicas; None of one."""
        return None if self.count == 1 else max(1, -(-count // largest))

    def parts(self, count: int, largest: int) -> Iterator[slice]:
        """Batches of at most `largest` of `count` examples: the places of each replica in each.

        One replica's batches are full, but the last one. All shares of several differ by one
        example at most: none is empty where there are enough examples.
        """
        if self.count == 1:
            for start in range(0, count, largest):
                yield slice(start, min(start + largest, count))
            return
        shares = (self.steps(count, largest) or 1) * self.count
        for first in range(0, shares, self.count):
            for share in (first + replica for replica in self.replicas):
                yield slice(count * share // shares, count * (share + 1) // shares)


ALONE = BatchShare()


@dataclass(frozen=True)
class Workers:
    """This process among those that train together.

    Attributes:
        strategy: TensorFlow's; its default one for a single device.
        number: of this worker, from 0, which is the chief.
        addresses: "host:port" of each worker; empty for one process.
    """

    strategy: Any = field(default_factory=tf.distribute.get_strategy)
    number: int = 0
    addresses: tuple[str, ...] = ()

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes."""
        return self.number == 0

    @property
    def count(self) -> int:
        """Workers in all."""
        return max(1, len(self.addresses))

    @property
    def replicas(self) -> int:
        """Devices of all workers that train together."""
        return self.strategy.num_replicas_in_sync

    def scope(self) -> AbstractContextManager[Any]:
        """In which networks, optimizers and trainers are built."""
        return self.strategy.scope()

    @property
    def share(self) -> BatchShare:
        """What this worker computes of each batch."""
        local = self.replicas // self.count
        return BatchShare(range(self.number * local, (self.number + 1) * local), self.replicas)

    @contextmanager
    def written_folder(self, folder: Path) -> Iterator[Path]:
        """Where this worker writes what the chief writes into `folder`: the others into a folder
        that is deleted, as all must save where TensorFlow adds up what each replica keeps. All
        wait at the end, so that what the chief wrote can be read."""
        if self.is_chief:
            yield folder
        else:
            with tempfile.TemporaryDirectory() as scratch:
                yield Path(scratch)
        self.wait_for_all()

    def distribute(self, batches: Callable[..., tf.data.Dataset]) -> Any:
        """A dataset for `fit`, of which each worker computes the share of its own replicas.

        Args:
            batches: called as `batches(share=...)`.
        """
        share = self.share
        if self.replicas == 1:
            return batches(share=share)
        return self.strategy.distribute_datasets_from_function(lambda _: batches(share=share))

    def add_up(self, value: int) -> int:
        """The sum of a number over all workers, which wait for each other here."""
        if self.count == 1:
            return value
        first = self.number * (self.replicas // self.count)

        def of_replica(context: Any) -> tf.Tensor:
            own = context.replica_id_in_sync_group == first
            return tf.constant(value if own else 0, tf.int64)

        values = self.strategy.experimental_distribute_values_from_function(of_replica)
        return int(self.strategy.reduce("SUM", values, axis=None))

    def refuse_other_folder(self, run_dir: Path) -> None:
        """Refuses a folder that is not the chief's, which the chief has opened; `UserError`."""
        if self.count == 1:
            return
        path, token = run_dir / _TOKEN, 0
        if self.is_chief:
            token = secrets.randbelow(2**31)
            write_atomically(path, str(token).encode())
        token = self.add_up(token)
        for _ in range(SECONDS_SHARED):
            if path.exists() and path.read_text() == str(token):
                break
            time.sleep(1)
        else:
            raise UserError(
                f"--run_dir={run_dir} of worker {self.number} is not the folder of the chief. Give "
                "all workers one folder that they share."
            )
        self.wait_for_all()
        if self.is_chief:
            path.unlink()

    def wait_for_all(self) -> None:
        """Returns when every worker has come here."""
        self.add_up(0)

    @contextmanager
    def end_together(self) -> Iterator[None]:
        """Ends the process, by one sentence and an exit code, where a worker fails or is gone.

        TensorFlow's own end of a process waits for the other workers, so that of several nothing is
        raised from here. Alone, everything is raised as it is.
        """
        if self.count == 1:
            yield
            return
        done = threading.Event()
        _exit_on_signals(self.number)
        threading.Thread(target=self._watch, args=[done], daemon=True).start()
        try:
            yield
            self.wait_for_all()
        except UserError as error:
            _exit(2, f"error: {error}")
        except KeyboardInterrupt:
            _exit(130, f"Stopped. {_RESUME}")
        except tf.errors.OpError as error:
            # The watch tells which worker it is.
            time.sleep((_REFUSED + 2) * _SECONDS_BETWEEN)
            _exit(3, f"error: the workers lost each other ({_first_line(error)}). {_RESUME}")
        except BaseException:
            traceback.print_exc()
            _exit(1, f"error: worker {self.number} failed, see above.")
        done.set()

    def _watch(self, done: threading.Event) -> None:
        """Ends the process when another worker is gone."""
        failures = {a: 0.0 for number, a in enumerate(self.addresses) if number != self.number}
        while not done.wait(_SECONDS_BETWEEN):
            for address in failures:
                failure = _failure(address)
                failures[address] = failures[address] + failure if failure else 0.0
                if failures[address] >= 1.0 and not done.is_set():
                    number = self.addresses.index(address)
                    _exit(
                        3,
                        f"error: worker {number} ({address}) is gone, so that all workers stop. "
                        f"{_RESUME}",
                    )


ONE_PROCESS = Workers()


def mean_over_replicas(value: tf.Tensor) -> tf.Tensor:
    """The mean of each replica's value, through which no gradient goes; of one, the value."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce("MEAN", tf.stop_gradient(value))


def open_workers(strategy: str) -> Workers:
    """Finds the devices and workers to train on; waits until all workers have started.

    Args:
        strategy: "one" device, "mirrored": all GPUs (without any, all logical CPUs) of this
            machine, "multi_worker": all of the workers that TF_CONFIG names; or "auto", which is
            the last where TF_CONFIG names several workers, else "mirrored" where there are several
            GPUs, else "one".

    Raises:
        UserError: for a TF_CONFIG that cannot be used, or that the strategy contradicts; where
            TensorFlow was used before in this process, so that it cannot join others.
    """
    number, addresses = _read_tf_config(os.environ.get("TF_CONFIG", ""))
    if strategy == "auto":
        several = len(tf.config.list_physical_devices("GPU")) > 1
        strategy = "multi_worker" if len(addresses) > 1 else "mirrored" if several else "one"
    if strategy == "multi_worker":
        if not addresses:
            raise UserError(
                "--strategy=multi_worker needs the environment variable TF_CONFIG, which names the "
                "workers and this one of them (docs/scale.md). Set it, or give --strategy=one."
            )
        return _join(number, addresses)
    if len(addresses) > 1:
        raise UserError(
            f"--strategy={strategy} contradicts TF_CONFIG, which names {len(addresses)} workers: "
            "each would train the same. Give --strategy=multi_worker, or unset TF_CONFIG."
        )
    if strategy == "one":
        return Workers()
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) == 1:
        logging.info("--strategy=mirrored: there is one device, which trains alone")
        return Workers()
    workers = Workers(_mirrored_strategy(tuple(device.name for device in devices)))
    logging.info("%d devices train together", workers.replicas)
    return workers


# One of each in a process: TensorFlow numbers the exchanges of every strategy from the same number
# on, and remembers the shape of each by its number.
@cache
def _mirrored_strategy(devices: tuple[str, ...]) -> Any:
    return tf.distribute.MirroredStrategy(list(devices))


@cache
def _multi_worker_strategy() -> Any:
    return tf.distribute.MultiWorkerMirroredStrategy()


def _join(number: int, addresses: tuple[str, ...]) -> Workers:
    if len(addresses) == 1:
        return Workers()
    logging.info("worker %d of %d (%s): waiting for the others", number, len(addresses),
                 addresses[number])  # fmt: skip
    _exit_on_signals(number)
    try:
        strategy = _multi_worker_strategy()
    except RuntimeError as error:
        raise UserError(
            f"This process cannot join the workers of TF_CONFIG ({_first_line(error)}). Start it "
            "before TensorFlow is used for anything else."
        ) from error
    except tf.errors.OpError as error:
        raise UserError(
            f"The workers of TF_CONFIG do not reach each other ({_first_line(error)}). Check that "
            "its addresses are right, and their ports free and open."
        ) from error
    workers = Workers(strategy, number, addresses)
    logging.info("%d workers with %d devices train together", workers.count, workers.replicas)
    return workers


def _read_tf_config(text: str) -> tuple[int, tuple[str, ...]]:
    """Number of this worker, and addresses of all, the chief first; (0, ()) without TF_CONFIG."""
    if not text.strip():
        return 0, ()
    try:
        config = parse_json(text)
        cluster, task = config.get("cluster", {}), config.get("task", {})
        jobs = {job: tuple(map(str, cluster.get(job, ()))) for job in ("chief", "worker")}
        others = set(cluster) - set(jobs) - {"evaluator"}
        if not cluster:
            return 0, ()
        if others or task["type"] not in jobs:
            odd = ", ".join(sorted(others)) or task["type"]
            raise UserError(f"TF_CONFIG has the task {odd!r}; workers and one chief train here.")
        index = int(task["index"])
        number = index + (len(jobs["chief"]) if task["type"] == "worker" else 0)
        addresses = jobs["chief"] + jobs["worker"]
        if not 0 <= index < len(jobs[task["type"]]) or len(jobs["chief"]) > 1:
            raise ValueError(f"there is no {task['type']} {index}")
        for address in addresses:
            _host_and_port(address)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"TF_CONFIG={text[:300]} is not what TensorFlow documents ({error}); an example is "
            '{"cluster": {"worker": ["a:2222", "b:2222"]}, "task": {"type": "worker", "index": 0}}.'
        ) from error
    return number, addresses


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host:
        raise ValueError(f"{address!r} is not host:port")
    return host.strip("[]"), int(port)


def _failure(address: str) -> float:
    """What an attempt to reach a worker adds to its failures, 1 of which mean that it is gone."""
    try:
        socket.create_connection(_host_and_port(address), timeout=5.0).close()
    except (ConnectionRefusedError, ConnectionResetError):
        return 1 / _REFUSED
    except OSError:
        return 1 / _SILENT
    return 0.0


def _exit_on_signals(number: int) -> None:
    """Ends the process at SIGTERM and SIGINT, even while TensorFlow's C++ code blocks Python."""
    if threading.current_thread() is not threading.main_thread():
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda *_: None)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

    def wait() -> None:
        while True:
            for signal_number in reader.recv(1):
                if signal_number in (signal.SIGTERM, signal.SIGINT):
                    name = signal.Signals(signal_number).name
                    _exit(128 + signal_number, f"Worker {number} stopped by {name}. {_RESUME}")

    # The thread holds both sockets.
    thread = threading.Thread(target=wait, daemon=True)
    thread._sockets = (reader, writer)  # type: ignore[attr-defined]
    thread.start()


def _exit(code: int, sentence: str) -> NoReturn:
    print(sentence, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(".")
