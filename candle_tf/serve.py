"""Serves an exported SavedModel on this machine, as TensorFlow Serving would, to try it out.

    python -m candle_tf.serve --model_name=student \
        --model_base_path=runs/quickstart/export/saved_model

In production use TensorFlow Serving itself: same folder, same requests, same responses
(docs/deploy.md). This server is Python, has no batching, no metrics and no TLS.
"""

import importlib.util
import signal
import threading
from pathlib import Path

from absl import flags, logging

from candle_tf import app
from candle_tf.errors import UserError

_NAME = flags.DEFINE_string("model_name", "default", "name of the model in requests")
_BASE_PATH = flags.DEFINE_string(
    "model_base_path", None, "folder of the numbered version folders: export/saved_model of a run"
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
    "max_request_bytes", 64 * 1024**2, "largest request that is read", 1
)


def main() -> None:
    """Serves until SIGTERM or SIGINT."""
    if not _BASE_PATH.value:
        raise UserError("--model_base_path is missing; give a run's export/saved_model.")
    base_path = Path(_BASE_PATH.value)
    _require_packages()
    from candle_tf.serving.server import Server
    from candle_tf.serving.versions import Versions

    versions = Versions(_NAME.value, base_path)
    versions.poll()
    if not versions.is_ready():
        raise UserError(
            f"--model_base_path={base_path} has no version that loads: it must hold folders named "
            "by numbers, each with a SavedModel, as export/saved_model of a run does."
        )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with Server(
        versions,
        port=_PORT.value,
        rest_api_port=_REST_PORT.value,
        host=_HOST.value,
        max_request_bytes=_MAX_BYTES.value,
    ) as server:
        print(
            f"Serving {_NAME.value!r} on {_HOST.value}: gRPC on port {server.port}, REST on port "
            f"{server.rest_api_port}.\nThis is for trying a model out; in production use "
            "TensorFlow Serving, which serves the same folder.",
            flush=True,
        )
        server.watch(stop, _POLL.value)
    logging.info("stopped")


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
    app.run(lambda _: main())


if __name__ == "__main__":
    command()
