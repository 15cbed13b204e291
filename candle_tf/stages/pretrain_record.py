"""What a pretraining began with, beside its checkpoints: images, teacher and precision.

    begun = read_beginning(settings)                # None before the first epoch
    contents = compare_contents(settings, source, ids, begun)
    refuse_other_teacher(settings, teacher.fingerprint, begun)
    policy = keep_precision(settings, policy, begun)
    write_beginning(settings, Beginning(contents, teacher.fingerprint, policy.dtype))

Paths may differ between two calls that work on one folder; what they lead to may not.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from absl import logging

from candle_tf.data.sources.source import Source
from candle_tf.errors import UserError
from candle_tf.files import read_json_object, write_atomically
from candle_tf.stages.pretrain_epochs import student_folder
from candle_tf.stages.pretrain_settings import Pretraining
from candle_tf.students.compute_policy import DTYPES, ComputePolicy

_NAME = "begun_with.json"


@dataclass(frozen=True)
class Contents:
    """What the images are.

    Attributes:
        images: how many.
        tokens: `Source.content_hash`; copies of the images have another one.
        sha256: over names and bytes of all images; copies have the same.
    """

    images: int
    tokens: str
    sha256: str


@dataclass(frozen=True)
class Beginning:
    """What the checkpoints of a pretraining were trained with.

    Attributes:
        contents: of the images, held-out ones included.
        teacher: `Teacher.fingerprint`.
        precision: `ComputePolicy.dtype`.
    """

    contents: Contents
    teacher: str
    precision: str


def read_beginning(settings: Pretraining) -> Beginning | None:
    """The record of the call that trained the first epoch.

    Returns:
        None before an epoch is done, and in folders of older versions, which have no record.

    Raises:
        UserError: where the record is damaged, or an older version held out other images.
    """
    path = _path(settings)
    if not (path.parent / "checkpoints" / "progress.json").exists():
        return None
    if not path.exists():
        _refuse_other_heldout(settings)
        return None
    remedy = "Restore it, or delete it to accept images and teacher as they are now."
    values = read_json_object(path, remedy)
    try:
        contents = Contents(values["images"], values["tokens"], values["sha256"])
        found = Beginning(contents, values["teacher"], values["precision"])
        if found.precision not in DTYPES:
            raise ValueError(f"its precision is {found.precision!r}")
        hashes = (contents.tokens, contents.sha256, found.teacher)
        if type(contents.images) is not int or not all(isinstance(text, str) for text in hashes):
            raise ValueError("a number of images and three hashes are expected")
    except (KeyError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path} is damaged ({reason}). {remedy}") from error
    return found


def write_beginning(settings: Pretraining, beginning: Beginning) -> None:
    """Writes the record; before the first epoch, so that none is without it."""
    values = {
        **dataclasses.asdict(beginning.contents),
        "teacher": beginning.teacher,
        "precision": beginning.precision,
    }
    path = _path(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(values, indent=1) + "\n").encode())


def compare_contents(
    settings: Pretraining, source: Source, ids: Sequence[str], begun: Beginning | None
) -> Contents:
    """What the images are now; reads all of them unless they are known to be the same.

    Raises:
        UserError: where they are others than at the beginning, or one cannot be read.
    """
    tokens = source.content_hash(ids)
    if begun is not None and begun.contents.tokens == tokens:
        return begun.contents
    logging.info("the bytes of all images are read once, to know them again")
    digest = hashlib.sha256()
    for image_id in ids:
        digest.update(f"{image_id}\0".encode())
        digest.update(hashlib.sha256(source.read_bytes(image_id)).digest())
    now = Contents(len(ids), tokens, digest.hexdigest())
    if begun is not None and begun.contents.sha256 != now.sha256:
        raise UserError(
            f"The images are not those with which {settings.run_dir} was begun: "
            f"{begun.contents.images} then and {now.images} now, with other names or bytes. "
            "Restore them, or give a new --run_dir."
        )
    return now


def refuse_other_teacher(settings: Pretraining, fingerprint: str, begun: Beginning | None) -> None:
    """Refuses a teacher whose weights are not those of the beginning.

    Raises:
        UserError: where they are not.
    """
    if begun is not None and begun.teacher != fingerprint:
        raise UserError(
            f"--teacher={settings.teacher} has other weights than when {settings.run_dir} was "
            "begun. Restore its file (--teacher_weights), or give a new --run_dir."
        )


def keep_precision(
    settings: Pretraining, policy: ComputePolicy, begun: Beginning | None
) -> ComputePolicy:
    """The policy, in the precision that --precision=auto was at the beginning."""
    if begun is None or settings.precision != "auto" or not policy.native:
        return policy
    return dataclasses.replace(policy, dtype=begun.precision)


def _refuse_other_heldout(settings: Pretraining) -> None:
    """What was learned from must not choose the epoch."""
    if not settings.heldout_parts:
        raise UserError(
            f"{settings.run_dir} was begun by an older version, which held out other images for "
            f"--heldout_fraction={settings.heldout_fraction:g}. Give a new --run_dir."
        )


def _path(settings: Pretraining) -> Path:
    return student_folder(settings) / _NAME
