"""TFLite files for the Larq Compute Engine: written from a student, and run.

flatbuffer = convert(student)
run(flatbuffer, pixels)                 # logits, float32 [N, classes]
"""

import platform
import tempfile
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from candle_tf.deploy.binarize import deployable
from candle_tf.deploy.flatbuffer import operators
from candle_tf.deploy.saved_model import SAVE_OPTIONS, SIGNATURE
from candle_tf.errors import UserError

# Flags of the interpreter for each kernel of the binary convolution. On x86 the indirect one is
# several times faster than the default one, which is written for ARM.
_KERNELS: dict[str, dict[str, bool]] = {
    "default": {},
    "reference": {"use_reference_bconv": True},
    "indirect": {"use_indirect_bgemm": True},
}
_PROGRESS_EVERY = 1000


def convert(student: tf.keras.Model) -> bytes:
    """Converts a student to a TFLite file with binary convolutions.

    The file takes "pixels", float32 [1, H, W, 3] in 0..255, and gives "logits", float32
    [1, classes]. Whether all of it stayed binary is for `candle_tf.deploy.verify` to say.

    Args:
        student: Keras model from pixels, float32 [N, H, W, 3] in 0..255, to "logits".

    Returns:
        The content of the file.

    Raises:
        UserError: for a student in mixed precision, and where the Larq Compute Engine is missing.
    """
    engine = _compute_engine()
    model = deployable(student)
    module = tf.Module()
    module.parameters = model.variables

    @tf.function(
        input_signature=[tf.TensorSpec(model.input_shape, tf.float32, name="pixels")],
        autograph=False,
    )
    def predict(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"logits": model(pixels, training=False)}

    # `convert_keras_model` gives the same file, but spends most of its time on saving every
    # layer's own functions for Keras.
    with tempfile.TemporaryDirectory() as directory:
        signatures = {SIGNATURE: predict.get_concrete_function()}
        tf.saved_model.save(module, directory, signatures=signatures, options=SAVE_OPTIONS)
        return engine.convert_saved_model(directory)


def run(
    flatbuffer: bytes,
    pixels: np.ndarray,
    num_threads: int = 1,
    kernel: str = "indirect",
    source: str = "the TFLite model",
) -> np.ndarray:
    """Runs a converted file on images, one at a time.

    Args:
        flatbuffer: the content of the file.
        pixels: uint8 or float [N, H, W, 3] in 0..255, with the file's own height and width.
        num_threads: threads that share the work on one image.
        kernel: of the binary convolutions: "indirect" (fastest on x86), "default" or "reference".
        source: how messages call the file, best its path.

    Returns:
        Logits, float32 [N, classes].

    Raises:
        UserError: for damaged bytes, images of another shape, an unknown kernel, and where the
            Larq Compute Engine is missing.
    """
    if kernel not in _KERNELS:
        raise UserError(f"The kernel {kernel!r} is not known; it is one of {', '.join(_KERNELS)}.")
    interpreter = _interpreter(flatbuffer, source, num_threads=num_threads, **_KERNELS[kernel])
    expected = tuple(interpreter.input_shapes[0][1:])
    if len(pixels) == 0 or pixels.shape[1:] != expected:
        raise UserError(
            f"{source} takes images of shape [N, {', '.join(map(str, expected))}], at least one, "
            f"not {list(pixels.shape)}: resize them as for training."
        )
    return interpreter.predict(_one_by_one(pixels))


def _interpreter(flatbuffer: bytes, source: str, **options: Any) -> Any:
    # On damaged bytes the interpreter would end the whole process; reading them refuses.
    operators(flatbuffer, source)
    _compute_engine()
    from larq_compute_engine.tflite.python.interpreter import Interpreter

    try:
        return Interpreter(flatbuffer, **options)
    except RuntimeError as error:
        raise UserError(f"{source} cannot be run ({error}): export it again.") from error


def _compute_engine() -> ModuleType:
    try:
        import larq_compute_engine
    except ImportError as error:
        raise UserError(
            f"The Larq Compute Engine cannot be imported on {platform.machine()} ({error}). "
            "It comes as a Python package for x86-64 alone: convert and check there, and run the "
            "file on the device with the engine's C++ library."
        ) from error
    return larq_compute_engine


def _one_by_one(pixels: np.ndarray) -> Iterator[np.ndarray]:
    for number, image in enumerate(pixels, start=1):
        if number % _PROGRESS_EVERY == 0:
            logging.info("TFLite: %d of %d images.", number, len(pixels))
        yield image.astype(np.float32)
