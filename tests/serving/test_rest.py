"""The REST application without a server: paths, and what large bodies take."""

import json
import threading
from typing import Any

import candle_tf  # noqa: F401  (selects Keras 2 before TensorFlow is imported)

# isort: split
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from werkzeug.test import Client

from candle_tf.serving.json_tensors import inputs_of
from candle_tf.serving.limits import LARGE_BODY_BYTES, MAX_REQUEST_BYTES
from candle_tf.serving.rest import application
from candle_tf.serving.status import NOT_FOUND, RequestError
from candle_tf.serving.versions import Versions

SMALL = b'{"instances": [1]}'
LARGE = SMALL.ljust(LARGE_BODY_BYTES + 1)


class WaitingVersions(Versions):
    """Without a model: the first request waits for the test, and tells who is there meanwhile."""

    def __init__(self) -> None:
        self.is_there, self.leave = threading.Event(), threading.Event()
        self.now, self.most = 0, 0
        self._count = threading.Lock()

    def servable(self, name: str, version: int | None) -> Any:
        if name == "large":
            with self._count:
                self.now += 1
                self.most = max(self.most, self.now)
            self.is_there.set()
            self.leave.wait(30)
            with self._count:
                self.now -= 1
        raise RequestError(NOT_FOUND, f"{name}, {version}")


def test_large_bodies_are_read_one_at_a_time_and_small_ones_meanwhile():
    versions = WaitingVersions()
    client = Client(application(versions, MAX_REQUEST_BYTES))
    statuses: list[int] = []

    def post(name: str, body: bytes) -> None:
        statuses.append(client.post(f"/v1/models/{name}:predict", data=body).status_code)

    threads = [threading.Thread(target=post, args=("large", LARGE)) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert versions.is_there.wait(30)
    for _ in range(20):
        post("small", SMALL)
    assert statuses == [404] * 20
    versions.leave.set()
    for thread in threads:
        thread.join(30)
    # A refused one leaves the place to the next.
    assert statuses == [404] * 24
    assert versions.most == 1


def infos(shape: list[int | None]) -> dict[str, Any]:
    tensor_shape = tf.TensorShape(shape).as_proto()
    info = meta_graph_pb2.TensorInfo(dtype=tf.uint8.as_datatype_enum, tensor_shape=tensor_shape)
    return {"pixels": info}


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [[1]] * 1025},
        {"instances": [{"pixels": [1]}] * 1025},
        {"inputs": [[1]] * 1025},
        {"inputs": {"pixels": [[1]] * 1025}},
    ],
    ids=lambda body: json.dumps(body)[:24],
)
def test_too_many_examples_are_refused_before_an_array_is_made(body):
    with pytest.raises(RequestError, match="has 1025 examples: send at most 1024"):
        inputs_of(body, infos([None, 1]))


def test_as_many_examples_as_allowed_and_long_inputs_without_examples_are_read():
    arrays, _ = inputs_of({"instances": [[1]] * 1024}, infos([None, 1]))
    assert arrays["pixels"].shape == (1024, 1)
    arrays, _ = inputs_of({"inputs": [1] * 2000}, infos([2000]))
    assert arrays["pixels"].shape == (2000,)


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/", 404, "No such path: /"),
        ("GET", "/metrics", 404, "No such path: /metrics"),
        ("POST", "/v2/models/small:predict", 404, "No such path"),
        ("POST", "/v1", 404, "No such path"),
        ("GET", "/v1/other", 400, "Malformed request: GET /v1/other"),
        ("POST", "/V1/Models/Small/VERSIONS/3:predict", 404, "Small, 3"),
        ("POST", "/v1/models/small/Labels/stable:predict", 400, "label: stable"),
        ("POST", "/v1/models/small:Predict", 400, "Malformed request: POST"),
        ("POST", "/v1/models/small:Classify", 400, "Malformed request: POST"),
    ],
)
def test_paths_are_tensorflow_servings(method, path, status, message):
    client = Client(application(WaitingVersions(), MAX_REQUEST_BYTES))
    response = client.open(path, method=method, data=SMALL)
    assert response.status_code == status
    assert message in response.get_json()["error"]
