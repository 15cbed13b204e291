"""The gate of every export: what is shipped is binary, and computes what the student computes.

counts = check_binary(flatbuffer, student)
check_agreement(logits, run(flatbuffer, pixels), "student.tflite")
check_saved_model(folder, pixels, logits, images)
"""

import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from candle_tf.deploy.tflite.flatbuffer import (
    BINARY_CONVOLUTION,
    CONVOLUTION,
    DEPTHWISE_CONVOLUTION,
    DEQUANTIZE,
    FLOAT_OPERATORS,
    FULLY_CONNECTED,
    Operator,
    operators,
)
from candle_tf.errors import UserError
from candle_tf.students.layers.blocks import binary_layers

# Relative to the largest logit. On most ReActNets both sides round by 1e-6. But where the last maps
# are 1x1, most of a 3x3 window is constant padding that batch normalisation takes away again: there
# Keras's own float32 was 2.5e-4 from its float64 (the converted file: 4e-6).
ROUNDING = 1e-3
# The share of images that has to agree to rounding.
UNTOUCHED_SHARE = 0.02
# Relative likewise; flipped signs were measured to move the median image by up to 0.09.
FLIPS = 0.2
MIN_ARGMAX_AGREEMENT = 0.99
# Scores below this are compared as if they were this: float32 ends a little further down.
_MIN_SCORE = 1e-30


class ExportError(UserError):
    """An exported file that is not binary, or does not compute what the student computes."""


@dataclass(frozen=True)
class Agreement:
    """How far an exported file is from the student; one difference is an image's largest.

    Attributes:
        images: number of images compared.
        untouched_difference: 2 % quantile over the images, relative to the largest |y| of all.
        median_difference: median over the images, relative likewise.
        largest_difference: maximum over the images, relative likewise.
        decided: number of images where the student's two best classes are further apart than
            rounding.
        disagreeing: number of those with another arg-max.
        argmax_agreement: share of those with the same arg-max, 0..1; 1 where there are none.
    """

    images: int
    untouched_difference: float
    median_difference: float
    largest_difference: float
    decided: int
    disagreeing: int
    argmax_agreement: float


def check_binary(
    flatbuffer: bytes, student: tf.keras.Model, source: str = "the TFLite model"
) -> dict[str, int]:
    """Refuses a converted file in which anything became float that is binary in the student.

    Args:
        flatbuffer: the content of the file.
        student: the Keras model it was converted from.
        source: how messages call the file, best its path.

    Returns:
        How often each operator occurs, by name.

    Raises:
        ExportError: naming the layers that did not stay binary, or the tensors of operators that
            the student does not have.
        UserError: for a damaged file.
    """
    _refuse_unsupported_layers(student)
    steps = operators(flatbuffer, source)
    counts = Counter(step.name for step in steps)
    binary = binary_layers(student)
    if counts[BINARY_CONVOLUTION] != len(binary):
        # Where the kernel is no constant in the file, there is no telling which layer it was.
        names = _float_binary_layers(steps, student) or ["(kernels not in the file)"]
        raise ExportError(
            f"{source} has {counts[BINARY_CONVOLUTION]} binary convolutions where the student has "
            f"{len(binary)}; not binary: {', '.join(names)}. See to a sign right before each of "
            "them, padding with 1, and kernels of one scale per output channel."
        )
    _refuse_unexpected_operators(steps, student, source)
    return dict(counts)


def check_stock(flatbuffer: bytes, source: str = "the TFLite model") -> dict[str, int]:
    """Refuses a file that stock LiteRT cannot run.

    Args:
        flatbuffer: the content of the file.
        source: how messages call the file, best its path.

    Returns:
        How often each operator occurs, by name.

    Raises:
        ExportError: naming the operators that are not TFLite's own.
        UserError: for a damaged file.
    """
    steps = operators(flatbuffer, source)
    foreign = sorted({step.name for step in steps if step.is_custom})
    if foreign:
        raise ExportError(
            f"{source} has the operators {', '.join(foreign)}, which stock LiteRT does not know: "
            "convert the student without the Larq Compute Engine."
        )
    return dict(Counter(step.name for step in steps))


