"""Both protocols on their ports, and the watch on the model's folder.

with Server(versions, port=8500, rest_api_port=8501) as server:
    server.watch(stop)                  # returns when the event `stop` is set
"""

import logging as standard_logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import grpc
from absl import logging
from waitress import wasyncore
from waitress.server import create_server

from candle_tf.errors import UserError
from candle_tf.serving.grpc_services import add_services
from candle_tf.serving.rest import application
from candle_tf.serving.versions import Versions

MAX_REQUEST_BYTES = 64 * 1024**2
_THREADS = 8  # in each protocol; TensorFlow has its own for the work
_GRACE = 10.0  # seconds for running requests when the server stops


class Server:
    """A server of one model; requests queue, and are not batched."""

    def __init__(
        self,
        versions: Versions,
        *,
        port: int,
        rest_api_port: int,
        host: str = "127.0.0.1",
        max_request_bytes: int = MAX_REQUEST_BYTES,
    ) -> None:
        """Takes the ports; requests are handled only inside the `with` block.

        Args:
            versions: what is served.
            port: of gRPC; 0 takes a free one.
            rest_api_port: of REST; 0 takes a free one.
            host: the address to listen on.
            max_request_bytes: larger requests are refused (RESOURCE_EXHAUSTED, 413).

        Raises:
            UserError: where a port is taken.
        """
        self._versions = versions
        self._grpc = grpc.server(
            ThreadPoolExecutor(_THREADS, thread_name_prefix="grpc"),
            options=[
                ("grpc.max_receive_message_length", max_request_bytes),
                ("grpc.max_send_message_length", -1),
                # Else two servers could share a port without knowing.
                ("grpc.so_reuseport", 0),
            ],
        )
        add_services(self._grpc, versions)
        try:
            self.port = self._grpc.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            raise UserError(f"--port={port} cannot be taken on {host}: {error}.") from error
        # It would log each request that waits for a thread.
        standard_logging.getLogger("waitress.queue").setLevel(standard_logging.ERROR)
        try:
            # Waitress: pure Python, threaded, limits bodies and connections, and closes cleanly.
            self._http = create_server(
                application(versions, max_request_bytes),
                host=host,
                port=rest_api_port,
                threads=_THREADS,
                max_request_body_size=2 * max_request_bytes,  # the application says it in JSON
                ident="candle_tf.serve",
            )
        except OSError as error:
            raise UserError(
                f"--rest_api_port={rest_api_port} cannot be taken on {host}: {error}."
            ) from error
        self.rest_api_port = int(self._http.effective_port)
        self._http_thread = threading.Thread(target=self._http.run, name="http")

    def __enter__(self) -> "Server":
        self._grpc.start()
        self._http_thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        finished = self._grpc.stop(_GRACE)
        self._finish_http()
        finished.wait(_GRACE)

    def watch(self, stop: threading.Event, every: float = 1.0) -> None:
        """Loads new versions until `stop` is set.

        Args:
            stop: set from a signal handler or another thread.
            every: seconds between checks of the folder.
        """
        while not stop.wait(every):
            self._versions.poll()
        logging.info("stopping: running requests are finished")

    def _finish_http(self) -> None:
        """Finishes running HTTP requests, and ends the threads."""
        workers, channels = self._http.task_dispatcher, self._http.active_channels
        end = time.monotonic() + _GRACE
        while time.monotonic() < end and (
            workers.queue
            or workers.active_count
            or any(channel.total_outbufs_len for channel in list(channels.values()))
        ):
            time.sleep(0.02)
        workers.shutdown(timeout=_GRACE)
        sockets = self._http._map  # the loop runs, in its thread, as long as there are any
        self._http.trigger.pull_trigger(lambda: wasyncore.close_all(sockets, ignore_all=True))
        self._http_thread.join(_GRACE)
