"""The split of a data set into train, validation and test: drawn once, saved, then checked.

    split = make_split(source, profile="exponential", imbalance_factor=100,
                       validation_fraction=0.1, test_fraction=0.2, seed=0)
    save_split(split, "run/split.json")
    check_split(load_split("run/split.json"), source)

The saved file counts, not the seed: another NumPy version may draw another split from that seed.
"""

import hashlib
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from candle_tf.data.sources.registry import LabelledImages, Source
from candle_tf.data.splits.json_stream import compact_json, indented_json
from candle_tf.data.splits.longtail import (
    MIN_TO_HOLD_OUT,
    check_counts,
    hold_out,
    profile_counts,
    select,
)
from candle_tf.errors import UserError
from candle_tf.files import parse_json, write_atomically

_SEEDED = "seeded"
# Format 2 adds the selection and whether the validation subset is the data set's own. If both have
# their defaults, format 1 is still written, so that such splits keep their hash.
_OLD_FORMAT, _FORMAT = 1, 2
SUBSETS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Split:
    """A long-tailed split of a data set. Splits with equal hashes are equal.

    Attributes:
        source: The data set's name, e.g. "folder".
        class_names: C names; labels are indices into them.
        profile: See `longtail.profile_counts`, or "counts" for given class counts.
        imbalance_factor: >= 1; of given counts, the largest over the smallest.
        seed: >= 0.
        train: Long-tailed training images.
        validation: Taken from the long-tailed training set, or the data set's own; may be empty.
        test: Test images, never used to select anything.
        train_counts: int64 [C], read-only: images per class of the long-tailed training set,
            including the validation subset taken from it, but not a data set's own validation
            subset. Shot groups use these counts, as published tables do.
        source_hash: SHA-256 (hex) over all ids and labels of the data set.
        selection: See `longtail.select`.
        own_validation: Whether the validation subset is the data set's own.
    """

    source: str
    class_names: tuple[str, ...]
    profile: str
    imbalance_factor: float
    seed: int
    train: LabelledImages
    validation: LabelledImages
    test: LabelledImages
    train_counts: np.ndarray
    source_hash: str
    selection: str = _SEEDED
    own_validation: bool = False

    def __post_init__(self) -> None:
        counts = np.array(self.train_counts, np.int64)
        classes = len(self.class_names)
        labels = np.concatenate([subset.labels for subset in self.subsets.values()])
        if labels.size and not 0 <= labels.min() <= labels.max() < len(self.class_names):
            raise ValueError(f"labels are not all in [0, {len(self.class_names)})")
        counted = self.train.labels
        if not self.own_validation:
            counted = np.concatenate([counted, self.validation.labels])
        if not np.array_equal(np.bincount(counted, minlength=classes), counts):
            raise ValueError("train_counts do not match train and validation")
        # Ids within a subset are unique already. No set is made of the largest subset.
        held = {*self.validation.ids, *self.test.ids}
        if len(held) < len(self.validation.ids) + len(self.test.ids) or not held.isdisjoint(
            self.train.ids
        ):
            raise ValueError("an image is in two subsets")
        counts.setflags(write=False)
        object.__setattr__(self, "train_counts", counts)

    @property
    def subsets(self) -> dict[str, LabelledImages]:
        """The three subsets by name, in the order train, validation, test."""
        return {name: getattr(self, name) for name in SUBSETS}

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) over every attribute."""
        return _sha256(compact_json(_to_json(self)))


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

    1. If the source has no test subset, a fraction of each class is held out for it.
    2. The long-tailed training set is drawn from the rest.
    3. If the source has no validation subset, a fraction of each class is held out from that.

    Args:
        source: The data set.
        profile: See `longtail.profile_counts`, or "counts".
        imbalance_factor: See `longtail.profile_counts`; has no effect for "natural" and "counts".
        validation_fraction: Of the long-tailed training set, in [0, 1); see `longtail.hold_out`. If
            the source has a validation subset, that is used instead, or left out with 0.
        test_fraction: Of the source, in (0, 1); has no effect if the source has a test subset.
        seed: >= 0.
        selection: See `longtail.select`. "first" and "ldam" sort images by id, and "ldam" uses the
            class index as the rank.
        class_counts: C counts; only for the profile "counts".

    Raises:
        UserError: If a value is out of range, or no test image is left.
    """
    pool, test = source.train, source.test
    if test is None:
        pool, test = _hold_out_subset(pool, test_fraction, seed)
        if not test.ids:
            raise UserError(_explain_empty_test(source))
    available = np.bincount(pool.labels, minlength=len(source.class_names))
    if profile == "counts":
        if class_counts is None:
            raise ValueError("the profile 'counts' needs class_counts")
        counts = check_counts(class_counts, available, source.class_names)
        imbalance_factor = counts.max() / counts.min()
    else:
        counts = profile_counts(profile, available, imbalance_factor, by_index=selection == "ldam")
    long_tail = _take(pool, _select(pool, counts, seed, selection))
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
        source_hash=hash_source(source),
        selection=selection,
        own_validation=source.validation is not None,
    )