def check_agreement(expected: np.ndarray, actual: np.ndarray, what: str) -> Agreement:
    """Refuses outputs that differ from the student's by more than rounding explains.

    An image's difference is its largest absolute one, relative to the largest |expected|. The file
    rounds otherwise than Keras (batch normalisation is folded into the convolution).
    That alone would allow a bound on the maximum; but an activation so near its sign's threshold
    that rounding carries it across flips, and moves its image by a per cent or ten. How many images
    that happens to grows with the number of activations: one or two in a hundred in ReActNet at 64
    pixels and half width, two thirds of them at 224 pixels and full width. A wrong weight, on the
    other hand, moves all images. Hence three bounds:

    - the 2 % quantile of the images' differences is rounding (`ROUNDING`): where nothing flips,
      the file is the student;
    - their median is no more than what flips do (`FLIPS`);
    - the arg-max is the same for 99 % of the images whose two best classes are further apart than
      rounding on both. One image is forgiven, as among few images it is more than 1 %.

    Args:
        expected: the student's outputs, float [N, C].
        actual: the exported file's outputs for the same images, float [N, C].
        what: how messages call the file.

    Returns:
        The measured agreement.

    Raises:
        ExportError: where shapes differ, a value is not finite, or a bound is exceeded.
    """
    if expected.shape != actual.shape or len(expected) == 0:
        raise ExportError(
            f"{what} gives outputs of shape {list(actual.shape)} where the student gives "
            f"{list(expected.shape)}: export it again, and check it on at least one image."
        )
    agreement = _agreement(expected.astype(np.float64), actual.astype(np.float64))
    allowed = max(1, int((1 - MIN_ARGMAX_AGREEMENT) * agreement.decided))
    # Written so that NaN is refused too.
    if not (
        agreement.untouched_difference <= ROUNDING
        and agreement.median_difference <= FLIPS
        and np.isfinite(agreement.largest_difference)
        and agreement.disagreeing <= allowed
    ):
        raise ExportError(
            f"{what} does not compute what the student computes on {agreement.images} images: "
            f"differences relative to the largest output are {agreement.untouched_difference:.1e} "
            f"(2 % quantile, at most {ROUNDING:.0e}), {agreement.median_difference:.1e} (median, "
            f"at most {FLIPS:.0e}), {agreement.largest_difference:.1e} (largest); "
            f"{agreement.disagreeing} images have another class (at most {allowed}). Export it "
            "again from its checkpoint."
        )
    return agreement


def check_saved_model(
    directory: str | Path, pixels: np.ndarray, expected: np.ndarray, images: np.ndarray
) -> Agreement:
    """Runs a SavedModel in a process with TensorFlow alone, and compares it with the student.

    The signature "pixels" is compared with the student; "serving_default", which gets the images
    as PNG files, with "pixels": it has to come to the same pixels, scores and names by itself.

    Args:
        directory: the numbered folder.
        pixels: uint8 [N, H, W, 3], as the student sees the images.
        expected: the student's logits for them, float [N, classes].
        images: uint8 [N, side, side, 3], the same before they were resized for the student.

    Returns:
        The agreement of the scores' logarithms with those of the logits' softmax: the scores of a
        confident student are all but 0 and 1, and would hide a difference.

    Raises:
        ExportError: where the SavedModel cannot be run without larq and this package, its
            signatures disagree, or `check_agreement` refuses.
    """
    directory = Path(directory)
    outputs = _run_elsewhere(directory, pixels, images)
    agreement = check_agreement(_log_softmax(expected), _log(outputs["all_scores"]), str(directory))
    _refuse_other_best(directory, outputs)
    return agreement


