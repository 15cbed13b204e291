"""Accuracy on a test set, per class and by shot group, and calibration of the confidence.

Pure NumPy: the logits may be from Keras, a SavedModel or a converted file.

    groups = {"many": np.array([0]), "medium": np.array([1]), "few": np.array([], int)}
    metrics = evaluate_logits(logits, labels, groups, ["cat", "dog"])
    metrics.mean, metrics.groups        # 0.75, {"many": 1.0, "medium": 0.5}

Test sets may be unbalanced, so the main figure is the mean over classes of the per-class accuracy
(balanced accuracy); `overall` is the mean over images. A class's accuracy is its recall: beside it
are its precision, which images of other classes that are taken for it lower, and F1 of both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

CALIBRATION_BINS = 15
# Mean class accuracy on the validation subset, in the history of a training.
SCORE = "val_mean_class_accuracy"

# Classes without test images that a sentence names; all are in report.json.
_NAMED = 10
_TOP = 5
# With fewer classes most are among five.
_FEWEST_CLASSES_OF_TOP_5 = 11
# Rows of logits that are compared at a time.
_ROWS = 1024
_FRACTIONS = ("mean", "overall", "worst_accuracy", "expected_calibration_error")
_BY_CLASS = ("per_class", "per_class_precision", "per_class_f1")

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Metrics:
    """Results of one classifier on one test set. Accuracies are fractions, 0 to 1.

    Attributes:
        mean: mean of the per-class accuracies over the classes that have test images.
        overall: share of images classified correctly.
        groups: shot group -> mean per-class accuracy; a group without tested classes is absent.
        group_classes: shot group -> number of classes in that mean; the same keys.
        per_class: accuracy of each class in class order, None where it has no test image.
        worst_class: name of the tested class with the lowest accuracy (the first, on a tie).
        worst_accuracy: its accuracy.
        expected_calibration_error: 15 equal-width bins of top-1 confidence (Guo et al., "On
            Calibration of Modern Neural Networks", 2017), 0 (best) to 1.
        images: number of test images.
        untested_classes: names of the classes without test images.
        top_5: mean over the tested classes of the share of a class's images for which it has one
            of the five largest logits (the first classes, of equal ones); None with ten classes
            and fewer, and in reports of older versions.
        per_class_precision: of each class in class order the share of the images predicted as it
            that are of it; None where none is, and where it has no test image. Empty in reports of
            older versions.
        per_class_f1: of each class the harmonic mean of its accuracy and its precision, 0 where
            none of its images is classified correctly; None where it has no test image. Empty in
            reports of older versions.
    """

    mean: float
    overall: float
    groups: dict[str, float]
    group_classes: dict[str, int]
    per_class: tuple[float | None, ...]
    worst_class: str
    worst_accuracy: float
    expected_calibration_error: float
    images: int
    untested_classes: tuple[str, ...]
    top_5: float | None = None
    per_class_precision: tuple[float | None, ...] = ()
    per_class_f1: tuple[float | None, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain Python values, JSON-ready; `from_json` is the inverse."""
        return asdict(self) | {
            name: list(getattr(self, name)) for name in (*_BY_CLASS, "untested_classes")
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Metrics":
        """Reads what `to_json` wrote, also that of older versions.

        Raises:
            ValueError: a field is missing, unknown or not what it should be; the message names it.
        """
        known = {field.name for field in fields(cls)}
        always = {field.name for field in fields(cls) if field.default is MISSING}
        if not always <= set(values) <= known:
            raise ValueError(
                f"these are not the fields of Metrics: missing {sorted(always - set(values))}, "
                f"unknown {sorted(set(values) - known)}"
            )
        _check_values(values)
        return cls(
            **{
                **values,
                "groups": dict(values["groups"]),
                "group_classes": dict(values["group_classes"]),
                "untested_classes": tuple(values["untested_classes"]),
                **{name: tuple(values.get(name, ())) for name in _BY_CLASS},
            }
        )


def _check_values(values: Mapping[str, Any]) -> None:
    """Refuses values of `Metrics` of other types, and fractions out of range."""

    def is_count(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0

    def is_fraction(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1

    groups, sizes = values["groups"], values["group_classes"]
    untested, top_5 = values["untested_classes"], values.get("top_5")

    def is_by_class(name: str) -> bool:
        found = values.get(name, ())
        return (
            isinstance(found, list | tuple)
            and all(value is None or is_fraction(value) for value in found)
            and (not found or len(found) == len(values["per_class"]))
        )

    checks = {
        **{name: is_fraction(values[name]) for name in _FRACTIONS},
        "groups": isinstance(groups, dict) and all(map(is_fraction, groups.values())),
        "group_classes": isinstance(sizes, dict)
        and isinstance(groups, dict)
        and sizes.keys() == groups.keys()
        and all(map(is_count, sizes.values())),
        **{name: is_by_class(name) for name in _BY_CLASS},
        "top_5": top_5 is None or is_fraction(top_5),
        "worst_class": isinstance(values["worst_class"], str),
        "images": is_count(values["images"]),
        "untested_classes": isinstance(untested, list | tuple)
        and all(isinstance(name, str) for name in untested),
    }
    wrong = [name for name, is_right in checks.items() if not is_right]
    if wrong:
        raise ValueError(f"{wrong[0]} is not what it should be")


@dataclass(frozen=True)
class Reliability:
    """Accuracy against confidence by bin of top-1 confidence; arrays of shape [bins].

    Attributes:
        edges: float [bins + 1], bin b holds confidences in (edges[b], edges[b + 1]].
        counts: int, images in the bin.
        confidence: float, their mean confidence; NaN in an empty bin.
        accuracy: float, the share of them classified correctly; NaN in an empty bin.
    """

    edges: FloatArray
    counts: IntArray
    confidence: FloatArray
    accuracy: FloatArray

    @property
    def expected_calibration_error(self) -> float:
        """Mean over images of |accuracy - confidence| of their bin (Guo et al. 2017, eq. 3)."""
        gaps = np.abs(self.accuracy - self.confidence)
        return float(np.nansum(gaps * self.counts) / self.counts.sum())


def evaluate_logits(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    groups: Mapping[str, npt.ArrayLike],
    class_names: Sequence[str],
) -> Metrics:
    """Computes the metrics of a classifier from its logits on a whole test set.

    Args:
        logits: float [N, C], any offset or scale; the class with the largest logit is predicted.
        labels: int [N], 0 to C - 1.
        groups: shot group -> indices of its classes (`candle_tf.data.splits.longtail.shot_groups`).
        class_names: C names, in the order of the logits.

    Returns:
        The metrics, in plain Python numbers.

    Raises:
        ValueError: shapes that do not fit, labels or group indices out of range, a logit that is
            not finite, or no image at all.
    """
    scores, targets = _check_logits(logits, labels)
    classes = scores.shape[1]
    if len(class_names) != classes:
        raise ValueError(
            f"{len(class_names)} class names for logits of shape {scores.shape}: "
            "one name per column is needed"
        )
    predicted = scores.argmax(axis=1)
    correct = predicted == targets
    accuracy = _mean_by_bin(correct, targets, classes)
    tested = ~np.isnan(accuracy)
    precision, f1 = precision_and_f1(
        *(np.bincount(each, minlength=classes) for each in (targets[correct], targets, predicted))
    )
    members = {name: _group_members(name, indices, classes) for name, indices in groups.items()}
    members = {name: m[tested[m]] for name, m in members.items()}
    worst = int(np.nanargmin(accuracy))
    calibration = _reliability(_top_confidence(scores), correct, CALIBRATION_BINS)
    return Metrics(
        mean=float(accuracy[tested].mean()),
        overall=float(correct.mean()),
        groups={name: float(accuracy[m].mean()) for name, m in members.items() if m.size},
        group_classes={name: int(m.size) for name, m in members.items() if m.size},
        per_class=_none_for_nan(accuracy),
        worst_class=class_names[worst],
        worst_accuracy=float(accuracy[worst]),
        expected_calibration_error=calibration.expected_calibration_error,
        images=len(targets),
        untested_classes=tuple(n for n, t in zip(class_names, tested, strict=True) if not t),
        top_5=_mean_top_5(scores, targets) if classes >= _FEWEST_CLASSES_OF_TOP_5 else None,
        per_class_precision=_none_for_nan(precision),
        per_class_f1=_none_for_nan(f1),
    )


def precision_and_f1(
    hits: IntArray, images: IntArray, predicted: IntArray
) -> tuple[FloatArray, FloatArray]:
    """Precision and F1 score of each class, 0 to 1 (van Rijsbergen, "Information Retrieval", 1979).

    Args:
        hits: of each class its images that are predicted as it, int [C].
        images: its images, int [C].
        predicted: images predicted as it, int [C].

    Returns:
        float64 [C] each: hits / predicted, nan where none is predicted; 2 hits / (images +
        predicted). Both are nan where the class has no image.
    """

    def divide(above: IntArray, below: IntArray) -> FloatArray:
        where = (images > 0) & (below > 0)
        return np.divide(above, below, out=np.full(len(images), np.nan), where=where)

    return divide(hits, predicted), divide(2 * hits, images + predicted)


def untested_sentence(names: Sequence[str], images: str = "test") -> str:
    """Says which classes are in no mean, as they have no test images; "" where all have some.

    Args:
        names: of these classes; the first ten are in the sentence.
        images: which ones were measured, if not those of the test set.
    """
    if not names:
        return ""
    has, them = ("class has", "is") if len(names) == 1 else ("classes have", "are")
    shown = ", ".join(names[:_NAMED])
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return f"{len(names):,} {has} no {images} images and {them} not in the means: {shown}{more}"


def softmax(logits: npt.ArrayLike) -> FloatArray:
    """Probabilities over the last axis, of the logits' shape; no overflow for large logits."""
    exponentials = _shifted_exponentials(_as_float(logits))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def reliability(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, bins: int = CALIBRATION_BINS
) -> Reliability:
    """Accuracy and mean confidence by equal-width bin of top-1 confidence.

    Args:
        probabilities: float [N, C], each 0 to 1 (see `softmax`).
        labels: int [N], 0 to C - 1.
        bins: number of bins over (0, 1].

    Returns:
        The arrays of a reliability diagram, with the calibration error as a property.

    Raises:
        ValueError: as `evaluate_logits`; also values outside 0 to 1, or fewer than one bin.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, not {bins}")
    scores, targets = _check_logits(probabilities, labels)
    # float32 rows add up to 1 only up to rounding, and so may a single certain class.
    if scores.min() < 0 or scores.max() > 1 + 1e-5:
        raise ValueError(
            f"probabilities range from {scores.min()} to {scores.max()}, outside 0 to 1: "
            "pass logits through softmax first"
        )
    return _reliability(scores.max(axis=1), scores.argmax(axis=1) == targets, bins)


def confusion_matrix(
    labels: npt.ArrayLike, predictions: npt.ArrayLike, classes: int
) -> npt.NDArray[np.int64]:
    """Counts of images by true class (row) and predicted class (column).

    Args:
        labels: int [N], 0 to C - 1.
        predictions: int [N], 0 to C - 1.
        classes: C.

    Returns:
        int64 [C, C]; its sum is N.

    Raises:
        ValueError: the two differ in shape, or a value is out of range.
    """
    pairs = _pair_codes(labels, predictions, classes)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes).astype(np.int64)


def _check_logits(
    logits: npt.ArrayLike, labels: npt.ArrayLike
) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Checks logits [N, C] and labels [N]; returns them as float32 or wider, and int64."""
    scores, targets = _as_float(logits), np.asarray(labels)
    if scores.ndim != 2 or targets.shape != scores.shape[:1] or scores.size == 0:
        raise ValueError(
            f"logits of shape {scores.shape} and labels of shape {targets.shape} do not fit: "
            "[N, C] and [N], with at least one image, are needed"
        )
    bad_rows = int((~np.isfinite(scores).all(axis=1)).sum())
    if bad_rows:
        raise ValueError(f"{bad_rows} of {len(scores)} rows of logits hold NaN or infinite values")
    return scores, _class_indices("labels", targets, scores.shape[1])


def _as_float(values: npt.ArrayLike) -> FloatArray:
    array = np.asarray(values)
    return array.astype(np.promote_types(array.dtype, np.float32), copy=False)


def _class_indices(what: str, values: npt.ArrayLike, classes: int) -> npt.NDArray[np.int64]:
    array = np.asarray(values)
    if array.size == 0:
        return array.astype(np.int64)
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{what} must be integers, not {array.dtype}")
    if array.min() < 0 or array.max() >= classes:
        raise ValueError(
            f"{what} range from {array.min()} to {array.max()}, but there are {classes} classes "
            f"(0 to {classes - 1})"
        )
    return array.astype(np.int64)


def _group_members(name: str, indices: npt.ArrayLike, classes: int) -> npt.NDArray[np.int64]:
    return _class_indices(f"class indices of group {name!r}", indices, classes)


def _mean_by_bin(
    values: npt.NDArray[Any], bins: npt.NDArray[np.int64], count: int
) -> npt.NDArray[np.float64]:
    """float64 [count]: the mean of the values in each bin, NaN in an empty one."""
    sizes = np.bincount(bins, minlength=count)
    sums = np.bincount(bins, weights=values, minlength=count)
    return np.divide(sums, sizes, out=np.full(count, np.nan), where=sizes > 0)


def _none_for_nan(values: FloatArray) -> tuple[float | None, ...]:
    return tuple(None if np.isnan(value) else float(value) for value in values)


def _mean_top_5(scores: FloatArray, targets: npt.NDArray[np.int64]) -> float:
    """See `Metrics.top_5`; logits [N, C] are finite, and C is above 5."""
    places = np.arange(scores.shape[1])
    hits = np.empty(len(targets), np.bool_)
    for start in range(0, len(targets), _ROWS):
        rows = slice(start, start + _ROWS)
        some, labels = scores[rows], targets[rows, np.newaxis]
        own = np.take_along_axis(some, labels, axis=1)
        ahead = (some > own) | ((some == own) & (places < labels))
        hits[rows] = np.count_nonzero(ahead, axis=1) < _TOP
    each = _mean_by_bin(hits, targets, len(places))
    return float(np.nanmean(each))


def _shifted_exponentials(scores: FloatArray) -> FloatArray:
    return np.exp(scores - scores.max(axis=-1, keepdims=True))


def _top_confidence(scores: FloatArray) -> npt.NDArray[np.float64]:
    """The largest softmax probability of each row: the top class's own exponential is 1."""
    return 1.0 / _shifted_exponentials(scores).sum(axis=1, dtype=np.float64)


def _reliability(
    confidence: npt.NDArray[Any], correct: npt.NDArray[np.bool_], bins: int
) -> Reliability:
    edges = np.linspace(0.0, 1.0, bins + 1)
    # Inner edges only, so that 1 + rounding error is in the last bin.
    index = np.digitize(confidence, edges[1:-1], right=True)
    return Reliability(
        edges=edges,
        counts=np.bincount(index, minlength=bins),
        confidence=_mean_by_bin(confidence, index, bins),
        accuracy=_mean_by_bin(correct, index, bins),
    )


def _pair_codes(
    labels: npt.ArrayLike, predictions: npt.ArrayLike, classes: int
) -> npt.NDArray[np.int64]:
    """true * C + predicted, int64 [N]."""
    true, predicted = np.asarray(labels), np.asarray(predictions)
    if true.ndim != 1 or true.shape != predicted.shape:
        raise ValueError(
            f"labels of shape {true.shape} and predictions of shape {predicted.shape} "
            "do not fit: both must be [N]"
        )
    true = _class_indices("labels", true, classes)
    return true * classes + _class_indices("predictions", predicted, classes)