def _validation(
    source: Source, long_tail: LabelledImages, fraction: float, seed: int
) -> tuple[LabelledImages, LabelledImages]:
    """The training and the validation subset."""
    if source.validation is not None:
        hold_out(long_tail.labels[:0], fraction, seed)  # checks the fraction
        own = source.validation
        return long_tail, own if fraction > 0 else _take(own, np.arange(0))
    train, validation = _hold_out_subset(long_tail, fraction, seed)
    if fraction > 0 and not validation.ids:
        logging.warning(
            "No class has the %d images that validation needs: the validation subset is empty",
            MIN_TO_HOLD_OUT,
        )
    return train, validation


def _select(pool: LabelledImages, counts: np.ndarray, seed: int, selection: str) -> np.ndarray:
    """Indices into `pool`, ascending."""
    if selection == _SEEDED:
        return select(pool.labels, counts, seed)
    # By id, independent of the order in which a source lists its images.
    order = np.array(sorted(range(len(pool.ids)), key=pool.ids.__getitem__), np.int64)
    return np.sort(order[select(pool.labels[order], counts, seed, selection)])


def leave_out(split: Split, ids: Collection[str]) -> Split:
    """Removes images from a split and adapts its counts.

    Raises:
        UserError: If a class has no training images left, or no test image is left.
    """
    if not ids:
        return split
    unwanted = frozenset(ids)
    subsets, removed = {}, {}
    for name, subset in split.subsets.items():
        kept = np.array([image_id not in unwanted for image_id in subset.ids], bool)
        subsets[name] = _take(subset, np.flatnonzero(kept))
        removed[name] = np.bincount(subset.labels[~kept], minlength=len(split.class_names))
    trained = np.bincount(subsets["train"].labels, minlength=len(split.class_names))
    if lost := [
        split.class_names[c] for c in np.flatnonzero((trained == 0) & (removed["train"] > 0))
    ]:
        raise UserError(
            f"Without the images that cannot be read, the class {', '.join(map(repr, lost))} has "
            "no training images. Fix some, or remove the class from the data set."
        )
    if not subsets["test"].ids:
        raise UserError("Without the images that cannot be read, no test image is left.")
    counts = split.train_counts - removed["train"]
    if not split.own_validation:
        counts = counts - removed["validation"]
    return replace(
        split,
        train=subsets["train"],
        validation=subsets["validation"],
        test=subsets["test"],
        train_counts=counts,
    )


def save_split(split: Split, path: str | os.PathLike[str]) -> None:
    """Writes a split as JSON, atomically.

    Raises:
        UserError: If the file cannot be written.
    """
    text = indented_json({"hash": split.hash} | _to_json(split))
    write_atomically(Path(path), (piece.encode() for piece in text))


def load_split(path: str | os.PathLike[str]) -> Split:
    """Reads a split that `save_split` wrote.

    Raises:
        UserError: If the file is missing, damaged, or was edited.
    """
    advice = "Restore the file, or choose a new run folder."
    try:
        content = parse_json(Path(path).read_bytes())
        saved_hash = content.pop("hash")
        split = _from_json(content)
    except OSError as error:
        raise UserError(f"{path}: the split cannot be read ({error}). {advice}") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{path}: the split is damaged ({type(error).__name__}: {error}). {advice}"
        ) from error
    # The contents too: a `Split` made of them does not show unknown keys or a label of 1.5.
    if saved_hash != split.hash or saved_hash != _sha256(compact_json(content)):
        raise UserError(
            f"{path}: the split was edited or damaged: its contents have the hash "
            f"{split.hash[:12]}, but {str(saved_hash)[:12]} was saved with it. {advice}"
        )
    return split


