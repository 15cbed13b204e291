"""Images that a run learned from, among those that its student is measured on.

list_learned_ids(split)                              # of training and validation images
find_seen_images(Path("runs/flowers"), source, ids)  # those of the ids that the run learned from
"""

from collections.abc import Sequence
from pathlib import Path

from absl import logging

from candle_tf.data.sources.source import Source
from candle_tf.data.splits.split import Split, hash_source, load_split
from candle_tf.errors import UserError
from candle_tf.run_folder import RunFolder
from candle_tf.stages.image_contents import change_tokens, hash_images, ids_of, read_contents


def list_learned_ids(split: Split) -> set[str]:
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
        seen = find_seen_images(run, source, ids)
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


def find_seen_images(run: Path, source: Source, ids: Sequence[str]) -> list[str]:
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
    recorded, learned = ids_of(split), list_learned_ids(split)
    contents = read_contents(folder.image_contents_path, split.hash, len(recorded))
    if split.source_hash == hash_source(source) and (
        contents is None or contents.tokens == change_tokens(source, recorded)
    ):
        return [image_id for image_id in ids if image_id in learned]
    if contents is None:
        return []
    rows = zip(recorded, contents.hashes, strict=True)
    hashes = {row.tobytes() for image_id, row in rows if image_id in learned}
    found = zip(ids, hash_images(source, ids), strict=True)
    return [image_id for image_id, image_hash in found if image_hash in hashes]
