"""What --student_weights stands for: shipped weights, larq-zoo's, a file's, or a run's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from candle_tf.data.catalog import CATALOG
from candle_tf.data.splits.split import Split
from candle_tf.errors import UserError
from candle_tf.files import read_json_object, sha256_of_file
from candle_tf.stages.earlier_run import EarlierRun
from candle_tf.students.settings import StudentSettings
from candle_tf.students.weights.larq_zoo import FILES, larq_zoo_file
from candle_tf.students.weights.loading import (
    StartingWeights,
    load_weights_file,
    shipped_weights,
    start_from,
)
from candle_tf.students.weights.spec import StudentSpec

PRETRAINED, LARQ_ZOO = "pretrained", "larq_zoo"


def start_student(
    settings: StudentSettings, student: tf.keras.Model, class_names: Sequence[str]
) -> None:
    """Puts the weights that --student_weights names into a new student.

    Args:
        settings: of the student.
        student: as built; unchanged without --student_weights.
        class_names: of its classes.

    Raises:
        UserError: where the weights are missing, damaged or of another student.
    """
    if settings.student_weights:
        start_from(starting_weights(settings), student, class_names)


def refuse_seen_images(settings: StudentSettings, split: Split) -> None:
    """Refuses starting weights of a run that was trained on this run's test images.

    Raises:
        UserError: as `EarlierRun.refuse_seen_images`.
    """
    path = Path(settings.student_weights).expanduser()
    if settings.student_weights not in ("", PRETRAINED, LARQ_ZOO) and path.is_dir():
        _open(path).refuse_seen_images(split)


def starting_weights(settings: StudentSettings) -> StartingWeights:
    """Loads the weights that --student_weights names.

    Raises:
        UserError: as `start_student`.
    """
    spec = StudentSpec(settings.student, settings.width, settings.stem_stride)
    given, sha256 = settings.student_weights, settings.student_weights_sha256
    if given == PRETRAINED:
        path, of_card = shipped_weights(spec)
        sha256 = sha256 or of_card
    elif given == LARQ_ZOO:
        path = larq_zoo_file(spec)
    else:
        path = Path(given).expanduser()
        if path.is_dir():
            return _of_run(path, spec, settings.image_size, sha256)
    return load_weights_file(path, spec, settings.image_size, sha256)


def describe_starting_weights(settings: StudentSettings) -> dict[str, Any] | None:
    """What the weights of --student_weights are and what they were made from, for a model card.

    Nothing is loaded or fetched, and a file that is gone since is no error.

    Returns:
        "weights" (the flag's value; of a path the name alone), "sha256" of the file (None of a
        run), and "data" and "licence" of the images, "unknown" where nothing tells; None for a
        student that began with random weights.
    """
    given = settings.student_weights
    if not given:
        return None
    if given == LARQ_ZOO:
        return _description(given, FILES[settings.student].sha256, "ImageNet")
    if given == PRETRAINED:
        spec = StudentSpec(settings.student, settings.width, settings.stem_stride)
        path, sha256 = shipped_weights(spec)
        return _description(given, sha256, **_data_of_card(path.with_suffix(".json"), sha256))
    path = Path(given).expanduser()
    if path.is_dir():
        return _description(path.name, None, **_data_of_run(path))
    there = sha256_of_file(path) if path.is_file() else settings.student_weights_sha256 or None
    return _description(path.name, there, **_data_of_card(path.with_suffix(".json"), there))


def _description(
    weights: str, sha256: str | None, data: str = "", licence: str = ""
) -> dict[str, Any]:
    return {
        "weights": weights,
        "sha256": sha256,
        "data": data or "unknown",
        "licence": licence or "unknown",
    }


def _data_of_card(path: Path, sha256: str | None) -> dict[str, str]:
    """Of the JSON that a pretraining writes beside its weights; nothing of that of others."""
    try:
        card = read_json_object(path, "")
    except UserError:
        return {}
    data = card.get("data")
    if not isinstance(data, dict) or sha256 is None or card.get("sha256") != sha256:
        return {}
    return {"data": str(data.get("name") or ""), "licence": str(data.get("license") or "")}


def _data_of_run(path: Path) -> dict[str, str]:
    """Of a run's settings, with the weights that it began with itself."""
    try:
        settings = read_json_object(path / "config.json", "")
    except UserError:
        return {}
    dataset = str(settings.get("dataset") or "")
    entry = CATALOG.get(dataset)
    place = settings.get("data_dir") or settings.get("train_list") or ""
    name = entry.source if entry else Path(str(place)).name or dataset
    if earlier := settings.get("student_weights"):
        name += f"; that run began with the weights {Path(str(earlier)).name}"
    licence = entry.licence if entry else settings.get("data_license")
    return {"data": name, "licence": str(licence or "")}


def _of_run(path: Path, spec: StudentSpec, image_size: int, sha256: str) -> StartingWeights:
    """The epoch that a run selected, or the best one of a pretraining."""
    if sha256:
        raise UserError(
            f"--student_weights_sha256={sha256} is for a file, and --student_weights={path} is the "
            "folder of a run, whose checkpoints have checksums of their own. Leave it out."
        )
    run = _open(path)
    found = run.spec
    if (found.name, found.width) != (spec.name, spec.width):
        raise UserError(
            f"--student_weights={path} is a run of {found}, and the student is {spec}: give "
            f"--student={found.name} --width={found.width:g}, or other weights."
        )
    return StartingWeights(run.load_network(image_size), run.class_names, str(path))


def _open(path: Path) -> EarlierRun:
    return EarlierRun(path, f"--student_weights={path}")
