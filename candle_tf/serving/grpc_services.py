"""PredictionService and ModelService over gRPC, with TensorFlow Serving's own messages."""

import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import grpc
from absl import logging
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from candle_tf.serving import responses
from candle_tf.serving.status import RequestError
from candle_tf.serving.versions import Versions

Request = TypeVar("Request")
Response = TypeVar("Response")


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata; its other methods are UNIMPLEMENTED."""

    def __init__(self, versions: Versions, max_bytes: int, at_once: int) -> None:
        self._versions = versions
        self._max_bytes = max_bytes
        # A thread also waits for each call whose message has not arrived, so there are many.
        self._turns = threading.BoundedSemaphore(at_once)

    def Predict(  # noqa: N802, the protocol's name
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        """Runs a signature."""
        predict = functools.partial(responses.predict, max_bytes=self._max_bytes)
        with self._turns:
            return _respond(predict, self._versions, request, context)

    def GetModelMetadata(  # noqa: N802
        self,
        request: get_model_metadata_pb2.GetModelMetadataRequest,
        context: grpc.ServicerContext,
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """The signatures."""
        return _respond(responses.model_metadata, self._versions, request, context)


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus; HandleReloadConfigRequest is UNIMPLEMENTED."""

    def __init__(self, versions: Versions) -> None:
        self._versions = versions

    def GetModelStatus(  # noqa: N802
        self,
        request: get_model_status_pb2.GetModelStatusRequest,
        context: grpc.ServicerContext,
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """The versions and their states."""
        return _respond(responses.model_status, self._versions, request, context)


def add_services(server: grpc.Server, versions: Versions, max_bytes: int, at_once: int) -> None:
    """Puts both services on a server.

    Args:
        server: before it is started.
        versions: what is served.
        max_bytes: of a tensor in a request.
        at_once: predictions that run at a time.
    """
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        PredictionService(versions, max_bytes, at_once), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(versions), server)


def _respond(
    make_response: Callable[[Versions, Request], Response],
    versions: Versions,
    request: Request,
    context: Any,
) -> Response:
    try:
        return make_response(versions, request)
    except RequestError as refused:
        context.abort(grpc.StatusCode[refused.code], refused.message)
    except Exception:
        logging.exception("a request failed")
        context.abort(grpc.StatusCode.INTERNAL, "the server failed; see its log")
    raise AssertionError("abort raises")
