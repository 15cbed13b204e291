"""Requests that TensorFlow Serving runs while it loads a new version.

The first call of a graph is slow. A server that finds assets.extra/tf_serving_warmup_requests
beside a SavedModel, a TFRecord file of `PredictionLog`, makes those calls while it loads.
"""

import functools
import io
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from PIL import Image

# Where TensorFlow Serving reads them.
WARMUP = Path("assets.extra") / "tf_serving_warmup_requests"
_SIDES = (320, 240)

# tensorflow-serving-api has these messages, but needs a TensorFlow of its own version: an export
# must not. The numbers are those of prediction_log.proto, predict.proto and model.proto; the
# package's name is not written to the file, and differs so that both can be loaded.
_PACKAGE = "candle_tf.warmup"
_MESSAGES = {
    "ModelSpec": [("name", 1, "string"), ("signature_name", 3, "string")],
    "InputsEntry": [("key", 1, "string"), ("value", 2, ".tensorflow.TensorProto")],
    "PredictRequest": [("model_spec", 1, "ModelSpec"), ("inputs", 2, "InputsEntry")],
    "PredictLog": [("request", 1, "PredictRequest")],
    "PredictionLog": [("predict_log", 6, "PredictLog")],
}


def write_warmup(
    saved_model: Path, requests: list[tuple[str, dict[str, tf.Tensor | np.ndarray]]]
) -> None:
    """Writes the warm-up records of a SavedModel.

    Args:
        saved_model: its folder.
        requests: signature and inputs of each call, in order.
    """
    path = saved_model / WARMUP
    path.parent.mkdir()
    log_type = _prediction_log_type()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in requests:
            log = log_type()
            request = log.predict_log.request
            request.model_spec.signature_name = signature
            for name, value in inputs.items():
                entry = request.inputs.add(key=name)
                entry.value.CopyFrom(tf.make_tensor_proto(value))
            writer.write(log.SerializeToString())


def warmup_images() -> list[bytes]:
    """A JPEG and a PNG of a colour wheel's sweep, nobody's image."""
    width, height = _SIDES
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    image = np.stack([across, down, 255 - across], axis=-1).astype(np.uint8)
    encoded = []
    for kind in ("JPEG", "PNG"):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, kind)
        encoded.append(buffer.getvalue())
    return encoded


@functools.cache
def _prediction_log_type() -> type:
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{_PACKAGE}.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=["tensorflow/core/framework/tensor.proto"],
    )
    field_type = descriptor_pb2.FieldDescriptorProto
    for message, fields in _MESSAGES.items():
        added = file.message_type.add(name=message)
        for name, number, kind in fields:
            repeated = name == "inputs"  # on the wire a map is a list of its entries
            label = field_type.LABEL_REPEATED if repeated else field_type.LABEL_OPTIONAL
            field = added.field.add(name=name, number=number, label=label)
            if kind == "string":
                field.type = field_type.TYPE_STRING
            else:
                field.type = field_type.TYPE_MESSAGE
                field.type_name = kind if kind.startswith(".") else f".{_PACKAGE}.{kind}"
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    descriptor = pool.FindMessageTypeByName(f"{_PACKAGE}.PredictionLog")
    if not hasattr(message_factory, "GetMessageClass"):  # protobuf 3, of Python 3.10
        return message_factory.MessageFactory(pool).GetPrototype(descriptor)
    return message_factory.GetMessageClass(descriptor)
