"""Compares an exported file's outputs with the student's.

agreement = measure_agreement(logits, run(flatbuffer, pixels), "student.tflite")
check_agreement(logits, run(flatbuffer, pixels), "student.tflite")
"""

from dataclasses import dataclass

import numpy as np

from candle_tf.deploy.checks.errors import ExportError

# Relative to the largest logit. On most ReActNets both sides round by 1e-6. But where the last maps
# are 1x1, most of a 3x3 window is constant padding that batch normalisation takes away again: there
# Keras's own float32 was 2.5e-4 from its float64 (the converted file: 4e-6).
ROUNDING = 1e-3
# The share of images that has to agree to rounding.
UNTOUCHED_SHARE = 0.02
# Relative likewise; flipped signs were measured to move the median image by up to 0.09.
FLIPS = 0.2
MIN_ARGMAX_AGREEMENT = 0.99


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


def check_agreement(expected: np.ndarray, actual: np.ndarray, what: str) -> Agreement:
    """Refuses outputs that differ from the student's by more than rounding explains.

    An image's difference is its largest absolute one, relative to the largest |expected|. The file
    rounds differently from Keras (batch normalisation is folded into the convolution).
    That alone would allow a bound on the maximum; but an activation so near its sign's threshold
    that rounding carries it across flips, and changes its image's outputs by 1 to 10 %. The share
    of such images grows with the number of activations: one or two in a hundred in ReActNet at 64
    pixels and half width, two thirds at 224 pixels and full width. A wrong weight, on the other
    hand, changes the outputs of all images. Hence three bounds:

    - the 2 % quantile of the images' differences is rounding (`ROUNDING`): where nothing flips,
      the file is the student;
    - their median is no more than what flips do (`FLIPS`);
    - the arg-max is the same for 99 % of the images whose two best classes are further apart than
      rounding on both. One image is always allowed, as among few images it is more than 1 %.

    A right file of a student with very many activations at their thresholds exceeds these bounds.
    `checks.signs` tells it from a wrong one, where the file's signs can be read.

    Args:
        expected: the student's outputs, float `[N, C]`.
        actual: the exported file's outputs for the same images, float `[N, C]`.
        what: how messages call the file.

    Returns:
        The measured agreement.

    Raises:
        ExportError: where shapes differ, a value is not finite, or a bound is exceeded.
    """
    agreement = measure_agreement(expected, actual, what)
    allowed = max(1, int((1 - MIN_ARGMAX_AGREEMENT) * agreement.decided))
    if not (
        agreement.untouched_difference <= ROUNDING
        and agreement.median_difference <= FLIPS
        and agreement.disagreeing <= allowed
    ):
        raise ExportError(
            f"{what} does not compute what the student computes on {agreement.images} images: "
            f"differences relative to the largest output are {agreement.untouched_difference:.1e} "
            f"(2 % quantile, at most {ROUNDING:.0e}), {agreement.median_difference:.1e} (median, "
            f"at most {FLIPS:.0e}), {agreement.largest_difference:.1e} (largest); "
            f"{agreement.disagreeing} images have another class (at most {allowed})."
        )
    return agreement


def measure_agreement(expected: np.ndarray, actual: np.ndarray, what: str) -> Agreement:
    """How far a file's outputs are from the student's, whatever that comes to.

    Args:
        expected, actual, what: as for `check_agreement`.

    Raises:
        ExportError: where shapes differ, there is no image, or a value is not finite.
    """
    if expected.shape != actual.shape or len(expected) == 0:
        raise ExportError(
            f"{what} gives outputs of shape {list(actual.shape)} where the student gives "
            f"{list(expected.shape)}: export it again, and check it on at least one image."
        )
    agreement = _agreement(expected.astype(np.float64), actual.astype(np.float64))
    if not np.isfinite(agreement.largest_difference):
        raise ExportError(
            f"{what} gives outputs that are no finite numbers where the student's are "
            f"{expected.min():.3g} to {expected.max():.3g}: export it again."
        )
    return agreement


def largest_differences(expected: np.ndarray, actual: np.ndarray, count: int) -> np.ndarray:
    """Numbers of the images that differ most, and as many evenly over all; int `[<= 2 count]`.

    Images with another arg-max come before all others.

    Args:
        expected, actual: outputs of the same images, float `[N, C]`.
        count: of images.
    """
    difference = np.abs(actual - expected).max(axis=1)
    changed = actual.argmax(axis=1) != expected.argmax(axis=1)
    most = np.lexsort((-difference, ~changed))[:count]
    evenly = np.linspace(0, len(expected) - 1, min(count, len(expected))).astype(int)
    return np.unique(np.concatenate([most, evenly]))


def _agreement(expected: np.ndarray, actual: np.ndarray) -> Agreement:
    largest = max(float(np.abs(expected).max()), float(np.finfo(np.float32).tiny))
    differences = np.abs(actual - expected).max(axis=1) / largest
    decided = _margins(expected) > 2 * ROUNDING * largest
    same = actual.argmax(axis=1) == expected.argmax(axis=1)
    return Agreement(
        images=len(expected),
        # An image's own value, never one interpolated between an unchanged and a changed one.
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