def _refuse_other_best(directory: Path, outputs: dict[str, np.ndarray]) -> None:
    """Both signatures run the same network on the same pixels, in batches of the same size."""
    scores, ids = outputs["scores"], outputs["class_ids"]
    of_pixels = np.take_along_axis(outputs["all_scores"], ids, axis=1)
    best = -np.sort(-outputs["all_scores"], axis=1)[:, : ids.shape[1]]
    differences = np.maximum(np.abs(scores - of_pixels), np.abs(scores - best)).max(axis=1)
    if not (differences <= ROUNDING).all():
        raise ExportError(
            f"{directory}: of {len(scores)} images given as files, "
            f"{int((~(differences <= ROUNDING)).sum())} get other scores than as pixels (by up to "
            f"{differences.max():.1e}): give the export the side that images are stretched to."
        )
    labels = np.array((directory / "assets" / "labels.txt").read_bytes().split(b"\n")[:-1])
    if not np.array_equal(outputs["class_names"], labels[ids]):
        raise ExportError(f"{directory}: its class names are not those of assets/labels.txt.")


def _refuse_unsupported_layers(student: tf.keras.Model) -> None:
    """Of layers with kernels of one bit, the engine takes plain convolutions only."""
    supported = {layer.name for layer in binary_layers(student)}
    attributes = ("kernel_quantizer", "depthwise_quantizer", "pointwise_quantizer")
    others = [
        layer.name
        for layer in student.layers
        if layer.name not in supported
        and any(getattr(getattr(layer, name, None), "precision", None) == 1 for name in attributes)
    ]
    if others:
        raise ExportError(
            f"The Larq Compute Engine has no binary form of {', '.join(others)}: make them plain "
            "binary convolutions, or float."
        )


def _float_binary_layers(steps: list[Operator], student: tf.keras.Model) -> list[str]:
    """Names of the student's binary layers whose kernel is found in a float convolution.

    Tensor names do not tell: they begin with the batch normalisation fused into the convolution,
    and are cut before its own name. The signs of a kernel do: batch normalisation scales a
    channel, or turns all its signs.
    """
    floats = [
        step.weights.values
        for step in steps
        if step.name in FLOAT_OPERATORS and step.weights and step.weights.values is not None
    ]
    return [
        layer.name
        for layer in binary_layers(student)
        if any(_same_signs(layer.kernel.numpy(), values) for values in floats)
    ]


def _same_signs(kernel: np.ndarray, converted: np.ndarray) -> bool:
    """Kernel [height, width, in, out] against [out, height, width, in], up to a sign per `out`."""
    if converted.shape != (kernel.shape[-1], *kernel.shape[:-1]):
        return False
    signs = np.where(np.moveaxis(kernel, -1, 0) >= 0, 1, -1).reshape(len(converted), -1)
    products = signs * np.sign(converted.reshape(len(converted), -1))
    # A batch normalisation with a scale of 0 leaves a channel without signs.
    live = products.any(axis=1)
    return bool(live.any() and (np.abs(products[live].sum(axis=1)) == signs.shape[1]).all())


def _expected_floats(student: tf.keras.Model) -> dict[str, list[str]]:
    """Names of the student's float layers by the operator they become."""
    binary = {layer.name for layer in binary_layers(student)}
    kinds: dict[str, Any] = {
        DEPTHWISE_CONVOLUTION: tf.keras.layers.DepthwiseConv2D,
        CONVOLUTION: tf.keras.layers.Conv2D,
        FULLY_CONNECTED: tf.keras.layers.Dense,
    }
    return {
        operator: [
            layer.name
            for layer in student.layers
            if isinstance(layer, kind) and layer.name not in binary
        ]
        for operator, kind in kinds.items()
    }


