"""Serves an exported SavedModel on this machine, as TensorFlow Serving would, to try it out.

    python -m candle_tf.serve runs/quickstart --model_name=student
    python -m candle_tf.serve --model_base_path=runs/quickstart/export/saved_model

In production use TensorFlow Serving itself: same folder, same requests, same responses
(docs/deploy.md). This server is Python, has no batching, no metrics and no TLS.
"""

import importlib.util
import os
import queue
import resource
import signal
import threading
import time

from absl import flags, logging

from candle_tf import app
from candle_tf.errors import UserError

_NAME = flags.DEFINE_string("model_name", "default", "name of the model in requests")
_BASE_PATH = flags.DEFINE_string(
    "model_base_path",
    None,
    "folder of the numbered version folders, or a run's folder; the first argument means the same",
)
_PORT = flags.DEFINE_integer("port", 8500, "port of gRPC; 0 takes a free one", 0, 65535)
_REST_PORT = flags.DEFINE_integer(
    "rest_api_port", 8501, "port of the REST API; 0 takes a free one", 0, 65535
)
_HOST = flags.DEFINE_string("host", "127.0.0.1", "address to listen on; there is no access control")
_POLL = flags.DEFINE_float(
    "file_system_poll_wait_seconds", 1.0, "seconds between checks for new versions", 0.01
)
_MAX_BYTES = flags.DEFINE_integer(
    "max_request_bytes", 64 * 1024**2, "largest request that is read, also when decompressed", 1
)
_TIMEOUT = flags.DEFINE_integer(
    "rest_api_timeout_in_ms", 30_000, "in which a REST request must have arrived", 1000
)
_GRACE = flags.DEFINE_float(
    "grace_seconds", 10.0, "in which it ends after SIGTERM or SIGINT, whatever still runs", 0.1
)

_FILES = 4096  # open at a time, connections among them


def main(arguments: list[str]) -> None:
    """Serves until SIGTERM or SIGINT."""
    given = [*arguments, *([_BASE_PATH.value] if _BASE_PATH.value else [])]
    if len(given) != 1:
        raise UserError(
            "Give one run's folder, or --model_base_path: python -m candle_tf.serve RUN"
            if given
            else "--model_base_path is missing; give a run's folder: python -m candle_tf.serve RUN"
        )
    _require_packages()
    from candle_tf.deploy.exported_student import find_saved_models
    from candle_tf.serving.limits import Limits
    from candle_tf.serving.server import Server
    from candle_tf.serving.versions import Versions

    base_path = find_saved_models(given[0])
    versions = Versions(_NAME.value, base_path)
    versions.poll()
    if not versions.is_ready():
        raise UserError(f"{base_path} has no version that loads. {versions.reasons()}")
    _allow_many_connections()
    signals = _receive_signals()
    stop = threading.Event()
    with Server(
        versions,
        port=_PORT.value,
        rest_api_port=_REST_PORT.value,
        host=_HOST.value,
        limits=Limits(
            request_bytes=_MAX_BYTES.value,
            receive_seconds=_TIMEOUT.value / 1000,
            grace_seconds=_GRACE.value,
        ),
    ) as server:
        print(
            f"Serving {_NAME.value!r} on {_HOST.value}: gRPC on port {server.port}, REST on port "
            f"{server.rest_api_port}.\nThis is for trying a model out; in production use "
            "TensorFlow Serving, which serves the same folder.",
            flush=True,
        )
        # In a thread, as a version that loads must not delay the end.
        watch = threading.Thread(target=server.watch, args=(stop, _POLL.value), daemon=True)
        watch.start()
        signals.get()
        end = time.monotonic() + _GRACE.value
        stop.set()
        logging.info("stopping: running requests are finished")
    watch.join(max(0.0, end - time.monotonic()))
    if server.is_idle and not watch.is_alive():
        logging.info("stopped")
        return
    still = "a version was loading" if server.is_idle else "requests were still running"
    logging.warning("stopped, while %s", still)
    logging.flush()
    os._exit(0)  # the interpreter would wait for their threads


def _receive_signals() -> "queue.SimpleQueue[int]":
    """A queue of the SIGTERM and SIGINT that arrive from now on."""
    # Unlike an Event's lock, its `put` may interrupt the very code that waits for it.
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: signals.put(received))
    return signals


def _allow_many_connections() -> None:
    """Raises the soft limit of open files where it is low: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _require_packages() -> None:
    missing = [
        name for name in ("tensorflow_serving", "waitress") if not importlib.util.find_spec(name)
    ]
    if missing:
        raise UserError(
            f"Serving needs {' and '.join(missing)}: "
            "python -m pip install --no-deps -r requirements-serve.txt"
        )


def command() -> None:
    """What `candle-serve` and `python -m candle_tf.serve` run."""
    app.run(lambda argv: main(argv[1:]), takes_arguments=True, needs_arguments=True)


if __name__ == "__main__":
    command()