def check_split(split: Split, source: Source, given_as: str = "") -> None:
    """Checks that a data set is still the one that a split was drawn from.

    Compares ids, classes and subsets, not the contents of the images.

    Args:
        split: Of a run folder, or of a file that was given.
        source: The data set.
        given_as: How the file was given, e.g. "--split=split.json"; "" for a run folder's split.

    Raises:
        UserError: If it has changed; the message says how, as far as the split shows.
    """
    if split.source != source.name:
        drawn = f"drawn from the data set {split.source!r}, not from {source.name!r}"
        raise UserError(
            f"{given_as} was {drawn}: give that data set, or leave --split out."
            if given_as
            else f"The split was {drawn}: open that one, or choose a new run folder."
        )
    if split.source_hash != hash_source(source):
        changes = "; ".join(_changes(split, source))
        raise UserError(
            f"{given_as} was drawn from other data ({changes}): give the data it was drawn from, "
            "or leave --split out."
            if given_as
            else "The data set is not the one this run's split was drawn from: "
            f"{changes}. Restore the data, or choose a new run folder to draw a new split."
        )


def _changes(split: Split, source: Source) -> list[str]:
    """What changed, as far as a split shows: it does not have the images that were not selected."""
    before = _names_by_id(split.class_names, split.train, split.validation, split.test)
    given = (source.train, source.validation, source.test)
    subsets = [subset for subset in given if subset is not None]
    now = _names_by_id(source.class_names, *subsets)
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
            "the images of the split are unchanged, but other images were added, "
            "removed or relabelled"
        )
    return changes


def _names_by_id(class_names: tuple[str, ...], *subsets: LabelledImages) -> dict[str, str]:
    return {
        image_id: class_names[label]
        for subset in subsets
        for image_id, label in zip(subset.ids, subset.labels, strict=True)
    }


def _explain_empty_test(source: Source) -> str:
    """Why no image of a data set without a test subset can be held out, and what to do."""
    begin = f"The data set {source.name!r} has no test subset, and"
    largest = int(np.bincount(source.train.labels).max())
    if largest >= MIN_TO_HOLD_OUT:
        # Flags cannot ask for it, callers of `make_split` can.
        return f"{begin} a test fraction of 0 holds none out. Give a fraction above 0."
    return (
        f"{begin} no class has {MIN_TO_HOLD_OUT} images, of which one can be held out: the largest "
        f"class has {largest}. Add images, or give a test subset."
    )


def _hold_out_subset(
    subset: LabelledImages, fraction: float, seed: int
) -> tuple[LabelledImages, LabelledImages]:
    kept, held = hold_out(subset.labels, fraction, seed)
    return _take(subset, kept), _take(subset, held)


def _take(subset: LabelledImages, indices: np.ndarray) -> LabelledImages:
    return LabelledImages(tuple(subset.ids[i] for i in indices.tolist()), subset.labels[indices])


def hash_source(source: Source) -> str:
    """SHA-256 over ids, labels and classes; independent of the order of ids within a subset."""
    content = {
        "class_names": list(source.class_names),
        "test": None if source.test is None else _by_name(source.test),
        "train": _by_name(source.train),
    }
    if source.validation is not None:
        content["validation"] = _by_name(source.validation)
    return _sha256(compact_json(content))


def _by_name(subset: LabelledImages) -> Iterator[tuple[str, int]]:
    labels = subset.labels
    for i in sorted(range(len(subset.ids)), key=subset.ids.__getitem__):
        yield subset.ids[i], int(labels[i])


def _in_order(subset: LabelledImages) -> Iterator[tuple[str, int]]:
    return zip(subset.ids, map(int, subset.labels), strict=True)


def _to_json(split: Split) -> dict[str, Any]:
    """A split without its hash, in the order of the file; subsets as iterators."""
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
        **{name: _in_order(subset) for name, subset in split.subsets.items()},
    }


def _from_json(content: dict[str, Any]) -> Split:
    more: dict[str, Any] = {}
    if content["format"] == _FORMAT:
        more = {name: content[name] for name in ("selection", "own_validation")}
    elif content["format"] != _OLD_FORMAT:
        raise ValueError(f"format {content['format']!r} where at most {_FORMAT} was expected")
    more |= {
        name: LabelledImages(tuple(content[name]), np.array(list(content[name].values()), np.int32))
        for name in SUBSETS
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
