"""What the server spends on requests at most, so that none of them costs others theirs."""

from dataclasses import dataclass

MAX_REQUEST_BYTES = 64 * 1024**2
# Examples in one request. Each becomes an image of the student's size, however few its bytes are.
# A gRPC request states their number. Of a REST request all JSON is in memory before it is known,
# and that is up to thirty times the bytes of its body.
MAX_BATCH_SIZE = 1024
# REST bodies above it are read as JSON one at a time, that only one of them takes that memory.
LARGE_BODY_BYTES = 4 * 1024**2


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Attributes:
        request_bytes: of a request, also of its decompressed body and of each of its tensors.
        receive_seconds: in which an HTTP request must have arrived; also how long a connection
            may be idle.
        connections: HTTP connections that are open at a time.
        concurrent_rpcs: gRPC calls that are open at a time; more are RESOURCE_EXHAUSTED.
        grace_seconds: in which the server ends when it is stopped; the most of it is for running
            requests of both protocols together.
    """

    request_bytes: int = MAX_REQUEST_BYTES
    receive_seconds: float = 30.0
    connections: int = 512
    concurrent_rpcs: int = 256
    grace_seconds: float = 10.0
