"""An augmentation: the operations between stored images and what a network sees, in two steps.

    augmentation = make_augmentation(settings, seed=0)
    batch = augmentation.draw(subset, views)                      # NumPy, from the store
    student_inputs = augmentation.render(batch, size=64)
    teacher_inputs = augmentation.render(batch, size=160)         # the very same views

`draw` reads images from the store (for mixing, the second ones too) and samples parameters in
NumPy; `render` is TensorFlow and can run in a graph. Both depend on seed, images and view numbers
alone, never on what else is in the batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from candle_tf.data.augment.crops import Crop
from candle_tf.data.augment.operation import Drawing, Operation, Rendering
from candle_tf.data.augment.settings import OPERATIONS, PERIOD, AugmentSettings
from candle_tf.data.augment.view_kinds import first_numbers
from candle_tf.data.augment.views import Views
from candle_tf.data.subset import Subset
from candle_tf.errors import UserError

# A part of the key of every cache of teacher features: raise it with every change of what a view
# looks like, so that older caches are computed again. tests/data/augment/test_version.py compares
# rendered pixels with a fingerprint stored for this version.
AUGMENTATION_VERSION = 1


@dataclass(frozen=True)
class Augmentation:
    """Operations, applied in this order.

    Attributes:
        operations: the first makes pixels of the asked size from stored images (`Crop`).
        seed: of all random numbers.
    """

    operations: tuple[Operation, ...]
    seed: int

    @property
    def is_whole(self) -> bool:
        """Whether every view of an image is the whole image."""
        return self.operations == WHOLE.operations

    @property
    def flips(self) -> bool:
        """Whether some views are mirrored, left and right."""
        return any(operation.flips for operation in self.operations)

    def is_mixed(self, numbers: np.ndarray) -> np.ndarray:
        """Which views of these numbers, int64 [B], show a second image as well, bool [B]."""
        return np.any([operation.is_mixed(numbers) for operation in self.operations], axis=0)

    @property
    def partner_share(self) -> float:
        """The second image's mean share of the label of a view that shows one, in [0, 1]."""
        return sum(operation.partner_share for operation in self.operations)

    def without_mixing(self) -> "Augmentation":
        """The same views, each of one image alone."""
        numbers = np.arange(PERIOD)
        kept = (each for each in self.operations if not each.is_mixed(numbers).any())
        return Augmentation(tuple(kept), self.seed)

    @property
    def alternates(self) -> bool:
        """Whether a view's number decides of which kind it is (`view_kinds`)."""
        return any(operation.alternates for operation in self.operations)

    def numbers_at(self, images: np.ndarray, epoch: int) -> np.ndarray:
        """The number of the view that each of images int64 [B] has in an epoch, int64 [B]."""
        first = first_numbers(images) if self.alternates else 0
        return np.full(len(images), epoch, np.int64) + first

    def draw(self, subset: Subset, views: Views) -> dict[str, np.ndarray]:
        """All that rendering some views takes.

        Args:
            subset: the images; mixing takes its second images from all of them.
            views: B views; `mirror` is left to the caller.

        Returns:
            "images" uint8 [B, side, side, 3], "keys" int64 [B] and "labels" int32 [B] of
            `Subset.batch`, and what each operation draws.
        """
        batch = subset.batch(views.images)
        for before, operation in self._steps():
            batch |= operation.draw(Drawing(subset, views, self.seed, before.draw))
        return batch

    def signature(self, subset: Subset, size: int | None) -> dict[str, tf.TensorSpec]:
        """Shapes and types of what `draw` gives, for `tf.data.Dataset.from_generator`.

        Args:
            subset: as in `draw`.
            size: B, or None where it varies.
        """
        signature = subset_signature(subset, size)
        for operation in self.operations:
            signature |= operation.signature(signature)
        return signature

    def render(self, batch: Mapping[str, tf.Tensor], size: int) -> tf.Tensor:
        """Renders what was drawn at any size; the same batch is the same views at each.

        Args:
            batch: as `draw` gives it, NumPy or TensorFlow.
            size: side of the result in pixels.

        Returns:
            float32 [B, size, size, 3] in 0..255.

        Raises:
            UserError: for an operation that gives another shape or type.
        """
        pixels = batch["images"]
        for before, operation in self._steps():
            render_before = before._at(size)
            given = operation.apply(pixels, Rendering(batch, size, self.seed, render_before))
            pixels = _checked_pixels(operation, given, [batch["images"].shape[0], size, size, 3])
        return pixels

    def key(self) -> dict[str, Any]:
        """All that views of given images depend on, JSON-ready."""
        return {
            "version": AUGMENTATION_VERSION,
            "operations": [operation.key() for operation in self.operations],
            # Whole images are the same under every seed.
            "seed": None if self.is_whole else self.seed,
        }

    def _steps(self) -> list[tuple["Augmentation", Operation]]:
        """Each operation, and the augmentation that the operations before it are."""
        return [
            (Augmentation(self.operations[:place], self.seed), operation)
            for place, operation in enumerate(self.operations)
        ]

    def _at(self, size: int) -> Any:
        return lambda batch: self.render(batch, size)


def _checked_pixels(operation: Operation, given: Any, shape: list[int | None]) -> tf.Tensor:
    """What an operation gave, where it is float32 of a shape."""
    is_tensor = tf.is_tensor(given)
    name = type(operation).__name__
    if not is_tensor or given.dtype != tf.float32 or not given.shape.is_compatible_with(shape):
        found = f"{given.dtype.name} {given.shape}" if is_tensor else type(given).__name__
        raise UserError(
            f"augmentation {name} ({type(operation).__module__}): `apply` gave {found}; asked is "
            f"float32 {tf.TensorShape(shape)}, in 0 to 255."
        )
    # Nothing is computed for it where the shape is known already.
    return tf.ensure_shape(given, shape, name=f"pixels_of_{name}")


def refuse_no_operation(name: str) -> None:
    """Refuses a registered augmentation that is no subclass of `Operation`, or lacks a method.

    Raises:
        UserError: with its name and module.
    """
    part = OPERATIONS[name]
    title = f"augmentation {OPERATIONS.title(name)}"
    if not isinstance(part, type) or not issubclass(part, Operation):
        raise UserError(f"{title} is no subclass of candle_tf.data.augment.operation.Operation.")
    if missing := sorted(part.__abstractmethods__):
        raise UserError(f"{title} has no method {', '.join(missing)}, which an Operation needs.")


WHOLE = Augmentation((Crop("none"),), seed=0)


def make_augmentation(settings: AugmentSettings, seed: int) -> Augmentation:
    """The operations that the settings ask for, of all in `OPERATIONS`, in its order.

    Raises:
        UserError: for one in `OPERATIONS` that is no subclass of `Operation`, or lacks a method.
    """
    for name in OPERATIONS:
        refuse_no_operation(name)
    made = (operation.from_settings(settings) for operation in OPERATIONS.values())
    return Augmentation(tuple(operation for operation in made if operation is not None), seed)


def subset_signature(subset: Subset, size: int | None) -> dict[str, tf.TensorSpec]:
    """Shapes and types of what `Subset.batch` gives for B = size images."""
    signature = {
        "images": tf.TensorSpec([size, *subset.images.array.shape[1:]], tf.uint8),
        "keys": tf.TensorSpec([size], tf.int64),
        "labels": tf.TensorSpec([size], tf.int32),
    }
    if subset.images.original_aspect:
        signature["aspects"] = tf.TensorSpec([size], tf.float32)
    return signature
