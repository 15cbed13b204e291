"""The server as a user starts it, called by TensorFlow Serving's own gRPC clients and over HTTP."""

import base64
import gzip
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from candle_tf.data.images.decode import decode_image
from candle_tf.data.images.store import stretch
from candle_tf.deploy.saved_model.writer import export_saved_model
from candle_tf.errors import UserError
from candle_tf.serving.limits import Limits
from candle_tf.serving.server import Server
from candle_tf.serving.versions import Versions
from tests.deploy.saved_model.test_writer import NAMES, real_images, scores_of
from tests.deploy.test_binarize import SIZE, logits_of, photographs, small_student
from tests.fuzz.requests import count_grpc, count_rest

BAD = b"GIF89a is no image here"
LIMIT = 300_000  # bytes of a request


@dataclass(frozen=True)
class Running:
    """A server's process, its model's folder and its ports."""

    process: subprocess.Popen
    base_path: Path
    channel: grpc.Channel
    rest: str
    port: int

    @property
    def prediction(self) -> Any:
        return prediction_service_pb2_grpc.PredictionServiceStub(self.channel)

    @property
    def model(self) -> Any:
        return model_service_pb2_grpc.ModelServiceStub(self.channel)


def start(base_path: Path, *flags: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "candle_tf.serve", f"--model_base_path={base_path}", *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ports(process: subprocess.Popen) -> tuple[int, int]:
    """Of gRPC and REST, from what a started server prints."""
    line = process.stdout.readline()
    assert line.startswith("Serving '"), process.stderr.read()
    assert "in production use TensorFlow Serving" in process.stdout.readline()
    grpc_port, rest_port = (int(text.split()[0].strip(",.")) for text in line.split(" port ")[1:])
    return grpc_port, rest_port


@contextmanager
def running_server(base_path: Path) -> Iterator[Running]:
    """An export of the small student, served by a process of its own."""
    export_saved_model(small_student(), base_path, NAMES, image_side=SIZE)
    process = start(
        base_path, "--model_name=small", "--port=0", "--rest_api_port=0",
        f"--max_request_bytes={LIMIT}", "--file_system_poll_wait_seconds=0.1",
    )  # fmt: skip
    try:
        port, rest_port = ports(process)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Running(process, base_path, channel, f"http://127.0.0.1:{rest_port}", port)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[Running]:
    with running_server(tmp_path_factory.mktemp("base") / "saved_model") as server:
        yield server


def expected_scores(encoded: list[bytes]) -> np.ndarray:
    """The Keras student's, by Pillow; SIZE is the images' side and the student's, so no more."""
    pixels = np.stack([stretch(decode_image(each, "x"), SIZE) for each in encoded])
    logits = small_student()(pixels.astype(np.float32), training=False)["logits"]
    return scores_of(logits.numpy())


def predict_request(inputs: dict[str, Any], signature: str = "", **spec: Any) -> Any:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = spec.get("name", "small")
    request.model_spec.signature_name = signature
    if "version" in spec:
        request.model_spec.version.value = spec["version"]
    if "label" in spec:
        request.model_spec.version_label = spec["label"]
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def http(url: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        asked = urllib.request.Request(url, data, headers)
        with urllib.request.urlopen(asked, timeout=60) as response:
            assert response.headers["Content-Type"] == "application/json"
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def b64(encoded: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(encoded).decode()}


def check_best(names: list[str], ids: list[int], scores: list[float], expected: np.ndarray) -> None:
    best = np.argsort(-expected)[:5]
    assert list(ids) == best.tolist()
    assert names == [NAMES[number] for number in best]
    np.testing.assert_allclose(scores, expected[best], atol=1e-5)


def check_grpc(response: Any, expected: np.ndarray) -> None:
    outputs = {name: tf.make_ndarray(value) for name, value in response.outputs.items()}
    assert set(outputs) == {"class_names", "class_ids", "scores"}
    for row, scores in enumerate(expected):
        names = [name.decode() for name in outputs["class_names"][row]]
        check_best(names, outputs["class_ids"][row], outputs["scores"][row], scores)


def test_grpc_predicts_what_keras_does(running):
    encoded = real_images()
    response = running.prediction.Predict(predict_request({"image_bytes": encoded}), 60)
    assert response.model_spec.name == "small"
    assert response.model_spec.version.value == 1
    assert response.model_spec.signature_name == "serving_default"
    check_grpc(response, expected_scores(encoded))
    request = predict_request({"pixels": photographs()}, "pixels", version=1)
    request.output_filter.append("scores")
    scores = tf.make_ndarray(running.prediction.Predict(request, 60).outputs["scores"])
    np.testing.assert_allclose(scores, scores_of(logits_of(small_student())), atol=1e-5)


def test_rest_predicts_what_keras_does(running):
    encoded = real_images()
    expected = expected_scores(encoded)
    url = f"{running.rest}/v1/models/small"
    rows = [b64(each) for each in encoded]
    for body in ({"instances": rows}, {"instances": [{"image_bytes": row} for row in rows]}):
        status, reply = http(f"{url}/versions/1:predict", body)
        assert status == 200
        assert len(reply["predictions"]) == len(encoded)
        for row, scores in zip(reply["predictions"], expected, strict=True):
            check_best(row["class_names"], row["class_ids"], row["scores"], scores)
    for value in (rows, {"image_bytes": rows}):
        body = {"signature_name": "serving_default", "inputs": value}
        status, reply = http(f"{url}:predict", body)
        assert status == 200
        for row, scores in enumerate(expected):
            outputs = reply["outputs"]
            check_best(*(outputs[name][row] for name in ("class_names", "class_ids", "scores")),
                       scores)  # fmt: skip
    scores = scores_of(logits_of(small_student()))[:3]
    values = photographs()[:3].tolist()
    body = {"signature_name": "pixels", "instances": values}
    np.testing.assert_allclose(http(f"{url}:predict", body)[1]["predictions"], scores, atol=1e-5)
    body = {"signature_name": "pixels", "inputs": {"pixels": values}}
    np.testing.assert_allclose(http(f"{url}:predict", body)[1]["outputs"], scores, atol=1e-5)


def test_many_at_once_and_bad_ones_among_them(running):
    encoded = real_images()
    expected = expected_scores(encoded)

    def ask(number: int) -> None:
        which = number % len(encoded)
        bad = number % 4 == 3
        images = [encoded[which], BAD] if bad else [encoded[which]]
        if number % 2:  # the bad ones are among these
            body = {"instances": [b64(each) for each in images]}
            status, reply = http(f"{running.rest}/v1/models/small:predict", body)
            assert status == (400 if bad else 200)
            if bad:
                assert "[image] [1] [is no JPEG or PNG]" in reply["error"]
            else:
                (row,) = reply["predictions"]
                check_best(row["class_names"], row["class_ids"], row["scores"], expected[which])
        else:
            request = predict_request({"image_bytes": images})
            check_grpc(running.prediction.Predict(request, 60), expected[which : which + 1])

    with ThreadPoolExecutor(16) as pool:
        assert len(list(pool.map(ask, range(96)))) == 96


def test_metadata_tells_the_signatures(running):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "small"
    response = running.prediction.GetModelMetadata(request, 60)
    assert response.model_spec.version.value == 1
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert {"serving_default", "pixels"} <= set(signatures.signature_def)
    pixels = signatures.signature_def["pixels"].inputs["pixels"]
    assert [dim.size for dim in pixels.tensor_shape.dim] == [-1, SIZE, SIZE, 3]

    for path in ("small", "small/versions/1"):
        status, reply = http(f"{running.rest}/v1/models/{path}/metadata")
        assert status == 200
        assert reply["model_spec"]["version"] == "1"
        named = reply["metadata"]["signature_def"]["signature_def"]["serving_default"]
        assert named["inputs"]["image_bytes"]["dtype"] == "DT_STRING"
        assert named["method_name"] == "tensorflow/serving/predict"


def test_status_tells_the_versions(running):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "small"
    (status,) = running.model.GetModelStatus(request, 60).model_version_status
    assert (status.version, status.State.Name(status.state)) == (1, "AVAILABLE")
    assert status.status.error_code == 0
    for path in ("small", "small/versions/1"):
        assert http(f"{running.rest}/v1/models/{path}") == (200, {
            "model_version_status": [{
                "version": "1",
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }]
        })  # fmt: skip


def stated_shape(sizes: list[int] | None, name: str = "image_bytes") -> Any:
    """One value, for a tensor of any shape: TensorFlow would repeat it."""
    request = predict_request({}, "" if name == "image_bytes" else name)
    tensor = request.inputs[name]
    if name == "pixels":
        tensor.dtype = tf.uint8.as_datatype_enum
        tensor.int_val.append(7)
    else:
        tensor.dtype = tf.string.as_datatype_enum
        tensor.string_val.append(real_images()[0])
    if sizes is None:
        tensor.tensor_shape.unknown_rank = True
    for size in sizes or []:
        tensor.tensor_shape.dim.add(size=size)
    return request


PIXELS = {"pixels": np.zeros((1, SIZE, SIZE, 3), np.uint8)}


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (predict_request({}, name=""), "INVALID_ARGUMENT", "Missing ModelSpec"),
        (predict_request({}, name="x"), "NOT_FOUND", "Servable not found for request: Latest(x)"),
        (predict_request({}, version=9), "NOT_FOUND", "Specific(small, 9)"),
        (predict_request({}, label="stable"), "INVALID_ARGUMENT", "label: stable"),
        (predict_request({}, "x"), "FAILED_PRECONDITION", 'signature key "x" not found'),
        (predict_request({}), "INVALID_ARGUMENT", "input size does not match signature: 0!=1"),
        (predict_request({"x": [b""]}), "INVALID_ARGUMENT", "alias not found in signature: x"),
        (predict_request({"image_bytes": [1.0]}), "INVALID_ARGUMENT", "float32 where string"),
        (predict_request({"image_bytes": b"x"}), "INVALID_ARGUMENT", "shape [] where (None,)"),
        (predict_request({"image_bytes": [BAD]}), "INVALID_ARGUMENT", "is no JPEG or PNG"),
        (predict_request({"image_bytes": [real_images()[0][:-900]]}), "INVALID_ARGUMENT",
         "JPEG"),
        (predict_request({"pixels": PIXELS["pixels"][:, 1:]}, "pixels"), "INVALID_ARGUMENT",
         "shape [1, 31, 32, 3]"),
        (predict_request({"pixels": PIXELS["pixels"].astype(np.float32)}, "pixels"),
         "INVALID_ARGUMENT", "float32 where uint8"),
        (predict_request({"image_bytes": [bytes(LIMIT)]}), "RESOURCE_EXHAUSTED", ""),
        (predict_request({"image_bytes": np.array([], object)}), "INVALID_ARGUMENT",
         "at least one example"),
        (predict_request({"pixels": PIXELS["pixels"][:0]}, "pixels"), "INVALID_ARGUMENT",
         "at least one example"),
        (stated_shape([1_000_000]), "INVALID_ARGUMENT", "send at most 1024"),
        (stated_shape([10**12]), "INVALID_ARGUMENT", "send at most 1024"),
        (stated_shape([2]), "INVALID_ARGUMENT", "does not fit the values"),
        (stated_shape([-1]), "INVALID_ARGUMENT", "shape [-1]"),
        (stated_shape([]), "INVALID_ARGUMENT", "shape []"),
        (stated_shape(None), "INVALID_ARGUMENT", "states no shape"),
        (stated_shape([100, SIZE, SIZE, 3], "pixels"), "INVALID_ARGUMENT",
         "does not fit the values"),
        (stated_shape([1, -SIZE, -SIZE, 3], "pixels"), "INVALID_ARGUMENT", "is expected"),
        (stated_shape([2**40, SIZE, SIZE, 3], "pixels"), "INVALID_ARGUMENT", "send at most 1024"),
    ],
)  # fmt: skip
def test_grpc_errors_have_tensorflow_servings_codes(running, request_, code, message):
    with pytest.raises(grpc.RpcError) as refusal:
        running.prediction.Predict(request_, 60)
    assert refusal.value.code().name == code
    assert message in refusal.value.details()


