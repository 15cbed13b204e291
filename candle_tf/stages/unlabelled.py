"""Images without labels that a student is distilled on, too (--unlabelled_dir).

They are read before training: unreadable ones stop the run or are left out, as those with labels
(--on_bad_image), and images of the validation or test subset are left out.
"""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from candle_tf.config import Config
from candle_tf.data.cached_arrays import key_digest
from candle_tf.data.images.scan import Scan, list_unreadable, reason, scan_images
from candle_tf.data.images.store import open_image_store
from candle_tf.data.sources.archives import is_archive
from candle_tf.data.sources.source import Source, format_names
from candle_tf.data.sources.unlabelled import open_unlabelled
from candle_tf.data.splits.duplicates import shared_ids
from candle_tf.data.splits.split import Split
from candle_tf.data.subset import Subset
from candle_tf.errors import UserError
from candle_tf.stages.image_contents import (
    HASH_BYTES,
    change_tokens,
    changed_images,
    has_contents,
    ids_of,
    read_contents,
    record_contents,
)


def require_unlabelled_images(config: Config) -> None:
    """Refuses a place that is no archive, and no folder with images; none is read.

    Raises:
        UserError: with what is wrong with it.
    """
    path = Path(config.unlabelled.unlabelled_dir).expanduser()
    # To list a compressed archive it is unpacked, which takes long.
    if not (path.is_file() and is_archive(path)):
        _open(config, warns=False).close()


def check_unlabelled_images(
    config: Config, source: Source, split: Split, labelled: Path, contents: Path
) -> dict[str, Any]:
    """Reads all images without labels.

    Args:
        config: the run's settings.
        source: of the images with labels.
        split: of the images with labels.
        labelled: path of the record of the contents of the images with labels.
        contents: path of the file to which the hashes of their bytes are written.

    Returns:
        A JSON-ready record: "images" (number of those used), "content" (SHA-256 over their ids
        and contents), "left_out" (of each unreadable image its "id" and "reason") and "shared"
        (ids of images that are in the validation or test subset too, byte by byte; not used).

    Raises:
        UserError: where there are no images, none is left, or some cannot be read and are not to
            be skipped.
    """
    place, cache = config.unlabelled.unlabelled_dir, config.run.cache_path
    # A run opens them several times, and tells once what is not read.
    with _open(config, warns=True) as unlabelled:
        scan = scan_images(unlabelled, unlabelled.train.ids, cache)
        left_out = [{"id": each, "reason": reason(unlabelled, each)} for each in scan.bad]
        if left_out and config.data.on_bad_image == "stop":
            raise UserError(
                f"--unlabelled_dir={place}: {_list_reasons(left_out)}\n"
                "Fix or remove them, or leave them out with --on_bad_image=skip."
            )
        shared = shared_ids(_short_scan(scan), _heldout(source, split, labelled, cache))
        record = {"left_out": left_out, "shared": list(shared)}
        ids = _used_ids(unlabelled, record)
        if not ids:
            raise UserError(
                f"--unlabelled_dir={place}: of {len(scan.ids)} images none can be used: "
                f"{len(left_out)} cannot be read, and {len(shared)} are in the validation or test "
                "subset. Give other images, or leave --unlabelled_dir out."
            )
        # Of a start before, which trained nothing, they may be of other bytes.
        contents.unlink(missing_ok=True)
        record_contents(contents, _key(ids), unlabelled, ids, scan)
        return {"images": len(ids), "content": unlabelled.content_hash(ids), **record}


