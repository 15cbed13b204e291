"""Seeded requests to a server, most of them wrong: each gets a response of the right kind.

count_rest(rest="http://127.0.0.1:8501", model="small", inputs=300)
"""

import base64
import gzip
import json
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from tests.fuzz.damage import damaged_bytes, damaged_json

# Status of responses to wrong requests in TensorFlow Serving; the server failing is another.
_HTTP = {200, 400, 404, 413, 501}
_GRPC = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED"}
_PATHS = (
    *("", "/versions/1", "/versions/0001", "/versions/9", "/versions/" + "9" * 5000),
    *("/versions/\u0661", "/versions/-1", "/versions/", "/labels/a", "/labels/\ud83d\ude00", "/x"),
)
_DIMS = (-(2**63), -1, 0, 1, 2, 3, 32, 1024, 1_000_000, 10**12, 2**63 - 1)


def count_rest(rest: str, model: str, image: bytes, side: int, inputs: int) -> Counter[str]:
    """Sends damaged REST requests.

    Args:
        rest: address of the server.
        model: its name.
        image: a JPEG or PNG that it takes.
        side: of the signature "pixels".
        inputs: requests.

    Raises:
        AssertionError: for a response of another kind, or none.
    """
    counts: Counter[str] = Counter()
    random = np.random.default_rng(0)
    for number, body in enumerate(_bodies(image, side, inputs)):
        path = str(random.choice(_PATHS)) if random.random() < 0.2 else ""
        url = f"{rest}/v1/models/{model}{urllib.parse.quote(path, errors='replace')}:predict"
        headers = {}
        if random.random() < 0.1:
            headers["Content-Encoding"] = "gzip"
            if random.random() < 0.7:
                body = next(damaged_bytes(gzip.compress(body), 1, number))
        status, reply = _post(url, body, headers)
        if status not in _HTTP or (status != 200) != (set(reply) == {"error"}):
            raise AssertionError(f"REST request {number}: {status} {reply}")
        counts[str(status)] += 1
    return counts


def _bodies(image: bytes, side: int, count: int) -> Iterator[bytes]:
    encoded = {"b64": base64.b64encode(image).decode()}
    pixels = np.zeros((1, side, side, 3), int).tolist()
    sound = (
        {"instances": [encoded]},
        {"inputs": {"image_bytes": [encoded, encoded]}, "signature_name": "serving_default"},
        {"signature_name": "pixels", "instances": pixels},
    )
    damages = [
        damaged_json(json.dumps(body).encode(), count, seed) for seed, body in enumerate(sound)
    ]
    for number in range(count):
        yield next(damages[number % len(damages)])


def _post(url: str, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60) as done:
            return done.status, json.loads(done.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def count_grpc(channel: grpc.Channel, model: str, image: bytes, inputs: int) -> Counter[str]:
    """Sends gRPC requests whose tensors are not what they state.

    Raises:
        AssertionError: for a status that is not the client's fault.
    """
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    random = np.random.default_rng(1)
    counts: Counter[str] = Counter()
    for number in range(inputs):
        request = _hostile_request(model, image, random)
        try:
            stub.Predict(request, 60)
            code = "OK"
        except grpc.RpcError as error:
            code = error.code().name
            if code not in _GRPC:
                raise AssertionError(f"gRPC request {number}: {code} {error.details()}") from error
        counts[code] += 1
    return counts


def _hostile_request(
    model: str, image: bytes, random: np.random.Generator
) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model if random.random() < 0.95 else "\x1b[2J"
    is_pixels = random.random() < 0.5
    request.model_spec.signature_name = "pixels" if is_pixels else ""
    if random.random() < 0.1:
        request.model_spec.version.value = int(random.choice([-1, 0, 1, 2**62]))
    if random.random() < 0.1:
        request.output_filter.extend(["scores"] * int(random.integers(1, 3)))
    name = "pixels" if is_pixels else "image_bytes"
    tensor = request.inputs[name if random.random() < 0.95 else "x"]
    right = tf.uint8 if is_pixels else tf.string
    tensor.dtype = right.as_datatype_enum if random.random() < 0.8 else int(random.integers(0, 200))
    sizes = [1, 32, 32, 3] if is_pixels else [1]
    for place in range(len(sizes)):
        if random.random() < 0.4:
            sizes[place] = int(random.choice(_DIMS))
    if random.random() < 0.2:
        sizes = [int(random.choice(_DIMS)) for _ in range(int(random.integers(0, 40)))]
    for size in sizes:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_shape.unknown_rank = bool(random.random() < 0.05)
    _add_values(tensor, image, random)
    return request


def _add_values(tensor: Any, image: bytes, random: np.random.Generator) -> None:
    chance = random.random
    if chance() < 0.5:
        tensor.string_val.extend([image] * int(random.integers(0, 3)))
    if chance() < 0.2:
        tensor.string_val.append(next(damaged_bytes(image, 1, int(random.integers(2**31)))))
    if chance() < 0.5:
        tensor.int_val.extend([7] * int(random.choice([0, 1, 2, 3072])))
    if chance() < 0.2:
        tensor.int_val.append(int(random.choice([-1, 256, 2**31 - 1])))
    if chance() < 0.2:
        tensor.float_val.append(float("nan"))
    if chance() < 0.3:
        tensor.tensor_content = random.bytes(int(random.choice([0, 1, 3072, 3073])))
