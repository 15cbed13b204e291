"""TensorFlow Serving's requests and responses, as both protocols know them.

response = predict(versions, request)   # PredictRequest to PredictResponse
"""

import math
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
)

from candle_tf.serving.servable import DEFAULT_SIGNATURE, check_names, check_tensor
from candle_tf.serving.status import INVALID_ARGUMENT, RequestError
from candle_tf.serving.versions import Versions, VersionState

SIGNATURE_DEF = "signature_def"
_UNKNOWN_ERROR = 2  # of error_codes.proto


def predict(
    versions: Versions, request: predict_pb2.PredictRequest, max_bytes: int
) -> predict_pb2.PredictResponse:
    """Runs a signature.

    Args:
        versions: what is served.
        request: what was sent.
        max_bytes: of each input; a request may state a value once for a whole tensor.

    Raises:
        RequestError: for an unknown model, version or signature, and inputs it does not take.
    """
    version = wanted_version(request.model_spec)
    servable = versions.servable(request.model_spec.name, version)
    signature = request.model_spec.signature_name
    definition = servable.signature(signature)
    check_names(definition, request.inputs, tuple(request.output_filter))
    inputs = {
        name: _array(name, value, definition.inputs[name], max_bytes)
        for name, value in request.inputs.items()
    }
    outputs = servable.call(signature, inputs, tuple(request.output_filter))
    response = predict_pb2.PredictResponse()
    response.model_spec.name = versions.name
    response.model_spec.version.value = servable.version
    response.model_spec.signature_name = signature or DEFAULT_SIGNATURE
    for name, value in outputs.items():
        response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
    return response


def model_metadata(
    versions: Versions, request: get_model_metadata_pb2.GetModelMetadataRequest
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """The signatures of a version.

    Raises:
        RequestError: for an unknown model or version, and other metadata than "signature_def".
    """
    version = wanted_version(request.model_spec)
    if not request.metadata_field:
        raise RequestError(
            INVALID_ARGUMENT, "GetModelMetadataRequest must specify at least one metadata_field"
        )
    for field in request.metadata_field:
        if field != SIGNATURE_DEF:
            raise RequestError(INVALID_ARGUMENT, f"Metadata field {field} is not supported")
    servable = versions.servable(request.model_spec.name, version)
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = versions.name
    response.model_spec.version.value = servable.version
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for name, definition in servable.signatures.items():
        signatures.signature_def[name].CopyFrom(definition)
    response.metadata[SIGNATURE_DEF].Pack(signatures)
    return response


def model_status(
    versions: Versions, request: get_model_status_pb2.GetModelStatusRequest
) -> get_model_status_pb2.GetModelStatusResponse:
    """The states of the versions that were seen.

    Raises:
        RequestError: for an unknown model or version.
    """
    version = wanted_version(request.model_spec)
    response = get_model_status_pb2.GetModelStatusResponse()
    for number, state in versions.states(request.model_spec.name, version).items():
        _add_state(response, number, state)
    return response


def wanted_version(spec: model_pb2.ModelSpec) -> int | None:
    """The version that a request asks for; None is the one that is served.

    Raises:
        RequestError: for no model's name, and for a label: this server gives none.
    """
    if not spec.name:
        raise RequestError(INVALID_ARGUMENT, "Missing ModelSpec")
    choice = spec.WhichOneof("version_choice")
    if choice == "version_label":
        raise RequestError(
            INVALID_ARGUMENT, f"Unrecognized servable version label: {spec.version_label}"
        )
    return spec.version.value if choice == "version" else None


def _add_state(response: Any, number: int, state: VersionState) -> None:
    status = response.model_version_status.add(version=number)
    status.state = get_model_status_pb2.ModelVersionStatus.State.Value(state.state)
    status.status.error_code = _UNKNOWN_ERROR if state.error else 0
    status.status.error_message = state.error


def _array(name: str, value: Any, info: Any, max_bytes: int) -> np.ndarray:
    """The array of a TensorProto, refused by its stated shape before anything is allocated."""
    try:
        dtype = tf.dtypes.as_dtype(value.dtype)
    except TypeError as error:
        raise RequestError(INVALID_ARGUMENT, f"tensor parsing error: {name}: {error}") from error
    if value.tensor_shape.unknown_rank:
        raise RequestError(INVALID_ARGUMENT, f"tensor parsing error: {name}: it states no shape")
    sizes = [int(dim.size) for dim in value.tensor_shape.dim]
    check_tensor(name, info, dtype, sizes)
    elements = math.prod(sizes)
    # A number may be stated once for all; each image of a batch is to be sent.
    if dtype == tf.string:
        fits = len(value.string_val) == elements
    else:
        fits = elements * dtype.size <= max_bytes
    if not fits:
        raise RequestError(
            INVALID_ARGUMENT,
            f"tensor parsing error: {name}: shape {sizes} does not fit the values that were sent",
        )
    try:
        return tf.make_ndarray(value)
    except (TypeError, ValueError, KeyError) as error:
        raise RequestError(INVALID_ARGUMENT, f"tensor parsing error: {name}: {error}") from error
