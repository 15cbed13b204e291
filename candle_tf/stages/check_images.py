"""Reads all images of a split before training.

Unreadable images stop the run, or are left out (--on_bad_image=skip). Images in two subsets, or in
two classes of one subset, are reported. The result is in data_check.json of the run folder, which a
resumed run uses.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import logging

from candle_tf.config import Config
from candle_tf.data.images.scan import first_lines, list_unreadable, reason, scan_images
from candle_tf.data.sources.registry import Source
from candle_tf.data.sources.source import format_names
from candle_tf.data.splits.duplicates import count_pairs, find_contradictions, find_duplicates
from candle_tf.data.splits.near_duplicates import (
    NearDuplicate,
    find_near_duplicates,
    near_duplicates_text,
    require_hashes,
)
from candle_tf.data.splits.split import SUBSETS, Split, leave_out, load_split
from candle_tf.errors import UserError
from candle_tf.files import read_json_object, write_atomically
from candle_tf.run_folder import SPLIT_FOUND, RunFolder
from candle_tf.stages.image_contents import changed_images, ids_of, record_contents
from candle_tf.stages.split import (
    draw_split,
    log_draw,
    require_split,
    run_split,
    wants_other_counts,
)
from candle_tf.stages.unlabelled import (
    check_record,
    check_unlabelled_images,
    log_unlabelled_images,
    require_unlabelled_images,
)

# Not in records of older versions.
_CONTRADICTORY = "contradictory"
# In the record only where it was asked for, with the distance.
_NEAR = "near_duplicates"
_DISTANCE = "near_duplicates_distance"
_UNLABELLED = "unlabelled"
# What is recorded of an image that is left out.
_ENTRY = ("id", "part", "class", "reason")


def check_split(config: Config, folder: RunFolder, source: Source) -> tuple[Split, dict[str, Any]]:
    """The split of a run without unreadable images, saved in its folder, and a record.

    Returns:
        The split, and a JSON-ready record: "scanned" (number of images), "left_out" (of each its
        "id", "part", "class" and "reason"), "duplicates" (of each "ids" by subset, and "classes"),
        "shared" (number of duplicates by pair of subsets) and "contradictory" (of each image with
        several classes in one subset its "subset", and "ids" by class); with --unlabelled_dir
        "unlabelled", see `unlabelled.check_unlabelled_images`.

    Raises:
        UserError: if images cannot be read and are not to be skipped, naming all of them; or
            as `run_split`; if images have other bytes than when the training began.
    """
    require_split(folder)
    path = folder.data_check_path
    if _searches_copies(config, folder, read_data_check(path) if path.exists() else {}):
        require_hashes()
    if config.unlabelled.unlabelled_dir and folder.writes and not folder.has_begun:
        require_unlabelled_images(config)
    record, split = _read_or_check(config, folder, source)
    if _must_check_again(config, folder, source, split, record):
        folder.forget_data()
        record, split = _read_or_check(config, folder, source)
    if _searches_copies(config, folder, record):
        record = {**record, **_near_duplicates(config, source, split)}
        _write(record, path)
    if folder.writes and not folder.has_begun:
        record = {name: value for name, value in record.items() if name != _UNLABELLED}
        if config.unlabelled.unlabelled_dir:
            paths = folder.image_contents_path, folder.unlabelled_contents_path
            record[_UNLABELLED] = check_unlabelled_images(config, source, split, *paths)
        _write(record, path)
    _log(record, path)
    return split, record


def _searches_copies(config: Config, folder: RunFolder, record: dict[str, Any]) -> bool:
    """Whether copies are to be searched, and are not in the record, or with another distance."""
    distance = config.data.near_duplicates
    if distance < 0 or not folder.writes:
        return False
    # Older versions recorded no distance; it was that of the run.
    return _NEAR not in record or record.get(_DISTANCE, distance) != distance


def _read_or_check(
    config: Config, folder: RunFolder, source: Source
) -> tuple[dict[str, Any], Split]:
    """The run's record, made where it has none, and its split without the images left out."""
    path = folder.data_check_path
    if not path.exists():
        _write(_check(config, folder, source), path)
    record = read_data_check(path)
    return record, run_split(config, folder, source, _left_out(record))


def _left_out(record: dict[str, Any]) -> list[str]:
    return [entry["id"] for entry in record["left_out"]]


def _must_check_again(
    config: Config, folder: RunFolder, source: Source, split: Split, record: dict[str, Any]
) -> bool:
    """Whether a run that nothing was trained in yet is of other images than its settings ask for.

    They have other bytes than recorded, or the file of --class_counts has other counts.

    Raises:
        UserError: where something was trained, with the images or the file.
    """
    if not folder.writes:
        return False  # the chief compares them
    if wants_other_counts(config, folder, split, record["left_out"]):
        return True
    contents = folder.image_contents_path
    changed = changed_images(contents, split.hash, source, ids_of(split), config.run.cache_path)
    if changed and folder.has_begun:
        raise UserError(
            f"{len(changed)} images have other contents than when the run in {folder.path} began: "
            f"{format_names(changed)}. Restore them, or choose a new run folder."
        )
    if changed:
        logging.info("%d images changed since they were read: all are read again", len(changed))
    return bool(changed)


