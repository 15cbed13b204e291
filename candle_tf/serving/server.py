"""Both protocols on their ports, and the watch on the model's folder.

with Server(versions, port=8500, rest_api_port=8501) as server:
    server.watch(stop)                  # returns when the event `stop` is set
"""

import logging as standard_logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import grpc
from absl import logging
from waitress import wasyncore

from candle_tf.errors import UserError
from candle_tf.serving.grpc_services import add_services
from candle_tf.serving.http_server import HttpServer
from candle_tf.serving.limits import Limits
from candle_tf.serving.rest import application
from candle_tf.serving.versions import Versions

_THREADS = 8  # of running requests in each protocol; TensorFlow has its own for the work
_STREAMS = 64  # calls at a time of one gRPC connection; its client queues more
# A connection that is opened and says nothing, and one whose calls never send their message.
_HANDSHAKE_MS = 10_000
_CONNECTION_AGE_MS = 60_000
_UNLIMITED = 2**40
# Of the grace period, what is left to end calls that are cancelled, and the threads.
_CLOSING_SHARE = 0.2


class Server:
    """A server of one model; requests queue, and are not batched.

    Attributes:
        port: of gRPC.
        rest_api_port: of REST.
        is_idle: after the `with` block, whether no request runs any more. The block ends within
            the grace period all the same: a computation cannot be stopped, the process can.
    """

    def __init__(
        self,
        versions: Versions,
        *,
        port: int,
        rest_api_port: int,
        host: str = "127.0.0.1",
        limits: Limits = Limits(),  # noqa: B008, it is frozen
    ) -> None:
        """Takes the ports; requests are handled only inside the `with` block.

        Args:
            versions: what is served.
            port: of gRPC; 0 takes a free one.
            rest_api_port: of REST; 0 takes a free one.
            host: the address to listen on.
            limits: what is refused (RESOURCE_EXHAUSTED, 413), and what is closed.

        Raises:
            UserError: where a port is taken, and for a host that is no address.
        """
        self._versions = versions
        self._limits = limits
        self._pool = ThreadPoolExecutor(limits.concurrent_rpcs, thread_name_prefix="grpc")
        self._grpc = grpc.server(
            self._pool,
            maximum_concurrent_rpcs=limits.concurrent_rpcs,
            options=[
                ("grpc.max_receive_message_length", limits.request_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_concurrent_streams", _STREAMS),
                ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
                ("grpc.max_connection_age_ms", _CONNECTION_AGE_MS),
                ("grpc.max_connection_age_grace_ms", _CONNECTION_AGE_MS),
                # Else two servers could share a port without knowing.
                ("grpc.so_reuseport", 0),
            ],
        )
        add_services(self._grpc, versions, limits.request_bytes, _THREADS)
        _require_address(host)
        address = f"[{host}]" if ":" in host else host  # of IPv6
        try:
            self.port = self._grpc.add_insecure_port(f"{address}:{port}")
        except RuntimeError as error:
            raise UserError(f"--port={port} cannot be taken on {host}: {error}.") from error
        self._http = _open_http(versions, host, rest_api_port, limits)
        self.rest_api_port = int(self._http.effective_port)
        self._http_thread = threading.Thread(target=self._http.run, name="http", daemon=True)
        self.is_idle = True

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
        now, grace = time.monotonic(), self._limits.grace_seconds
        end, end_of_requests = now + grace, now + (1 - _CLOSING_SHARE) * grace
        self._grpc.stop(_seconds_until(end_of_requests))  # then cancels calls without a message
        http_is_idle = self._finish_http(end_of_requests, end)
        # In a thread, as a request that still runs cannot be stopped.
        closing = threading.Thread(target=self._pool.shutdown, daemon=True)
        closing.start()
        closing.join(_seconds_until(end))
        self.is_idle = http_is_idle and not closing.is_alive()

    def watch(self, stop: threading.Event, every: float = 1.0) -> None:
        """Loads new versions until `stop` is set, also after a check that failed.

        Args:
            stop: set from a signal handler or another thread.
            every: seconds between checks of the folder.
        """
        told = ""
        while not stop.wait(every):
            try:
                self._versions.poll()
                told = ""
            except Exception as error:  # whatever is wrong, later versions are to be loaded
                reason = f"{type(error).__name__}: {error}"
                if reason != told:
                    logging.exception("The check for new versions failed, and is made again.")
                told = reason

    def _finish_http(self, end_of_requests: float, end: float) -> bool:
        """Finishes running HTTP requests, and ends the threads; whether all did in time."""
        workers, channels = self._http.task_dispatcher, self._http.active_channels
        while time.monotonic() < end_of_requests and (
            workers.queue
            or workers.active_count
            or any(channel.total_outbufs_len for channel in list(channels.values()))
        ):
            time.sleep(0.02)
        workers.shutdown(timeout=_seconds_until(end_of_requests))
        sockets = self._http._map  # the loop runs, in its thread, as long as there are any
        self._http.trigger.pull_trigger(lambda: wasyncore.close_all(sockets, ignore_all=True))
        self._http_thread.join(_seconds_until(end))
        return not workers.threads


def _open_http(versions: Versions, host: str, port: int, limits: Limits) -> HttpServer:
    # It would log each request that waits for a thread.
    standard_logging.getLogger("waitress.queue").setLevel(standard_logging.ERROR)
    try:
        # Waitress: pure Python, threaded, limits bodies and connections, and closes cleanly.
        return HttpServer(
            application(versions, limits.request_bytes),
            host=host,
            port=port,
            threads=_THREADS,
            max_request_body_size=2 * limits.request_bytes,  # the application says it in JSON
            connection_limit=limits.connections,
            channel_timeout=limits.receive_seconds,
            cleanup_interval=1,
            # Else a client that does not read its response would hold a thread.
            outbuf_high_watermark=_UNLIMITED,
            asyncore_use_poll=True,  # select() knows 1,024 files only
            ident="candle_tf.serve",
        )
    except OSError as error:
        raise UserError(f"--rest_api_port={port} cannot be taken on {host}: {error}.") from error


def _require_address(host: str) -> None:
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"--host={host} is no address of this machine: {error}. Give 127.0.0.1 for this "
            "machine alone, or 0.0.0.0 for all that reach it."
        ) from error


def _seconds_until(end: float) -> float:
    return max(0.0, end - time.monotonic())