def open_unlabelled_images(
    config: Config, record: dict[str, Any], contents: Path, side: int
) -> Subset:
    """Decodes the images of a record; all have the label 0.

    Args:
        config: the run's settings.
        record: of `check_unlabelled_images`.
        contents: as of `check_unlabelled_images`.
        side: of the stored images in pixels.

    Raises:
        UserError: where they are not those of the record, or one cannot be read.
    """
    with ExitStack() as opened:
        source = opened.enter_context(_open(config, warns=False))
        ids = _used_ids(source, record)
        _refuse_other_images(config, source, ids, record, contents)
        images = open_image_store(
            source,
            ids,
            side,
            config.run.cache_path,
            resize=config.data.resize,
            store=config.data.store,
        )
        if images.streamed:
            opened.pop_all()  # read from until the run ends
    return Subset(images, images.rows_of(ids), np.zeros(len(ids), np.int32))


def _refuse_other_images(
    config: Config, source: Source, ids: list[str], record: dict[str, Any], contents: Path
) -> None:
    """Refuses images that a run did not begin with; copies of these are no other ones."""
    if change_tokens(source, ids) == record["content"]:
        return
    place, key = f"--unlabelled_dir={config.unlabelled.unlabelled_dir}", _key(ids)
    remedy = "Restore them, or choose a new run folder."
    # Runs of older versions have no hashes of the bytes.
    if not has_contents(contents, key):
        raise UserError(f"{place}: the images are not those that this run began with. {remedy}")
    if changed := changed_images(contents, key, source, ids, config.run.cache_path):
        raise UserError(
            f"{place}: {len(changed)} images have other contents than when this run began: "
            f"{format_names(changed)}. {remedy}"
        )


def _key(ids: list[str]) -> str:
    return key_digest({"ids": ids})


def check_record(record: Any) -> None:
    """Refuses what `check_unlabelled_images` does not write; None is right.

    Raises:
        ValueError, KeyError, TypeError: says what is wrong.
    """
    if record is None:
        return
    texts = [entry[name] for entry in record["left_out"] for name in ("id", "reason")]
    if not all(isinstance(text, str) for text in [*texts, *record["shared"], record["content"]]):
        raise ValueError("an image without a label is not described by texts")
    if not isinstance(record["images"], int):
        raise ValueError("a number of images is none")


def log_unlabelled_images(record: dict[str, Any], path: Path) -> None:
    """Tells how many images are used, and which are not."""
    logging.info("%d images without labels", record["images"])
    if record["left_out"]:
        logging.warning(
            "images without labels: %s\nThey are left out (%s)",
            *(_list_reasons(record["left_out"]), path),
        )
    if record["shared"]:
        logging.warning(
            "%d images without labels are in the validation or test subset, too, with the same "
            "bytes, e.g. %s. They are left out, as nothing may be learned from them; see %s",
            *(len(record["shared"]), record["shared"][0], path),
        )


def _open(config: Config, *, warns: bool) -> Source:
    return open_unlabelled(
        config.unlabelled.unlabelled_dir,
        str(config.run.cache_path),
        config.data.archive_encoding,
        warns=warns,
    )


def _list_reasons(left_out: list[dict[str, str]]) -> str:
    return list_unreadable([entry["reason"] for entry in left_out])


def _short_scan(scan: Scan) -> Scan:
    """The same with so many bytes of each hash as a record has."""
    return replace(scan, hashes=scan.hashes[:, :HASH_BYTES])


def _heldout(source: Source, split: Split, labelled: Path, cache: Path) -> Scan:
    """What the validation and test images are, by the record of all images where there is one.

    A scan of the images that are left has another place in the cache than that of all images.
    """
    ids, first = ids_of(split), len(split.train.ids)
    recorded = read_contents(labelled, split.hash, len(ids))
    if recorded is None:
        scan = _short_scan(scan_images(source, ids, cache))
    else:
        scan = Scan(tuple(ids), np.ones(len(ids), bool), recorded.hashes)
    return Scan(scan.ids[first:], scan.readable[first:], scan.hashes[first:])


def _used_ids(source: Source, record: dict[str, Any]) -> list[str]:
    unused = {*record["shared"], *(entry["id"] for entry in record["left_out"])}
    return [image_id for image_id in source.train.ids if image_id not in unused]