def _write(record: dict[str, Any], path: Path) -> None:
    write_atomically(path, (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())


def _check(config: Config, folder: RunFolder, source: Source) -> dict[str, Any]:
    fixed = folder.split_path.exists()
    split = load_split(folder.split_path) if fixed else draw_split(config, source)
    if fixed:
        log_draw(split, folder.split_path)
    ids = [image_id for subset in split.subsets.values() for image_id in subset.ids]
    scan = scan_images(source, ids, config.run.cache_path)
    bad = _entries(source, split, scan.bad)
    if bad and (config.data.on_bad_image == "stop" or fixed):
        raise UserError(_refusal(bad, fixed))
    try:
        readable = leave_out(split, scan.bad)
    except UserError as error:
        raise UserError(f"{error}\n{_list_images(bad)}") from error
    record_contents(folder.image_contents_path, readable.hash, source, ids_of(readable), scan)
    duplicates = find_duplicates(scan, readable)
    return {
        SPLIT_FOUND: fixed,
        "scanned": len(ids),
        "left_out": bad,
        "duplicates": [vars(duplicate) for duplicate in duplicates],
        "shared": count_pairs(duplicates),
        _CONTRADICTORY: [vars(each) for each in find_contradictions(scan, readable)],
    }


def _near_duplicates(config: Config, source: Source, split: Split) -> dict[str, Any]:
    """What is recorded of them."""
    distance = config.data.near_duplicates
    pairs = find_near_duplicates(source, split, distance, config.run.cache_path)
    entries = [{**vars(pair), "classes": list(pair.classes)} for pair in pairs]
    return {_DISTANCE: distance, _NEAR: entries}


def _entries(source: Source, split: Split, bad: Sequence[str]) -> list[dict[str, str]]:
    wanted = set(bad)
    return [
        {
            "id": image_id,
            "part": name,
            "class": split.class_names[label],
            "reason": reason(source, image_id),
        }
        for name, subset in split.subsets.items()
        for image_id, label in zip(subset.ids, subset.labels.tolist(), strict=True)
        if image_id in wanted
    ]


def _refusal(bad: list[dict[str, str]], fixed: bool) -> str:
    advice = (
        "Restore them, or choose a new run folder: this run's split has them."
        if fixed
        else "Fix or remove them, or leave them out with --on_bad_image=skip."
    )
    return f"{_list_images(bad)}\n{advice}"


def _list_images(bad: list[dict[str, str]]) -> str:
    return list_unreadable([entry["reason"] for entry in bad])


def read_data_check(path: Path) -> dict[str, Any]:
    """Reads data_check.json, as `check_split` returns it.

    Raises:
        UserError: where it is damaged.
    """
    remedy = "Restore it, or choose a new run folder."
    record = read_json_object(path, remedy)
    try:
        texts = [entry[name] for entry in record["left_out"] for name in _ENTRY]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("an image that was left out is not described by texts")
        numbers = [record["scanned"], *dict(record["shared"]).values()]
        if not all(isinstance(number, int) for number in numbers):
            raise ValueError("a number of images is none")
        later = (SPLIT_FOUND, _CONTRADICTORY, _DISTANCE, _NEAR, _UNLABELLED)
        present = [name for name in later if name in record]
        _check_contradictory(record.get(_CONTRADICTORY, []))
        for pair in record.get(_NEAR, []):
            NearDuplicate(**pair)
        check_record(record.get(_UNLABELLED))
        return {
            key: record[key] for key in ("scanned", "left_out", "duplicates", "shared", *present)
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}). {remedy}") from error


def _check_contradictory(entries: list[dict[str, Any]]) -> None:
    """Refuses what `_check` does not write.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: says what is wrong.
    """
    texts = [image_id for each in entries for ids in each["ids"].values() for image_id in ids]
    if not all(isinstance(text, str) for text in [*texts, *(each["subset"] for each in entries)]):
        raise ValueError("an image with several classes is not described by texts")


def _log_contradictory(entries: list[dict[str, Any]], path: Path) -> None:
    for subset in SUBSETS:
        found = [each["ids"] for each in entries if each["subset"] == subset]
        if found:
            example = " = ".join(f"{ids[0]} ({label})" for label, ids in found[0].items())
            logging.warning(
                "%d images have several classes within %s, with the same bytes, e.g. %s; they stay "
                "in it, see %s",
                *(len(found), subset, example, path),
            )


def _log(record: dict[str, Any], path: Path) -> None:
    left_out = record["left_out"]
    if left_out:
        logging.warning(
            "%d of %d images cannot be read and are left out (%s):%s",
            len(left_out),
            record["scanned"],
            path,
            first_lines([f"{entry['part']}: {entry['reason']}" for entry in left_out]),
        )
    for pair, count in record["shared"].items():
        logging.warning("%d images are in both %s, with the same bytes; see %s", count, pair, path)
    _log_contradictory(record.get(_CONTRADICTORY, []), path)
    if _UNLABELLED in record:
        log_unlabelled_images(record[_UNLABELLED], path)
    if record.get(_NEAR):
        pairs = [NearDuplicate(**pair) for pair in record[_NEAR]]
        logging.warning("%s\nAll are in %s", near_duplicates_text(pairs), path)
