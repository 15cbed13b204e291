"""The interface of an operation: one step of an augmentation.

    @dataclass(frozen=True)
    class Darken(Operation):
        strength: float

        @classmethod
        def from_settings(cls, settings):
            return cls(settings.darken) if settings.darken else None

        def draw(self, drawing):
            rngs = drawing.generators(stream_of("darken"))
            return {"darken": np.array([rng.random() for rng in rngs], np.float32)}

        def signature(self, before):
            return {"darken": tf.TensorSpec(before["keys"].shape, tf.float32)}

        def apply(self, pixels, rendering):
            share = rendering.batch["darken"][:, tf.newaxis, tf.newaxis, tf.newaxis]
            return pixels * (1.0 - self.strength * share)

With its fields and its line in `settings.py` it is a part of every training, of the teacher's views
and of every cache's key.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from candle_tf.data.augment.random_numbers import view_generator
from candle_tf.data.augment.settings import AugmentSettings
from candle_tf.data.augment.views import Views
from candle_tf.data.subset import Subset

OperationType = TypeVar("OperationType", bound="Operation")


@dataclass(frozen=True)
class Drawing:
    """The views that an operation samples its parameters for.

    Attributes:
        subset: the images.
        views: B views of them.
        seed: of the augmentation.
        draw_before: draws other views with the operations before this one; see
            `Augmentation.draw`.
    """

    subset: Subset
    views: Views
    seed: int
    draw_before: Callable[[Subset, Views], dict[str, np.ndarray]]

    @property
    def keys(self) -> np.ndarray:
        """The images' keys, int64 [B]."""
        return self.subset.keys(self.views.images)

    @property
    def each(self) -> list[tuple[int, int]]:
        """Key and view number of each view."""
        return [
            (int(key), int(number))
            for key, number in zip(self.keys, self.views.numbers, strict=True)
        ]

    def generators(self, stream: int) -> list[np.random.Generator]:
        """A generator for each view, whatever batch it is in; see `random_numbers`."""
        return [view_generator(self.seed, key, number, stream) for key, number in self.each]


@dataclass(frozen=True)
class Rendering:
    """What an operation is applied with.

    Attributes:
        batch: the subset's images, keys and labels, and what all operations drew; tensors.
        size: side of the result in pixels.
        seed: of the augmentation.
        render_before: renders another batch with the operations before this one; float32
            [B, size, size, 3].
    """

    batch: Mapping[str, tf.Tensor]
    size: int
    seed: int
    render_before: Callable[[Mapping[str, tf.Tensor]], tf.Tensor]


class Operation(ABC):
    """One step of an augmentation: a frozen dataclass whose fields are a part of every cache's key.

    What is drawn depends on seed, image key and view number alone, never on the rest of the batch,
    and is given in fractions of the side: a view is the same at every size.
    """

    @classmethod
    @abstractmethod
    def from_settings(cls: type[OperationType], settings: AugmentSettings) -> OperationType | None:
        """The operation that the settings ask for; None where they ask for none."""

    def key(self) -> dict[str, Any]:
        """All that its views depend on, JSON-ready: its name and its fields."""
        fields = asdict(self)  # type: ignore[call-overload]
        return {"operation": type(self).__name__, **fields}

    @property
    def flips(self) -> bool:
        """Whether it mirrors some of the views, left and right."""
        return False

    def is_mixed(self, numbers: np.ndarray) -> np.ndarray:
        """Which views of these numbers, int64 `[B]`, show a second image as well, bool `[B]`."""
        return np.zeros(len(numbers), bool)

    @property
    def partner_share(self) -> float:
        """The second image's mean share of the label of a view that shows one, in [0, 1]."""
        return 0.0

    @property
    def alternates(self) -> bool:
        """Whether a view's number decides of which kind it is (`view_kinds`)."""
        return False

    @abstractmethod
    def draw(self, drawing: Drawing) -> dict[str, np.ndarray]:
        """Samples the parameters of B views, each an array of B rows, under names of its own."""

    @abstractmethod
    def signature(self, before: Mapping[str, tf.TensorSpec]) -> dict[str, tf.TensorSpec]:
        """Shapes and types of what `draw` gives.

        Args:
            before: those of the batch that the operations before this one left; B is the first
                dimension of all, None where it varies.
        """

    @abstractmethod
    def apply(self, pixels: tf.Tensor, rendering: Rendering) -> tf.Tensor:
        """Applies what was drawn, in a TensorFlow graph.

        Args:
            pixels: float32 [B, size, size, 3] in 0..255 of the operations before; for the first
                the stored images, uint8 [B, side, side, 3].
            rendering: what was drawn.

        Returns:
            float32 [B, size, size, 3] in 0..255.
        """
