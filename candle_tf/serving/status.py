"""The ways in which a request fails, with the codes that TensorFlow Serving gives.

raise RequestError(INVALID_ARGUMENT, "Missing ModelSpec")
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf

# The canonical codes by name: gRPC's names, and keys of `HTTP`.
INVALID_ARGUMENT = "INVALID_ARGUMENT"
NOT_FOUND = "NOT_FOUND"
FAILED_PRECONDITION = "FAILED_PRECONDITION"
RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
UNIMPLEMENTED = "UNIMPLEMENTED"
INTERNAL = "INTERNAL"

# As in TensorFlow Serving's http_server.cc.
HTTP = {
    INVALID_ARGUMENT: 400,
    NOT_FOUND: 404,
    FAILED_PRECONDITION: 400,
    RESOURCE_EXHAUSTED: 429,
    UNIMPLEMENTED: 501,
    INTERNAL: 500,
}


# Names of the graph's inner nodes, which say nothing to who sent a request.
_NODES = re.compile(r"\[\[\{\{node [^}]*\}\}\]\]|\{\{(?:function_)?node [^}]*\}\}|\[Op:[^\]]*\]")


class RequestError(Exception):
    """An error that is the response to a request.

    Attributes:
        code: one of the names above.
        message: what was wrong, for who sent it.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@contextmanager
def graph_errors_as_refusals() -> Iterator[None]:
    """Turns what a running graph raises into the request's own error."""
    try:
        yield
    except (tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError) as error:
        raise RequestError(INVALID_ARGUMENT, _first_lines(error.message)) from error
    except tf.errors.ResourceExhaustedError as error:
        raise RequestError(RESOURCE_EXHAUSTED, _first_lines(error.message)) from error
    except tf.errors.OpError as error:
        raise RequestError(INTERNAL, _first_lines(error.message)) from error


def _first_lines(message: str) -> str:
    """The message of the operation that failed, without the places in our code it came from."""
    lines = [line.strip() for line in message.splitlines()]
    inner = [
        line
        for line in lines
        if line
        and not line.startswith(("Graph execution error", "Detected at node", "File ", "<stack"))
    ]
    return " ".join(_NODES.sub("", " ".join(inner)).split())
