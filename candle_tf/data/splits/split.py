"""Which image is trained on, validated on and tested on: drawn once, saved, checked ever after.

    split = make_split(source, profile="exponential", imbalance_factor=100,
                       validation_fraction=0.1, test_fraction=0.2, seed=0)
    save_split(split, "run/split.json")
    check_split(load_split("run/split.json"), source)

The file is the truth, not the seed: another NumPy version may draw otherwise from the same seed.
"""

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from candle_tf.data.sources.registry import Partition, Source
from candle_tf.data.splits.json_stream import compact, readable
from candle_tf.data.splits.longtail import hold_out, profile_counts, select, wanted_counts
from candle_tf.errors import UserError
from candle_tf.files import write_atomically

_SEEDED = "seeded"
# Format 2 tells, after the seed, the selection and whose the validation part is. Where both are as
# they were before there was a choice, format 1 is still written: such splits keep their hash.
_OLD_FORMAT, _FORMAT = 1, 2
PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Split:
    """A long-tailed split of a data set. Two splits are the same if their hashes are.

    Attributes:
        source: The data set's name, e.g. "folder".
        class_names: C names; labels are indices into them.
        profile: Of the long tail, see `longtail.profile_counts`, or "counts" for a given list.
        imbalance_factor: Of the long tail, >= 1; of given counts, the largest over the smallest.
        seed: Of all draws, >= 0.
        train: Images to learn from; long-tailed.
        validation: Images to choose by, taken from the long-tailed training set, or the data
            set's own; may be empty.
        test: Images to measure on, never chosen by.
        train_counts: int64 (C,), read-only: the long-tailed training set, with the validation part
            that was taken from it; a data set's own validation images do not count.
            Shot groups come from these: the literature counts the whole training set, so with
            them "few-shot" means the same classes here as in published tables.
        source_hash: SHA-256 (hex) over all ids and labels of the data set, used or not.
        selection: How images were chosen to fill the counts, see `longtail.select`.
        own_validation: Whether the validation part is the data set's own.
    """

    source: str
    class_names: tuple[str, ...]
    profile: str
    imbalance_factor: float
    seed: int
    train: Partition
    validation: Partition
    test: Partition
    train_counts: np.ndarray
    source_hash: str
    selection: str = _SEEDED
    own_validation: bool = False

    def __post_init__(self) -> None:
        counts = np.array(self.train_counts, np.int64)
        classes = len(self.class_names)
        labels = np.concatenate([part.labels for part in self.parts.values()])
        if labels.size and not 0 <= labels.min() <= labels.max() < len(self.class_names):
            raise ValueError(f"labels are not all in [0, {len(self.class_names)})")
        counted = self.train.labels
        if not self.own_validation:
            counted = np.concatenate([counted, self.validation.labels])
        if not np.array_equal(np.bincount(counted, minlength=classes), counts):
            raise ValueError("train_counts are not those of train and a validation part of it")
        # Each part knows its ids to be unique. The largest part is not made a set of.
        held = {*self.validation.ids, *self.test.ids}
        if len(held) < len(self.validation.ids) + len(self.test.ids) or not held.isdisjoint(
            self.train.ids
        ):
            raise ValueError("an image is in two parts")
        counts.setflags(write=False)
        object.__setattr__(self, "train_counts", counts)

    @property
    def parts(self) -> dict[str, Partition]:
        """The three parts by name, in the order train, validation, test."""
        return {name: getattr(self, name) for name in PARTS}

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) over every attribute."""
        return _sha256(compact(_to_json(self)))


def make_split(
    source: Source,
    *,
    profile: str,
    imbalance_factor: float,
    validation_fraction: float,
    test_fraction: float,
    seed: int,
    selection: str = _SEEDED,
    class_counts: Sequence[int] | None = None,
) -> Split:
    """Draws a long-tailed split.

    First the test part is set apart, by class, if the source has none; then the long tail is
    drawn from the rest; then the validation part is taken out of the long tail, by class, if the
    source has none.

    Args:
        source: The data set.
        profile: See `longtail.profile_counts`, or "counts".
        imbalance_factor: See `longtail.profile_counts`; plays no part for "natural" and "counts".
        validation_fraction: Of the long-tailed training set, in [0, 1); see `longtail.hold_out`. If
            the source has a validation part, that one is taken whole, or with 0 left out.
        test_fraction: Of the source, in (0, 1); plays no part if the source has a test part.
        seed: >= 0.
        selection: See `longtail.select`; "first" and "ldam" go by the order of the ids, and "ldam"
            takes the class index for the rank.
        class_counts: C counts, for the profile "counts" alone.

    Raises:
        UserError: If a value is out of its range, or nothing is left to test on.
    """
    pool, test = source.train, source.test
    if test is None:
        pool, test = _carve(pool, test_fraction, seed)
        if not test.ids:
            raise UserError(
                f"The data set {source.name!r} has no test part, and a test fraction of "
                f"{test_fraction} sets none apart: choose e.g. 0.2, and have 4 images a class."
            )
    available = np.bincount(pool.labels, minlength=len(source.class_names))
    if profile == "counts":
        if class_counts is None:
            raise ValueError("the profile 'counts' needs class_counts")
        counts = wanted_counts(class_counts, available, source.class_names)
        imbalance_factor = counts.max() / counts.min()
    else:
        counts = profile_counts(profile, available, imbalance_factor, by_index=selection == "ldam")
    long_tail = _take(pool, _choose(pool, counts, seed, selection))
    train, validation = _validation(source, long_tail, validation_fraction, seed)
    return Split(
        source=source.name,
        class_names=source.class_names,
        profile=profile,
        imbalance_factor=float(imbalance_factor),
        seed=seed,
        train=train,
        validation=validation,
        test=test,
        train_counts=counts,
        source_hash=_source_hash(source),
        selection=selection,
        own_validation=source.validation is not None,
    )


def _validation(
    source: Source, long_tail: Partition, fraction: float, seed: int
) -> tuple[Partition, Partition]:
    """What is left to train on, and the validation part."""
    if source.validation is not None:
        hold_out(long_tail.labels[:0], fraction, seed)  # refuses what is no fraction
        own = source.validation
        return long_tail, own if fraction > 0 else _take(own, np.arange(0))
    train, validation = _carve(long_tail, fraction, seed)
    if fraction > 0 and not validation.ids:
        logging.warning("No class has the 4 images that a validation part needs: it is empty")
    return train, validation


def _choose(pool: Partition, counts: np.ndarray, seed: int, selection: str) -> np.ndarray:
    """Indices into `pool`, ascending."""
    if selection == _SEEDED:
        return select(pool.labels, counts, seed)
    # By name, whatever the order in which a source lists its images.
    order = np.array(sorted(range(len(pool.ids)), key=pool.ids.__getitem__), np.int64)
    return np.sort(order[select(pool.labels[order], counts, seed, selection)])


def leave_out(split: Split, ids: Collection[str]) -> Split:
    """A split without some of its images, each taken from its part; counts follow.

    Raises:
        UserError: If a class is left without training images, or nothing to test on.
    """
    if not ids:
        return split
    unwanted = frozenset(ids)
    parts, removed = {}, {}
    for name, part in split.parts.items():
        kept = np.array([image_id not in unwanted for image_id in part.ids], bool)
        parts[name] = _take(part, np.flatnonzero(kept))
        removed[name] = np.bincount(part.labels[~kept], minlength=len(split.class_names))
    trained = np.bincount(parts["train"].labels, minlength=len(split.class_names))
    if lost := [
        split.class_names[c] for c in np.flatnonzero((trained == 0) & (removed["train"] > 0))
    ]:
        raise UserError(
            f"Without the images that cannot be read, the class {', '.join(map(repr, lost))} has "
            "no training images. Mend some, or take the class out of the data set."
        )
    if not parts["test"].ids:
        raise UserError("Without the images that cannot be read, nothing is left to test on.")
    counts = split.train_counts - removed["train"]
    if not split.own_validation:
        counts = counts - removed["validation"]
    return replace(
        split,
        train=parts["train"],
        validation=parts["validation"],
        test=parts["test"],
        train_counts=counts,
    )


def save_split(split: Split, path: str | os.PathLike[str]) -> None:
    """Writes a split as JSON, whole or not at all.

    Raises:
        UserError: If the file cannot be written.
    """
    text = readable({"hash": split.hash} | _to_json(split))
    write_atomically(Path(path), (piece.encode() for piece in text))


def load_split(path: str | os.PathLike[str]) -> Split:
    """Reads a split that `save_split` wrote.

    Raises:
        UserError: If the file is missing, damaged, or was edited.
    """
    advice = "Restore the file, or choose a new run folder."
    try:
        content = json.loads(Path(path).read_bytes())
        saved_hash = content.pop("hash")
        split = _from_json(content)
    except OSError as error:
        raise UserError(f"{path}: the split cannot be read ({error}). {advice}") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{path}: the split is damaged ({type(error).__name__}: {error}). {advice}"
        ) from error
    # The contents too: an object made of them does not show unknown keys or a label of 1.5.
    if saved_hash != split.hash or saved_hash != _sha256(compact(content)):
        raise UserError(
            f"{path}: the split was edited or damaged: its contents have the hash "
            f"{split.hash[:12]}, but {str(saved_hash)[:12]} was saved with it. {advice}"
        )
    return split


def check_split(split: Split, source: Source) -> None:
    """Makes sure that a data set is still the one that a split was drawn from.

    Compares ids, classes and parts; the images' contents are not looked at.

    Raises:
        UserError: If it has changed; the message says how, as far as the split can tell.
    """
    if split.source != source.name:
        raise UserError(
            f"The split was drawn from the data set {split.source!r}, not from {source.name!r}: "
            "open that one, or choose a new run folder."
        )
    if split.source_hash != _source_hash(source):
        raise UserError(
            "The data set is not the one this run's split was drawn from: "
            f"{'; '.join(_changes(split, source))}. "
            "Restore the data, or choose a new run folder to draw a new split."
        )


def _changes(split: Split, source: Source) -> list[str]:
    """What changed, as far as a split tells, which does not know the images it left out."""
    before = _names_by_id(split.class_names, split.train, split.validation, split.test)
    given = (source.train, source.validation, source.test)
    parts = [part for part in given if part is not None]
    now = _names_by_id(source.class_names, *parts)
    removed = len(before.keys() - now.keys())
    relabelled = sum(now.get(image_id, name) != name for image_id, name in before.items())
    added = len(now.keys() - before.keys())
    changes = []
    if split.class_names != source.class_names:
        changes.append(f"{len(split.class_names)} classes before, {len(source.class_names)} now")
        if set(split.class_names) == set(source.class_names):
            changes[-1] = "the classes are in another order"
        elif len(split.class_names) == len(source.class_names):
            changes[-1] = "classes have other names"
    if removed:
        changes.append(f"{removed} images of the split were removed or renamed")
    if relabelled:
        changes.append(f"{relabelled} images of the split have another class")
    if added and split.profile == "natural":
        changes.append(f"{added} images were added")
    elif not changes:
        changes.append(
            "the split's own images are all there, but among the others images were added, "
            "removed or relabelled"
        )
    return changes


def _names_by_id(class_names: tuple[str, ...], *parts: Partition) -> dict[str, str]:
    return {
        image_id: class_names[label]
        for part in parts
        for image_id, label in zip(part.ids, part.labels, strict=True)
    }


def _carve(part: Partition, fraction: float, seed: int) -> tuple[Partition, Partition]:
    kept, held = hold_out(part.labels, fraction, seed)
    return _take(part, kept), _take(part, held)


def _take(part: Partition, indices: np.ndarray) -> Partition:
    return Partition(tuple(part.ids[i] for i in indices.tolist()), part.labels[indices])


def _source_hash(source: Source) -> str:
    """Over what a split depends on; the order of ids within a part is no change of the data."""
    content = {
        "class_names": list(source.class_names),
        "test": None if source.test is None else _by_name(source.test),
        "train": _by_name(source.train),
    }
    if source.validation is not None:
        content["validation"] = _by_name(source.validation)
    return _sha256(compact(content))


def _by_name(part: Partition) -> Iterator[tuple[str, int]]:
    labels = part.labels
    for i in sorted(range(len(part.ids)), key=part.ids.__getitem__):
        yield part.ids[i], int(labels[i])


def _in_order(part: Partition) -> Iterator[tuple[str, int]]:
    return zip(part.ids, map(int, part.labels), strict=True)


def _to_json(split: Split) -> dict[str, Any]:
    """A split without its hash, in the order in which the file shows it; parts as iterators."""
    more = {"selection": split.selection, "own_validation": split.own_validation}
    old = more == {"selection": _SEEDED, "own_validation": False}
    return {
        "format": _OLD_FORMAT if old else _FORMAT,
        "source": split.source,
        "source_hash": split.source_hash,
        "profile": split.profile,
        "imbalance_factor": split.imbalance_factor,
        "seed": split.seed,
        **({} if old else more),
        "train_counts": dict(zip(split.class_names, split.train_counts.tolist(), strict=True)),
        **{name: _in_order(part) for name, part in split.parts.items()},
    }


def _from_json(content: dict[str, Any]) -> Split:
    more: dict[str, Any] = {}
    if content["format"] == _FORMAT:
        more = {name: content[name] for name in ("selection", "own_validation")}
    elif content["format"] != _OLD_FORMAT:
        raise ValueError(f"format {content['format']!r} where at most {_FORMAT} was expected")
    more |= {
        name: Partition(tuple(content[name]), np.array(list(content[name].values()), np.int32))
        for name in PARTS
    }
    return Split(
        source=content["source"],
        class_names=tuple(content["train_counts"]),
        profile=content["profile"],
        imbalance_factor=content["imbalance_factor"],
        seed=content["seed"],
        train_counts=np.array(list(content["train_counts"].values()), np.int64),
        source_hash=content["source_hash"],
        **more,
    )


def _sha256(pieces: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece.encode())
    return digest.hexdigest()
