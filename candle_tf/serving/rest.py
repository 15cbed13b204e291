"""TensorFlow Serving's REST API as a WSGI application.

POST /v1/models/NAME[/versions/N]:predict       a PredictRequest as JSON
GET  /v1/models/NAME[/versions/N]               states of the versions
GET  /v1/models/NAME[/versions/N]/metadata      signatures
"""

import json
import re
import threading
import traceback
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from absl import logging
from google.protobuf import json_format
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
)
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.wrappers import Request, Response

from candle_tf.files import parse_json
from candle_tf.serving import responses
from candle_tf.serving.json_tensors import body_of, inputs_of
from candle_tf.serving.limits import LARGE_BODY_BYTES
from candle_tf.serving.servable import Servable
from candle_tf.serving.status import (
    FAILED_PRECONDITION,
    HTTP,
    INVALID_ARGUMENT,
    NOT_FOUND,
    RequestError,
)
from candle_tf.serving.versions import Versions

Application = Callable[[dict[str, Any], Callable[..., Any]], Any]

# As TensorFlow Serving's: paths in any case, but the method after the colon in small letters.
_API = re.compile(r"(?i)/v1/.*")
_MODEL = (
    r"(?i)/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
)
_PREDICT = re.compile(_MODEL + ":(?-i:predict)")
_CLASSIFY = re.compile(_MODEL + ":(?-i:classify|regress)")
_ABOUT = re.compile(_MODEL + "(?P<metadata>/metadata)?")
# Of a version, which is an int64.
_MOST_DIGITS = 19
_large_body = threading.Lock()
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def application(versions: Versions, max_bytes: int) -> Application:
    """The WSGI application.

    Args:
        versions: of the model that is served.
        max_bytes: larger bodies are refused with 413, also if they are so when decompressed.
    """

    def respond(environment: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        request = Request(environment)
        request.max_content_length = max_bytes
        body, status = _body_and_status(versions, request, max_bytes)
        text = json.dumps(body, indent=1, ensure_ascii=False)
        response = Response(text, status, content_type="application/json")
        return response(environment, start_response)

    return respond


def _body_and_status(
    versions: Versions, request: Request, max_bytes: int
) -> tuple[dict[str, Any], int]:
    try:
        return _route(versions, request, max_bytes), 200
    except RequestError as refused:
        return {"error": refused.message}, HTTP[refused.code]
    except HTTPException as error:  # a body that is too large or cut off
        return {"error": str(error.description)}, error.code or HTTP[INVALID_ARGUMENT]
    except Exception:
        logging.exception("a request failed")
        return {"error": "the server failed; see its log"}, 500


def _route(versions: Versions, request: Request, max_bytes: int) -> dict[str, Any]:
    if not _API.fullmatch(request.path):
        raise RequestError(NOT_FOUND, f"No such path: {request.path}")
    if request.method == "POST":
        if found := _PREDICT.fullmatch(request.path):
            return _predict(versions, _model_spec(found), _read_body(request, max_bytes))
        if _CLASSIFY.fullmatch(request.path):
            raise RequestError("UNIMPLEMENTED", "this server has only :predict")
    elif request.method == "GET" and (found := _ABOUT.fullmatch(request.path)):
        spec = _model_spec(found)
        return _metadata(versions, spec) if found["metadata"] else _status(versions, spec)
    raise RequestError(INVALID_ARGUMENT, f"Malformed request: {request.method} {request.path}")


def _read_body(request: Request, max_bytes: int) -> bytes:
    body = request.get_data(cache=False)
    if "gzip" not in request.headers.get("Content-Encoding", ""):
        return body
    unzip = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        text = unzip.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise RequestError(INVALID_ARGUMENT, f"The gzip body is damaged: {error}") from error
    if len(text) > max_bytes:
        raise RequestEntityTooLarge(f"The body is above the limit of {max_bytes} bytes.")
    if not unzip.eof or unzip.unused_data:
        raise RequestError(INVALID_ARGUMENT, "The gzip body is damaged: it is cut off or too long")
    return text


def _model_spec(found: re.Match[str]) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=found["name"])
    if found["version"]:
        digits = found["version"].lstrip("0") or "0"
        if len(digits) > _MOST_DIGITS or int(digits) >= 2**63:
            shown = digits if len(digits) < 50 else f"a number of {len(digits)} digits"
            raise RequestError(INVALID_ARGUMENT, f"Failed to convert version: {shown} to numeric.")
        spec.version.value = int(digits)
    elif found["label"]:
        spec.version_label = found["label"]
    return spec


def _predict(versions: Versions, spec: model_pb2.ModelSpec, body: bytes) -> dict[str, Any]:
    with _one_at_a_time(len(body)):
        servable, signature, inputs, by_row = _read_request(versions, spec, body)
    return body_of(servable.call(signature, inputs), by_row)


@contextmanager
def _one_at_a_time(size: int) -> Iterator[None]:
    """Holds back large bodies while another one is read: as JSON they take much memory."""
    if size <= LARGE_BODY_BYTES:
        yield
        return
    with _large_body:
        try:
            yield
        except RequestError as refused:
            # It would keep what was parsed until it is told.
            traceback.clear_frames(refused.__traceback__)
            raise


def _read_request(
    versions: Versions, spec: model_pb2.ModelSpec, body: bytes
) -> tuple[Servable, str, dict[str, np.ndarray], bool]:
    """What is to be called, the signature, its inputs, and whether they are by row.

    Raises:
        RequestError: for a body or a model that is none, and other inputs than the signature's.
    """
    asked = _parse_body(body)
    signature = asked.get("signature_name", "")
    if not isinstance(signature, str):
        raise RequestError(INVALID_ARGUMENT, "'signature_name' key must be a string value.")
    servable = versions.servable(spec.name, responses.wanted_version(spec))
    try:
        definition = servable.signature(signature)
    except RequestError as refused:
        # The one error that the two protocols number differently.
        code = INVALID_ARGUMENT if refused.code == FAILED_PRECONDITION else refused.code
        name = signature or "serving_default"
        message = f'Serving signature name: "{name}" not found in signature def'
        raise RequestError(code, message) from refused
    inputs, by_row = inputs_of(asked, definition.inputs)
    return servable, signature, inputs, by_row


def _parse_body(body: bytes) -> dict[str, Any]:
    try:
        text = body.decode()
        asked = parse_json(text)
        if _SURROGATE.search(text):
            # Half a character is none; this raises UnicodeEncodeError, a ValueError.
            json.dumps(asked, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise RequestError(INVALID_ARGUMENT, f"JSON Parse error: {error}") from error
    if not isinstance(asked, dict):
        raise RequestError(INVALID_ARGUMENT, "JSON Value is not object")
    return asked


def _status(versions: Versions, spec: model_pb2.ModelSpec) -> dict[str, Any]:
    request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
    return _as_json(responses.model_status(versions, request))


def _metadata(versions: Versions, spec: model_pb2.ModelSpec) -> dict[str, Any]:
    request = get_model_metadata_pb2.GetModelMetadataRequest(
        model_spec=spec, metadata_field=[responses.SIGNATURE_DEF]
    )
    response = responses.model_metadata(versions, request)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata[responses.SIGNATURE_DEF].Unpack(signatures)
    return {
        "model_spec": _as_json(response.model_spec),
        "metadata": {responses.SIGNATURE_DEF: _as_json(signatures)},
    }


def _as_json(message: Any) -> dict[str, Any]:
    return json_format.MessageToDict(
        message, including_default_value_fields=True, preserving_proto_field_name=True
    )
