"""The two runtimes that TFLite files are run in: the Larq Compute Engine and stock LiteRT.

interpreter = open_compute_engine(Path("student.lce.tflite").read_bytes())
interpreter(pixels[:1])                 # logits of one image, float32 [1, classes]
predict(interpreter, pixels)            # of many

Nothing here needs TensorFlow, but the Larq Compute Engine's own package imports it.
"""

import platform
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from absl import logging

from candle_tf.deploy.tflite.flatbuffer import operators
from candle_tf.errors import UserError
from candle_tf.runtime_messages import drop_runtime_messages

# Flags of the engine's interpreter for each kernel of the binary convolution. On x86 the indirect
# one is several times faster than the default one, which is written for ARM.
KERNELS: dict[str, dict[str, bool]] = {
    "default": {},
    "reference": {"use_reference_bconv": True},
    "indirect": {"use_indirect_bgemm": True},
}
_PROGRESS_EVERY = 1000


@dataclass(frozen=True)
class Interpreter:
    """A loaded file. Several threads may use it: each waits until the one before has its outputs.

    Attributes:
        source: how messages call the file.
        shape: of its input, (1, H, W, 3).
        dtype: of its input.
        invoke: from such an array to its outputs, in the file's order.
    """

    source: str
    shape: tuple[int, ...]
    dtype: np.dtype
    invoke: Callable[[np.ndarray], list[np.ndarray]]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Runs the file on an array of its own shape and type; gives its first output."""
        return self.invoke(image)[0]


def open_compute_engine(
    flatbuffer: bytes,
    source: str = "the TFLite model",
    num_threads: int = 1,
    kernel: str = "indirect",
) -> Interpreter:
    """Loads a file into the Larq Compute Engine.

    Args:
        flatbuffer: the content of the file.
        source: how messages call the file, best its path.
        num_threads: threads that share the work on one image.
        kernel: one of `KERNELS`.

    Raises:
        UserError: for damaged bytes, an unknown kernel, and where the engine is missing.
    """
    if kernel not in KERNELS:
        raise UserError(f"The kernel {kernel!r} is not known; it is one of {', '.join(KERNELS)}.")
    # On damaged bytes the interpreter would end the whole process; reading them refuses.
    operators(flatbuffer, source)
    compute_engine()
    from larq_compute_engine.tflite.python import interpreter as engine

    try:
        loaded = engine.Interpreter(flatbuffer, num_threads=num_threads, **KERNELS[kernel])
    except RuntimeError as error:
        raise UserError(f"{source} cannot be run ({error}): export it again.") from error
    shape, dtype = tuple(loaded.input_shapes[0]), np.dtype(loaded.input_types[0])

    # Inputs and outputs are in the engine's own memory, of which a file has one.
    lock = threading.Lock()

    def invoke(image: np.ndarray) -> list[np.ndarray]:
        with lock:
            return [output.copy() for output in loaded.interpreter.predict([image])]

    return Interpreter(source, shape, dtype, invoke)


def open_litert(
    flatbuffer: bytes, source: str = "the TFLite model", num_threads: int = 1
) -> Interpreter:
    """Loads a file into stock LiteRT, with XNNPACK as it comes.

    Args:
        flatbuffer: the content of the file.
        source: how messages call the file, best its path.
        num_threads: threads that share the work on one image.

    Raises:
        UserError: for damaged bytes, and for a file that needs the Larq Compute Engine.
    """
    if needs_compute_engine(flatbuffer, source):
        raise UserError(f"{source} needs the Larq Compute Engine; stock LiteRT cannot run it.")
    litert = import_litert()
    try:
        with drop_runtime_messages():
            loaded = litert.Interpreter(model_content=flatbuffer, num_threads=num_threads)
            loaded.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{source} cannot be run ({error}): export it again.") from error
    given = loaded.get_input_details()[0]
    outputs = [output["index"] for output in loaded.get_output_details()]

    # As in `open_compute_engine`; `get_tensor` gives a copy.
    lock = threading.Lock()

    def invoke(image: np.ndarray) -> list[np.ndarray]:
        with lock:
            loaded.set_tensor(given["index"], image)
            loaded.invoke()
            return [loaded.get_tensor(index) for index in outputs]

    return Interpreter(source, tuple(given["shape"].tolist()), np.dtype(given["dtype"]), invoke)


def predict(interpreter: Interpreter, pixels: np.ndarray) -> np.ndarray:
    """Runs a loaded file on images, one at a time.

    Args:
        interpreter: as opened.
        pixels: `[N, H, W, 3]` in 0..255, with the file's own height and width; for a file that
            takes uint8 either that, or whole numbers of another type.

    Returns:
        Outputs, float32 `[N, classes]`.

    Raises:
        UserError: for images of another shape, or not in 0..255.
    """
    expected = interpreter.shape[1:]
    if len(pixels) == 0 or pixels.shape[1:] != expected:
        raise UserError(
            f"{interpreter.source} takes images of shape [N, {', '.join(map(str, expected))}], at "
            f"least one, not {list(pixels.shape)}: resize them as for training."
        )
    images = pixels.astype(interpreter.dtype)
    if interpreter.dtype == np.uint8 and not np.array_equal(images, pixels):
        raise UserError(
            f"{interpreter.source} takes whole numbers in 0..255, and these images hold others: "
            "round them, and give them as uint8."
        )
    outputs = []
    for number in range(len(images)):
        if number and number % _PROGRESS_EVERY == 0:
            logging.info("TFLite: %d of %d images.", number, len(images))
        outputs.append(interpreter(images[number : number + 1]))
    return np.concatenate(outputs)


def needs_compute_engine(flatbuffer: bytes, source: str = "the TFLite model") -> bool:
    """Whether a file has operators that only the Larq Compute Engine knows.

    Raises:
        UserError: for damaged bytes.
    """
    return any(step.is_custom for step in operators(flatbuffer, source))


def compute_engine() -> ModuleType:
    """The package `larq_compute_engine`.

    Raises:
        UserError: where it cannot be imported.
    """
    try:
        import larq_compute_engine
    except ImportError as error:
        raise UserError(
            f"The Larq Compute Engine cannot be imported on {platform.machine()} ({error}). "
            "For Linux it comes as a Python package for x86-64 alone: convert and check there, and "
            "run the file on the device with the engine's C++ library (docs/devices.md)."
        ) from error
    return larq_compute_engine


def import_litert() -> ModuleType:
    """The module `ai_edge_litert.interpreter`.

    Raises:
        UserError: where it cannot be imported.
    """
    try:
        from ai_edge_litert import interpreter
    except ImportError as error:
        raise UserError(
            f"LiteRT cannot be imported on {platform.machine()} ({error}): install the packages of "
            "requirements.txt (python -m pip install -r requirements.txt)."
        ) from error
    return interpreter
