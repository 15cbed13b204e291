"""Images that a run learned from, among those that its student is measured on.

learned_ids(split)                                 # of training and validation images
seen_images(Path("runs/flowers"), source, ids)     # those of the ids that the run learned from
"""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from absl import logging

from candle_tf.data.sources.source import Source
from candle_tf.data.splits.split import Split, hash_source, load_split
from candle_tf.errors import UserError
from candle_tf.files import read_json_object
from candle_tf.run_folder import RunFolder

_REMEDY = "Restore it."


def learned_ids(split: Split) -> set[str]:
    """Ids of the images that a run is trained on, or chooses its epoch by."""
    return {*split.train.ids, *split.validation.ids}


def warn_of_seen_images(run: Path, source: Source, ids: Sequence[str]) -> None:
    """Warns where images to be measured are some that the run learned from.

    Args:
        run: folder of the run.
        source: of the images.
        ids: of the images to be measured.
    """
    try:
        seen = seen_images(run, source, ids)
    except UserError as error:
        logging.warning("Whether %s learned from these images cannot be told: %s", run, error)
        return
    if seen:
        logging.warning(
            "%d of the %d images to be measured are training or validation images of %s, such as "
            "%s: accuracy on them says nothing of new images. Measure others; the accuracy on the "
            "run's own test images is in its report",
            *(len(seen), len(ids), run, seen[0]),
        )


def seen_images(run: Path, source: Source, ids: Sequence[str]) -> list[str]:
    """Those of some images that a run learned from; none for a folder without a split.

    Their bytes decide, by the hashes that the run recorded. They are not read where all sizes and
    times of files are the recorded ones. Runs of older versions recorded none: there the ids
    decide, if the data set has the same names and labels.

    Args:
        run: folder of the run.
        source: of the images.
        ids: of the images in question.

    Raises:
        UserError: where the run's split or its record of the images is damaged.
    """
    folder = RunFolder(run)
    if not folder.split_path.exists():
        return []
    split = load_split(folder.split_path)
    same_names = split.source_hash == hash_source(source)
    path = folder.image_contents_path
    record = read_json_object(path, _REMEDY) if path.exists() else {}
    recorded = record.get("split") == split.hash
    if same_names and (not recorded or record.get("tokens") == _change_tokens(source, split)):
        learned = learned_ids(split)
        return [image_id for image_id in ids if image_id in learned]
    if not recorded:
        return []
    hashes, size = _learned_hashes(record, split, path)
    return [image_id for image_id in ids if _hash_bytes(source, image_id)[:size] in hashes]


def _change_tokens(source: Source, split: Split) -> str:
    """As `image_contents.record_contents` writes them."""
    ids = [image_id for subset in split.subsets.values() for image_id in subset.ids]
    return source.content_hash(ids, missing="missing")


def _learned_hashes(record: dict[str, object], split: Split, path: Path) -> tuple[set[bytes], int]:
    """Recorded hashes of training and validation images, and how many bytes each has.

    `image_contents.record_contents` writes the beginnings of the hashes of all three subsets, one
    after the other.
    """
    subsets = [len(subset.ids) for subset in split.subsets.values()]
    try:
        stored = base64.b64decode(str(record["hashes"]), validate=True)
        size, rest = divmod(len(stored), sum(subsets))
        if rest or not size:
            raise ValueError(f"{len(stored)} bytes of hashes for {sum(subsets)} images")
    except (ValueError, KeyError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path} is damaged ({reason}). {_REMEDY}") from error
    learned = len(split.train.ids) + len(split.validation.ids)
    return {stored[i * size : (i + 1) * size] for i in range(learned)}, size


def _hash_bytes(source: Source, image_id: str) -> bytes:
    """SHA-256 of an image's stored bytes; of one that cannot be read, no bytes."""
    try:
        return hashlib.sha256(source.read_bytes(image_id)).digest()
    except UserError:
        return b""
