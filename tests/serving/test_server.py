"""The server as a user starts it, called by TensorFlow Serving's own gRPC clients and over HTTP."""

import base64
import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
from tests.deploy.saved_model.test_writer import NAMES, real_images, scores_of
from tests.deploy.test_binarize import SIZE, logits_of, photographs, small_student

BAD = b"GIF89a is no image here"
LIMIT = 300_000  # bytes of a request


@dataclass(frozen=True)
class Running:
    """A server's process, its model's folder and its ports."""

    process: subprocess.Popen
    base_path: Path
    channel: grpc.Channel
    rest: str

    @property
    def prediction(self) -> Any:
        return prediction_service_pb2_grpc.PredictionServiceStub(self.channel)

    @property
    def model(self) -> Any:
        return model_service_pb2_grpc.ModelServiceStub(self.channel)


def start(base_path: Path, *flags: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "candle_tf.serve", f"--model_base_path={base_path}", *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[Running]:
    base_path = tmp_path_factory.mktemp("base") / "saved_model"
    export_saved_model(small_student(), base_path, NAMES, image_side=SIZE)
    process = start(
        base_path, "--model_name=small", "--port=0", "--rest_api_port=0",
        f"--max_request_bytes={LIMIT}", "--file_system_poll_wait_seconds=0.1",
    )  # fmt: skip
    try:
        line = process.stdout.readline()
        assert line.startswith("Serving 'small' on 127.0.0.1"), process.stderr.read()
        assert "in production use TensorFlow Serving" in process.stdout.readline()
        port, rest_port = (int(text.split()[0].strip(",.")) for text in line.split(" port ")[1:])
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Running(process, base_path, channel, f"http://127.0.0.1:{rest_port}")
    finally:
        process.kill()
        process.communicate()


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


def http(url: str, body: Any = None) -> tuple[int, Any]:
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(url, data, timeout=60) as response:
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


GOOD = b64(real_images()[0])


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
        ("small:predict", {"inputs": {"x": [GOOD]}}, 400, "named input: x"),
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


def test_new_versions_are_loaded_and_broken_ones_are_not(running):
    (running.base_path / "3").mkdir()
    (running.base_path / "3" / "saved_model.pb").write_bytes(b"broken")
    wait_for(lambda: states(running) == {"1": "AVAILABLE", "3": "END"})
    error = http(f"{running.rest}/v1/models/small/versions/3")[1]["model_version_status"][0]
    assert error["status"]["error_code"] != "OK"
    assert error["status"]["error_message"]
    # A copy in one step, as an export's is.
    shutil.copytree(running.base_path / "1", running.base_path / ".unfinished")
    (running.base_path / ".unfinished").rename(running.base_path / "4")
    wait_for(lambda: states(running).get("4") == "AVAILABLE")
    assert states(running)["1"] == "END"
    request = predict_request(PIXELS, "pixels")
    assert running.prediction.Predict(request, 60).model_spec.version.value == 4
    request.model_spec.version.value = 1
    with pytest.raises(grpc.RpcError) as refusal:
        running.prediction.Predict(request, 60)
    assert refusal.value.code() == grpc.StatusCode.NOT_FOUND


def test_a_signal_ends_it_after_running_requests(running):
    # The last test of this server.
    with ThreadPoolExecutor(4) as pool:
        body = {"instances": [GOOD] * 8}
        url = f"{running.rest}/v1/models/small:predict"
        asked = [pool.submit(http, url, body) for _ in range(4)]
        time.sleep(0.3)
        running.process.send_signal(signal.SIGTERM)
        assert [future.result()[0] for future in asked] == [200] * 4
    assert running.process.wait(60) == 0
    log = running.process.stderr.read()
    assert "stopping" in log
    assert log.rstrip().endswith("stopped")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "has no version that loads"),
        (["--model_base_path="], "--model_base_path is missing"),
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