def test_other_grpc_errors(running):
    request = predict_request(PIXELS, "pixels")
    request.output_filter.append("logits")
    filtered = get_model_metadata_pb2.GetModelMetadataRequest()
    filtered.model_spec.name = "small"
    other = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["weights"])
    other.model_spec.name = "small"
    status = get_model_status_pb2.GetModelStatusRequest()
    status.model_spec.name = "x"
    classify = classification_pb2.ClassificationRequest()
    for method, asked, code, message in [
        (running.prediction.Predict, request, "INVALID_ARGUMENT", "output tensor alias not found"),
        (running.prediction.GetModelMetadata, filtered, "INVALID_ARGUMENT", "at least one"),
        (running.prediction.GetModelMetadata, other, "INVALID_ARGUMENT", "weights"),
        (running.prediction.Classify, classify, "UNIMPLEMENTED", ""),
        (running.model.GetModelStatus, status, "NOT_FOUND", "any versions of model x"),
    ]:
        with pytest.raises(grpc.RpcError) as refusal:
            method(asked, 60)
        assert refusal.value.code().name == code
        assert message in refusal.value.details()


def test_a_number_stated_once_is_all_of_a_tensor(running):
    """As TensorFlow writes `tf.make_tensor_proto(7, tf.uint8, shape)`."""
    response = running.prediction.Predict(stated_shape([2, SIZE, SIZE, 3], "pixels"), 60)
    student = small_student()
    sevens = np.full((2, SIZE, SIZE, 3), 7, np.float32)
    expected = scores_of(student(sevens, training=False)["logits"].numpy())
    np.testing.assert_allclose(tf.make_ndarray(response.outputs["scores"]), expected, atol=1e-5)


