"""The side of the student's training views in each epoch (--progressive_sizes).

    sides_of_epochs("48:0.5,64:0.95,80", epochs=20, image_size=64)  # 10 x 48, 9 x 64, 1 x 80
    sides_of_epochs("", epochs=20, image_size=64)                   # 20 x 64

Small views are cheap, and enough at first: progressive resizing, as in EfficientNetV2 (Tan & Le,
ICML 2021). The weights are the same at all sizes; validation and export are at --image_size.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from candle_tf.errors import UserError

SMALLEST, LARGEST = 8, 4096
_EXAMPLE = (
    "give sides in pixels, each with the fraction of the epochs until which it is used, the last "
    "without one: 48:0.5,64"
)


@dataclass(frozen=True)
class SizeUntil:
    """A side in pixels, and the fraction of the epochs until which views have it, in (0, 1]."""

    side: int
    until: float


def parse_sizes(text: str) -> tuple[SizeUntil, ...]:
    """What --progressive_sizes says.

    Args:
        text: such as "48:0.5,64"; not empty.

    Raises:
        UserError: where it is nothing of this kind: fractions that do not rise, sides out of range,
            a side that follows itself, or one side alone.
    """
    entries = [entry.strip() for entry in text.split(",")]
    sizes = tuple(
        _parse_entry(text, entry, is_last=place == len(entries) - 1)
        for place, entry in enumerate(entries)
    )
    if len(sizes) == 1:
        raise UserError(
            f"--progressive_sizes={text} is one size, which --image_size is for; {_EXAMPLE}."
        )
    for before, after in itertools.pairwise(sizes):
        if after.until <= before.until:
            raise UserError(
                f"--progressive_sizes={text}: the fraction {after.until:g} of {after.side} pixels "
                f"is not above {before.until:g}, which is before it; {_EXAMPLE}."
            )
        if after.side == before.side:
            raise UserError(
                f"--progressive_sizes={text}: {after.side} pixels follow {after.side} pixels; give "
                "them once, with the last of the two fractions."
            )
    return sizes


def _parse_entry(text: str, entry: str, *, is_last: bool) -> SizeUntil:
    number, colon, fraction = entry.partition(":")
    try:
        side, until = int(number), float(fraction) if colon else 1.0
    except ValueError:
        raise UserError(
            f"--progressive_sizes={text}: {entry!r} is no size and fraction; {_EXAMPLE}."
        ) from None
    if not SMALLEST <= side <= LARGEST:
        raise UserError(
            f"--progressive_sizes={text}: {side} pixels are out of range; a side must be at least "
            f"{SMALLEST} and at most {LARGEST}."
        )
    if bool(colon) == is_last:
        what = "the last size has a fraction" if is_last else f"{entry!r} has no fraction"
        raise UserError(f"--progressive_sizes={text}: {what}; {_EXAMPLE}.")
    if colon and not 0 < until < 1:
        raise UserError(
            f"--progressive_sizes={text}: the fraction {fraction} is out of range; it must be "
            "above 0 and below 1."
        )
    return SizeUntil(side, until)


def sides_of_epochs(text: str, epochs: int, image_size: int) -> tuple[int, ...]:
    """The side of the training views in each epoch, in pixels.

    Args:
        text: --progressive_sizes; empty for `image_size` in all epochs.
        epochs: of the whole training, at least 1. A size is used until its fraction of them,
            rounded.
        image_size: side of the student's input.

    Raises:
        UserError: as `parse_sizes`; where the epochs are too few for a size to have one.
    """
    if not text:
        return (image_size,) * epochs
    sides: list[int] = []
    for size in parse_sizes(text):
        end = round(size.until * epochs)
        if end <= len(sides):
            raise UserError(
                f"--progressive_sizes={text}: of {epochs} epochs {size.side} pixels would have "
                "none. Give more --epochs, other fractions, or fewer sizes."
            )
        sides += [size.side] * (end - len(sides))
    return tuple(sides)


def largest_side(text: str, image_size: int) -> int:
    """The largest side that the student is given at all, in pixels; arguments as above."""
    return max([image_size, *(size.side for size in parse_sizes(text))] if text else [image_size])


def spans_of_sides(sides: Sequence[int], first: int) -> list[tuple[int, int]]:
    """Runs of epochs with one side, as (first epoch, the one after the last).

    Args:
        sides: of each epoch.
        first: the epoch to begin from, from 0.
    """
    changes = [e for e in range(first + 1, len(sides)) if sides[e] != sides[e - 1]]
    return list(zip([first, *changes], [*changes, len(sides)], strict=True))