def _refuse_unexpected_operators(
    steps: list[Operator], student: tf.keras.Model, source: str
) -> None:
    expected: dict[str, list[str]] = {DEQUANTIZE: [], **_expected_floats(student)}
    for operator, layers in expected.items():
        found = [" ".join(step.outputs) for step in steps if step.name == operator]
        if len(found) != len(layers):
            raise ExportError(
                f"{source} has {len(found)} {operator} ({', '.join(found) or 'none'}) where the "
                f"student has {len(layers)} ({', '.join(layers) or 'none'}): a sign's output is "
                "used in float, or a layer was not converted as it is in the student."
            )


def _agreement(expected: np.ndarray, actual: np.ndarray) -> Agreement:
    largest = max(float(np.abs(expected).max()), float(np.finfo(np.float32).tiny))
    differences = np.abs(actual - expected).max(axis=1) / largest
    decided = _margins(expected) > 2 * ROUNDING * largest
    same = actual.argmax(axis=1) == expected.argmax(axis=1)
    return Agreement(
        images=len(expected),
        # An image's own value, never one interpolated between an untouched and a moved one.
        untouched_difference=float(np.quantile(differences, UNTOUCHED_SHARE, method="lower")),
        median_difference=float(np.median(differences)),
        largest_difference=float(differences.max()),
        decided=int(decided.sum()),
        disagreeing=int((~same & decided).sum()),
        argmax_agreement=float(same[decided].mean()) if decided.any() else 1.0,
    )


def _margins(outputs: np.ndarray) -> np.ndarray:
    """Distance of the two largest values of each row; infinite where there is only one."""
    if outputs.shape[1] < 2:
        return np.full(len(outputs), np.inf)
    best = np.partition(outputs, -2, axis=1)
    return best[:, -1] - best[:, -2]


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return _log(powers / powers.sum(axis=-1, keepdims=True))


def _log(scores: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(scores, _MIN_SCORE))


# Standard input of a Python that starts outside the package's folder, on files in its own.
_STOCK_TENSORFLOW = """
import sys
import numpy as np
import tensorflow as tf

signatures = tf.saved_model.load(sys.argv[1]).signatures
pixels, images = np.load("pixels.npy"), np.load("images.npy")
outputs = {"all_scores": [], "class_names": [], "class_ids": [], "scores": []}
for start in range(0, len(pixels), 64):
    batch = slice(start, start + 64)
    scores = signatures["pixels"](pixels=tf.constant(pixels[batch]))["scores"]
    outputs["all_scores"].append(scores.numpy())
    files = tf.stack([tf.io.encode_png(image) for image in images[batch]])
    for name, value in signatures["serving_default"](image_bytes=files).items():
        outputs[name].append(value.numpy())
outputs["class_names"] = [np.array(names, "S") for names in outputs["class_names"]]
np.savez("outputs.npz", **{name: np.concatenate(parts) for name, parts in outputs.items()})
foreign = {"larq", "candle_tf"} & {name.partition(".")[0] for name in sys.modules}
assert not foreign, f"imported {foreign}"
"""


def _run_elsewhere(
    directory: Path, pixels: np.ndarray, images: np.ndarray
) -> dict[str, np.ndarray]:
    # Importing candle_tf has set this here; stock TensorFlow runs without.
    environment = {name: os.environ[name] for name in os.environ if name != "TF_USE_LEGACY_KERAS"}
    with tempfile.TemporaryDirectory() as exchange:
        np.save(f"{exchange}/pixels.npy", pixels)
        np.save(f"{exchange}/images.npy", images)
        process = subprocess.run(
            [sys.executable, "-", str(directory.resolve())],
            input=_STOCK_TENSORFLOW,
            cwd=exchange,
            env=environment,
            text=True,
            capture_output=True,
            check=False,
        )
        if process.returncode != 0:
            reason = (process.stderr.strip().splitlines() or ["no message"])[-1]
            raise ExportError(
                f"{directory} does not run in stock TensorFlow ({reason}): export it again."
            )
        with np.load(f"{exchange}/outputs.npz") as outputs:
            return dict(outputs)