GOOD = b64(real_images()[0])
LINES = base64.encodebytes(real_images()[0]).decode()  # a line break after 76 characters


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({"instances": [{"b64": LINES}]}, {}),
        ({"instances": [{"b64": LINES.replace("\n", "\r\n ")}]}, {}),
        ({"instances": [{"b64": LINES.rstrip("\n=")}]}, {}),
        ({"instances": [{"b64": LINES.rstrip("\n=") + "." * (LINES.count("="))}]}, {}),
        ({"inputs": {"image_bytes": [GOOD], "key": [1]}, "more": 1}, {}),
        (gzip.compress(json.dumps({"instances": [GOOD]}).encode()), {"Content_Encoding": "gzip"}),
    ],
    ids=["lines", "windows lines", "no padding", "dots", "extra key", "gzip"],
)
def test_what_tensorflow_serving_accepts_is_accepted(running, body, headers):
    url = f"{running.rest}/v1/models/small/versions/0001:predict"
    status, reply = http(url, body, **headers)
    assert status == 200, reply
    scores = (reply.get("predictions") or [{}])[0].get("scores") or reply["outputs"]["scores"][0]
    expected = np.sort(expected_scores(real_images()[:1])[0])[::-1][:5]
    np.testing.assert_allclose(scores, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (gzip.compress(b" " * (LIMIT + 1)), 413, "above the limit"),
        (gzip.compress(b" " * 10**8), 413, "above the limit"),
        (gzip.compress(b"{}")[:-4], 400, "damaged"),
        (gzip.compress(b"{}") + b"more", 400, "damaged"),
        (b"{}", 400, "damaged"),
        (b"", 400, "damaged"),
    ],
    ids=["long", "bomb", "cut off", "trailing", "plain", "empty"],
)
def test_bodies_that_are_not_gzip_or_too_long_are_refused(running, body, status, message):
    url = f"{running.rest}/v1/models/small:predict"
    code, reply = http(url, body, Content_Encoding="gzip")
    assert (code, set(reply)) == (status, {"error"})
    assert message in reply["error"]


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("x:predict", {"instances": [GOOD]}, 404, "Latest(x)"),
        ("small/versions/9:predict", {"instances": [GOOD]}, 404, "Specific(small, 9)"),
        ("small/labels/stable:predict", {"instances": [GOOD]}, 400, "label: stable"),
        ("small:predict", {"signature_name": "x", "instances": [GOOD]}, 400, '"x" not found in'),
        ("small:predict", {"signature_name": 3, "instances": [GOOD]}, 400, "must be a string"),
        ("small:predict", b"{", 400, "JSON Parse error"),
        ("small:predict", b"[" * 100_000, 400, "JSON Parse error"),
        ("small:predict", b"[]", 400, "not object"),
        ("small:predict", {}, 400, "Missing 'inputs' or 'instances' key"),
        ("small:predict", {"instances": [GOOD], "inputs": [GOOD]}, 400, "only one of"),
        ("small:predict", {"instances": []}, 400, "list with values"),
        ("small:predict", {"instances": [{"x": GOOD}]}, 400, "keys must be equal to: image_bytes"),
        ("small:predict", {"instances": [GOOD, {"image_bytes": GOOD}]}, 400, "mixes"),
        ("small:predict", {"inputs": {"x": [GOOD]}}, 400, "Missing named input: image_bytes"),
        ("small:predict", {"inputs": []}, 400, "at least one example"),
        ("small:predict", {"signature_name": "pixels", "inputs": []}, 400, "is expected"),
        ("small:predict", {"instances": [GOOD["b64"][:40]] * 2000}, 400, "send at most 1024"),
        ("small:predict", b'{"instances": ' + b"[" * 900 + b"]" * 900 + b"}", 400,
         "expected type: string"),
        ("small:predict", b'{"signature_name": "pixels", "instances": ' + b"[" * 900 + b"]" * 900
         + b"}", 400, "no tensor"),
        ("small:predict", b'{"instances": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}", 400,
         "list with values"),
        ("small:predict", b'{"instances": ["\\ud800"]}', 400, "JSON Parse error"),
        ("small:predict", b'{"\\uDFFF": 1, "instances": ["x"]}', 400, "JSON Parse error"),
        ("small:predict", b'{"instances": ["\xed\xa0\x80"]}', 400, "JSON Parse error"),
        ("small:predict", b'{"instances": ["\\ud83d\\ude00"]}', 400, "is no JPEG or PNG"),
        ("small:predict", b'{"instances": [' + b"9" * 5000 + b"]}", 400, "JSON Parse error"),
        ("small:predict", {"signature_name": "pixels", "instances": [[[["7", 1, 10**30]]]]}, 400,
         "expected type: uint8"),
        ("small:predict", {"signature_name": "pixels", "instances": [[[[0, 0, 10**30]]]]}, 400,
         "expected type: uint8"),
        ("small:predict", {"signature_name": "pixels", "instances": [[[[0, 0, True]]]]}, 400,
         "expected type: uint8"),
        ("small:predict", {"instances": [{"b64": "AAAAA"}]}, 400, "Unable to base64 decode"),
        ("small:predict", {"instances": [{"b64": "AAA=="}]}, 400, "Unable to base64 decode"),
        ("small:predict", {"instances": [{"b64": "AA-_"}]}, 400, "Unable to base64 decode"),
        ("small:predict", {"instances": [{"b64": "\u0663AAA"}]}, 400, "Unable to base64 decode"),
        ("small:predict", {"instances": [{"b64": "?"}]}, 400, "Unable to base64 decode"),
        ("small:predict", {"instances": [3]}, 400, "expected type: string"),
        ("small:predict", {"instances": [[GOOD], [GOOD, GOOD]]}, 400, "expected type: string"),
        ("small:predict", {"instances": [GOOD, b64(BAD)]}, 400, "[1] [is no JPEG or PNG]"),
        ("small:predict", {"signature_name": "pixels", "instances": [[[[0, 0, 256]]]]}, 400,
         "expected type: uint8"),
        ("small:predict", {"signature_name": "pixels", "instances": [[[[0, 0, 0.5]]]]}, 400,
         "expected type: uint8"),
        ("small:predict", {"signature_name": "pixels", "instances": [[1], [1, 2]]}, 400,
         "no tensor"),
        ("small:predict", {"signature_name": "pixels", "instances": [[[[0, 0, 0]]]]}, 400,
         "shape [1, 1, 1, 3]"),
        ("small:classify", {}, 501, "predict"),
        ("small:train", {}, 400, "Malformed request: POST /v1/models/small:train"),
        ("small/versions/99999999999999999999:predict", {}, 400, "to numeric"),
        (f"small/versions/{'9' * 5000}:predict", {}, 400, "to numeric"),
        (f"small/versions/{'9' * 5000}", None, 400, "to numeric"),
        (f"small/versions/{'0' * 5000}9/metadata", None, 404, "Specific(small, 9)"),
        ("small/versions/%D9%A1", None, 400, "Malformed request"),  # an Arabic 1
        ("x", None, 404, "Could not find any versions of model x"),
        ("small/versions/9", None, 404, "Could not find version 9 of model small"),
        ("small/versions/9/metadata", None, 404, "Specific(small, 9)"),
        ("small:predict", None, 400, "Malformed request: GET"),
        ("small:predict", b" " * (LIMIT + 1), 413, "limit"),
    ],
)  # fmt: skip
def test_rest_errors_have_tensorflow_servings_codes(running, path, body, status, message):
    code, reply = http(f"{running.rest}/v1/models/{path}", body)
    assert code == status
    assert set(reply) == {"error"}
    assert message in reply["error"]


