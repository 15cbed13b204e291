"""Logits of thousands of classes in few bytes: the k largest, and the probability of the rest.

    logits = open_top_k(folder, key, rows, classes=8142, k=64, temperature=2.0, classify=classify)
    logits[np.array([4, 7])]                        # float32 [2, 8142]
    logits.bytes_per_row                            # 260, of 16,284

What is read has the k largest logits and, for every other class, the one value that gives the rest
together its own probability at the temperature of the loss. Let m be that probability. The targets
p' that are read then differ from p by sum |p - p'| <= 2 m, so that of the KL loss
T^2 KL(p || softmax(z / T)) of student logits z

* the gradient with respect to z, T (softmax(z / T) - p), differs by at most 2 T m in its sum of
  magnitudes;
* the value differs by at most T^2 m (log(C - k) + (range of z over the rest) / T).

Both are in addition to the rounding of float16, which all stored logits have.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from scipy.special import logsumexp

from candle_tf.data.cached_arrays import stored_array

# Raise it when what is stored for given logits changes.
_VERSION = 1

_ROWS_COMPUTED = 512
_ROWS_READ = 4096


@dataclass(frozen=True)
class TopKLogits:
    """Reads like an array of logits, float32 [R, C].

    Attributes:
        stored: of each row "values" float16 [k], "classes" [k] and "rest" float32, the log of the
            sum of exp(z / T) over all other classes; structured [R].
        number_of_classes: C.
        temperature: T.
    """

    stored: np.ndarray
    number_of_classes: int
    temperature: float

    @property
    def shape(self) -> tuple[int, int]:
        """R and C."""
        return len(self.stored), self.number_of_classes

    @property
    def bytes_per_row(self) -> int:
        """What a row takes on disk."""
        return self.stored.dtype.itemsize

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        """Logits of rows, float32 [B, C]."""
        stored = self.stored[rows]
        others = self.number_of_classes - stored["values"].shape[1]
        each = self.temperature * (stored["rest"] - np.float32(np.log(others)))
        logits = np.repeat(each[:, np.newaxis], self.number_of_classes, axis=1)
        values = stored["values"].astype(np.float32)
        np.put_along_axis(logits, stored["classes"].astype(np.int64), values, axis=1)
        return logits

    def rest(self, rows: np.ndarray | slice) -> np.ndarray:
        """Probability m of all classes but the k, at the temperature, float64 [B]."""
        stored = self.stored[rows]
        kept = logsumexp(stored["values"].astype(np.float64) / self.temperature, axis=1)
        rest = stored["rest"].astype(np.float64)
        return np.exp(rest - np.logaddexp(rest, kept))


def select_top_k(logits: np.ndarray, k: int, temperature: float) -> np.ndarray:
    """What is stored of logits, float [B, C] with C > k: structured [B], see `TopKLogits`."""
    rows = np.zeros(len(logits), _row_type(k, logits.shape[1]))
    order = np.argpartition(-logits, k - 1, axis=1)
    rows["classes"] = order[:, :k]
    rows["values"] = np.take_along_axis(logits, order[:, :k], axis=1)
    others = np.take_along_axis(logits, order[:, k:], axis=1)
    rows["rest"] = logsumexp(others.astype(np.float64) / temperature, axis=1)
    return rows


def open_top_k(
    folder: Path,
    key: Mapping[str, Any],
    rows: int,
    classes: int,
    k: int,
    temperature: float,
    classify: Callable[[int, int], np.ndarray],
) -> TopKLogits:
    """Opens the stored logits; computes what is missing, and logs what the rest amounts to.

    Args:
        folder: cache folder.
        key: all that the logits depend on, JSON-ready.
        rows: R.
        classes: C, above k.
        k: logits that are stored of each row.
        temperature: T of the loss.
        classify: from (start, stop) to the logits of rows [start, stop), float, finite in float16.
    """

    def compute(start: int, stop: int) -> np.ndarray:
        return select_top_k(classify(start, stop), k, temperature)

    stored = stored_array(
        folder,
        "targets-top-k",
        {**key, "k": k, "temperature": temperature, "top k version": _VERSION},
        (rows,),
        _row_type(k, classes),
        _ROWS_COMPUTED,
        compute,
    )
    logits = TopKLogits(stored, classes, temperature)
    blocks = [logits.rest(slice(start, start + _ROWS_READ)) for start in range(0, rows, _ROWS_READ)]
    mean = sum(block.sum() for block in blocks) / max(1, rows)
    logging.info(
        "the %d largest of %d teacher logits are stored, %d bytes a view; the other classes have "
        "%.2g %% of the probability at temperature %g (at most %.2g %%): gradients of the KL loss "
        "differ by at most %.2g of sum |p| = 1",
        *(k, classes, logits.bytes_per_row, 100 * mean, temperature),
        100 * max((block.max() for block in blocks), default=0.0),
        2 * mean,
    )
    return logits


def _row_type(k: int, classes: int) -> np.dtype:
    number = "<u2" if classes <= 2**16 else "<u4"
    return np.dtype([("values", "<f2", (k,)), ("classes", number, (k,)), ("rest", "<f4")])
