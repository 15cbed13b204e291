"""TFLite files of a student, for the Larq Compute Engine and for stock LiteRT.

flatbuffer = convert(student)           # 1 bit per binary weight, for the Larq Compute Engine
reference = convert_float(student)       # the same network with every weight in float32
run(flatbuffer, pixels)                 # logits, float32 [N, classes]
run_litert(reference, pixels)
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from candle_tf.deploy.binarize import make_deployable
from candle_tf.deploy.saved_model.writer import SAVE_OPTIONS, SIGNATURE
from candle_tf.deploy.tflite.interpreters import (
    compute_engine,
    open_compute_engine,
    open_litert,
    predict,
)
from candle_tf.runtime_messages import drop_runtime_messages


def convert(student: tf.keras.Model, dtype: tf.DType = tf.uint8) -> bytes:
    """Converts a student to a TFLite file with binary convolutions.

    The file takes "pixels", uint8 `[1, H, W, 3]`, and gives "logits", float32 `[1, classes]`: what
    comes between a decoded image and the student's first convolution is in its graph.
    `candle_tf.deploy.checks.operators` checks that all of it stayed binary.

    Args:
        student: Keras model from pixels, float32 `[N, H, W, 3]` in 0..255, to "logits".
        dtype: what the file takes; float32 for a network whose input is no image.

    Returns:
        The content of the file.

    Raises:
        UserError: for a student in mixed precision, and where the Larq Compute Engine is missing.
    """
    engine = compute_engine()
    # With the number of images open, as the checks before a training have it
    # (students/analysis/preflight.py); the engine's converter makes it 1.
    with drop_runtime_messages(), _save_model(student, dtype, images=None) as directory:
        return engine.convert_saved_model(directory)


def convert_float(student: tf.keras.Model, dtype: tf.DType = tf.uint8) -> bytes:
    """Converts a student to a plain TFLite file, which stock LiteRT runs.

    Input and output are those of `convert`. The kernels hold the same two values per channel, in
    32 bits each; activations are +-1 in float.

    Args:
        student: as for `convert`.
        dtype: as for `convert`.

    Returns:
        The content of the file.

    Raises:
        UserError: for a student in mixed precision.
    """
    # XNNPACK does not take tensors whose shape is open.
    with drop_runtime_messages(), _save_model(student, dtype, images=1) as directory:
        return tf.lite.TFLiteConverter.from_saved_model(directory).convert()


def run(
    flatbuffer: bytes,
    pixels: np.ndarray,
    num_threads: int = 1,
    kernel: str = "indirect",
    source: str = "the TFLite model",
) -> np.ndarray:
    """Runs a file in the Larq Compute Engine, one image at a time.

    Args:
        flatbuffer: the content of the file.
        pixels: `[N, H, W, 3]` in 0..255, with the file's own height and width; uint8, or whole
            numbers of another type.
        num_threads: threads that share the work on one image.
        kernel: of the binary convolutions: "indirect" (fastest on x86), "default" or "reference".
        source: how messages call the file, best its path.

    Returns:
        Logits, float32 `[N, classes]`.

    Raises:
        UserError: for damaged bytes, images of another shape or not in 0..255, an unknown kernel,
            and where the Larq Compute Engine is missing.
    """
    return predict(open_compute_engine(flatbuffer, source, num_threads, kernel), pixels)


def run_litert(
    flatbuffer: bytes, pixels: np.ndarray, num_threads: int = 1, source: str = "the TFLite model"
) -> np.ndarray:
    """Runs a file in stock LiteRT (with XNNPACK), one image at a time.

    Args:
        flatbuffer: the content of the file.
        pixels: as for `run`.
        num_threads: as for `run`.
        source: as for `run`.

    Returns:
        Logits, float32 `[N, classes]`.

    Raises:
        UserError: as `run`; also for a file that needs the Larq Compute Engine.
    """
    return predict(open_litert(flatbuffer, source, num_threads), pixels)


@contextmanager
def _save_model(student: tf.keras.Model, dtype: tf.DType, images: int | None) -> Iterator[str]:
    """A folder with the student as a SavedModel.

    The converters' ways from a Keras model give the same files, but spend most of their time on
    saving every layer's own functions for Keras. Weights are written as constants of the graph, as
    the converters read variables one by one.
    """
    model = make_deployable(student)
    spec = tf.TensorSpec((images, *model.input_shape[1:]), dtype, name="pixels")

    @tf.function(input_signature=[spec], autograph=False)
    def infer(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"logits": model(tf.cast(pixels, tf.float32), training=False)}

    with tempfile.TemporaryDirectory() as directory:
        signatures = {SIGNATURE: convert_variables_to_constants_v2(infer.get_concrete_function())}
        tf.saved_model.save(tf.Module(), directory, signatures=signatures, options=SAVE_OPTIONS)
        yield directory