def wait_for(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.05)


def states(running: Running) -> dict[str, str]:
    reply = http(f"{running.rest}/v1/models/small")[1]
    return {each["version"]: each["state"] for each in reply["model_version_status"]}


@contextmanager
def half_open_connections(running: Running, count: int, data: bytes) -> Iterator[list[Any]]:
    host, port = running.rest.removeprefix("http://").split(":")
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(count)
        ]
        for each in sockets:
            each.sendall(data)
        yield sockets


@contextmanager
def half_open_calls() -> Iterator[Callable[[grpc.Channel], Any]]:
    """Begins calls that send no message before the block ends."""
    end = threading.Event()

    def nothing() -> Iterator[bytes]:
        end.wait()
        yield from ()

    def begin(channel: grpc.Channel) -> Any:
        method = channel.stream_unary("/tensorflow.serving.PredictionService/Predict")
        return method.future(nothing())

    try:
        yield begin
    finally:
        end.set()


def own_connection(stack: ExitStack, port: int) -> grpc.Channel:
    """A channel that shares its connection with no other, and is connected."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}", options))
    grpc.channel_ready_future(channel).result(60)
    return channel


@pytest.mark.parametrize(
    "data",
    [b"", b"POST /v1/models/small:predict HTTP/1.1\r\nHost:",
     b"POST /v1/models/small:predict HTTP/1.1\r\nContent-Length: 99\r\n\r\n{"],
    ids=["nothing", "half a header", "half a body"],
)  # fmt: skip
def test_half_open_requests_do_not_block_others(running, data):
    with (
        half_open_connections(running, 130, data),
        half_open_calls() as begin,
        ExitStack() as stack,
    ):
        calls = [begin(own_connection(stack, running.port)) for _ in range(20)]
        assert http(f"{running.rest}/v1/models/small:predict", {"instances": [GOOD]})[0] == 200
        running.prediction.Predict(predict_request(PIXELS, "pixels"), 60)
        assert not any(call.done() for call in calls)


def test_connections_that_wait_are_closed_and_those_that_work_are_not(running):
    """More than are accepted: of the crowd, those that wait are closed after a second."""
    with half_open_connections(running, 600, b"POST ") as sockets:
        assert http(f"{running.rest}/v1/models/small")[0] == 200
        assert http(f"{running.rest}/v1/models/small:predict", {"instances": [GOOD]})[0] == 200
        sockets[0].settimeout(60)
        assert sockets[0].recv(1) == b""


def test_damaged_requests_are_the_clients_fault_and_change_nothing(running):
    """More of them: `python -m tests.fuzz --requests 5000`."""
    image = real_images()[0]
    rest = count_rest(running.rest, "small", image, SIZE, inputs=300)
    calls = count_grpc(running.channel, "small", image, inputs=300)
    # Were all refused, the damage would not reach what runs.
    assert rest.total() == calls.total() == 300
    assert rest["200"] > 0 < calls["OK"]
    assert rest["400"] > 100 < calls["INVALID_ARGUMENT"]
    response = running.prediction.Predict(predict_request({"image_bytes": [image]}), 60)
    check_grpc(response, expected_scores([image]))


@pytest.fixture(scope="module")
def versions(running) -> Versions:
    loaded = Versions("small", running.base_path)
    loaded.poll()
    return loaded


@pytest.fixture
def impatient(running, versions) -> Iterator[tuple[Server, Running]]:
    """A server of the same model in this process, with other limits."""
    limits = Limits(receive_seconds=1.0, grace_seconds=5.0, concurrent_rpcs=12)
    server = Server(versions, port=0, rest_api_port=0, limits=limits)
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        rest = f"http://127.0.0.1:{server.rest_api_port}"
        yield server, Running(running.process, running.base_path, channel, rest, server.port)


def is_closed_after(connection: socket.socket, data: bytes) -> bool:
    try:
        connection.sendall(data)
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_a_request_that_trickles_in_is_closed(impatient):
    server, other = impatient
    with server, half_open_connections(other, 1, b"POST /") as (slow,):
        slow.settimeout(0.1)
        wait_for(lambda: is_closed_after(slow, b"x"))
    assert server.is_idle


def test_calls_above_the_limit_are_refused_and_the_rest_ends_with_the_grace_period(impatient):
    server, other = impatient
    with half_open_calls() as begin, ExitStack() as stack:
        with server:
            # Over one connection: calls come in as they are begun, so these are in before the next.
            # An earlier probe could hold the last place when its turn comes.
            channel = own_connection(stack, other.port)
            calls = [begin(channel) for _ in range(12)]
            prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            for _ in range(2):
                with pytest.raises(grpc.RpcError) as refusal:
                    prediction.Predict(predict_request(PIXELS, "pixels"), 60)
                assert refusal.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert not any(call.done() for call in calls)
            with half_open_connections(other, 3, b"POST /"):
                pass
        assert server.is_idle
        codes = {call.exception(60).code() for call in calls}
        assert codes <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


def test_places_of_ended_calls_are_free_again(impatient):
    server, other = impatient
    with server, ExitStack() as stack:
        channel = own_connection(stack, other.port)
        with half_open_calls() as begin:
            calls = [begin(channel) for _ in range(12)]
        assert all(call.exception(60) for call in calls)
        other.prediction.Predict(predict_request(PIXELS, "pixels"), 60)
    assert server.is_idle


def test_new_versions_are_loaded_and_broken_ones_are_not(running):
    (running.base_path / "000003").mkdir()
    (running.base_path / "000003" / "saved_model.pb").write_bytes(b"broken")
    wait_for(lambda: states(running) == {"1": "AVAILABLE", "3": "END"})
    error = http(f"{running.rest}/v1/models/small/versions/3")[1]["model_version_status"][0]
    assert error["status"]["error_code"] != "OK"
    assert error["status"]["error_message"]
    # A copy in one step, as an export's is.
    shutil.copytree(running.base_path / "1", running.base_path / ".unfinished")
    (running.base_path / ".unfinished").rename(running.base_path / "000004")
    wait_for(lambda: states(running).get("4") == "AVAILABLE")
    assert states(running)["1"] == "END"
    request = predict_request(PIXELS, "pixels")
    assert running.prediction.Predict(request, 60).model_spec.version.value == 4
    request.model_spec.version.value = 1
    with pytest.raises(grpc.RpcError) as refusal:
        running.prediction.Predict(request, 60)
    assert refusal.value.code() == grpc.StatusCode.NOT_FOUND


class Blocked(tf.Module):
    """A model whose computation lasts until somebody reads from the named pipe of its input."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = f"{folder}/"

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def predict(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        path = tf.strings.join([self._folder, image_bytes[0]])
        with tf.control_dependencies([tf.io.write_file(tf.strings.join([path, ".entered"]), "")]):
            written = tf.io.write_file(path, "written")
        with tf.control_dependencies([written]):
            return {"path": path[tf.newaxis]}


@dataclass(frozen=True)
class BlockedCalls:
    """A server's process with a gRPC and a REST call that wait for their pipes."""

    process: subprocess.Popen
    base_path: Path
    rest: str
    grpc_call: Any
    rest_call: Any
    pipes: tuple[Path, Path]


@contextmanager
def blocked_calls(folder: Path, *flags: str) -> Iterator[BlockedCalls]:
    model, base_path = Blocked(folder), folder / "base"
    tf.saved_model.save(model, str(base_path / "1"), {"serving_default": model.predict})
    pipes = folder / "grpc", folder / "rest"
    for pipe in pipes:
        os.mkfifo(pipe)
    process = start(base_path, "--port=0", "--rest_api_port=0", *flags)
    try:
        port, rest_port = ports(process)
        url = f"http://127.0.0.1:{rest_port}/v1/models/default"
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, ThreadPoolExecutor() as pool:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            request = predict_request({"image_bytes": [b"grpc"]}, name="default")
            grpc_call = stub.Predict.future(request)
            rest_call = pool.submit(http, f"{url}:predict", {"instances": [b64(b"rest")]})
            for pipe in pipes:
                wait_for(pipe.with_suffix(".entered").exists)
            yield BlockedCalls(process, base_path, url, grpc_call, rest_call, pipes)
    finally:
        process.kill()
        process.communicate()


def test_a_signal_ends_it_after_running_requests(tmp_path):
    with blocked_calls(tmp_path, "--grace_seconds=120") as calls:
        calls.process.send_signal(signal.SIGTERM)
        while "stopping" not in (line := calls.process.stderr.readline()):
            assert line, "the log ends"
        assert [pipe.read_text() for pipe in calls.pipes] == ["written", "written"]
        assert calls.grpc_call.result(60).outputs["path"].string_val == [bytes(calls.pipes[0])]
        assert calls.rest_call.result(60) == (200, {"predictions": [str(calls.pipes[1])]})
        assert calls.process.wait(60) == 0
        assert calls.process.stderr.read().rstrip().endswith("stopped")


def test_a_signal_ends_it_while_computations_and_a_load_take_forever(tmp_path):
    flags = "--grace_seconds=2", "--file_system_poll_wait_seconds=0.1"
    with blocked_calls(tmp_path, *flags) as calls:
        (calls.base_path / "2").mkdir()
        os.mkfifo(calls.base_path / "2" / "saved_model.pb")
        wait_for(lambda: http(f"{calls.rest}/versions/2")[0] == 200)
        status = http(f"{calls.rest}/versions/2")[1]["model_version_status"][0]
        assert status["state"] == "LOADING"
        calls.process.send_signal(signal.SIGTERM)
        # Nobody reads from the pipes: a server that waits for the calls or for the load never ends.
        assert calls.process.wait(60) == 0
        assert isinstance(calls.grpc_call.exception(60), grpc.RpcError)
        assert isinstance(calls.rest_call.exception(60), OSError)
        assert "stopped, while requests were still running" in calls.process.stderr.read()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "holds no export"),
        (["--model_base_path="], "--model_base_path is missing"),
        (["runs/a", "--model_base_path=runs/b"], "Give one run's folder"),
        (["--port=x"], "--port=x is not a whole number"),
        (["--rest_api_port=70000"], "70000"),
    ],
)
def test_what_cannot_be_served_is_one_message(tmp_path, flags, words):
    process = start(tmp_path, *flags)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert words in errors
    assert "Traceback" not in errors


def test_an_address_of_ipv6_is_taken(versions):
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
    with (
        Server(versions, port=0, rest_api_port=0, host="::1") as server,
        grpc.insecure_channel(f"[::1]:{server.port}") as channel,
    ):
        prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        assert prediction.Predict(predict_request(PIXELS, "pixels"), 60).outputs
        status, _ = http(f"http://[::1]:{server.rest_api_port}/v1/models/small")
        assert status == 200


def test_a_host_that_is_no_address_is_refused_as_such(versions):
    with pytest.raises(UserError, match=r"^--host=no\.such\.host\.invalid is no address"):
        Server(versions, port=0, rest_api_port=0, host="no.such.host.invalid")
