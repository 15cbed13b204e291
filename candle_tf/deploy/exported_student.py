"""An exported student, loaded to classify images: from a run, an export or one of its files.

    student = load_exported("runs/flowers")     # or runs/flowers/export, or a file of it
    scores = student.scores([image])            # image: uint8 [H, W, 3], as decoded
    student.labels[scores[0].argmax()]

Preprocessing is evaluation's own (`data.augment.evaluation`): bit for bit what was measured.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from candle_tf.data.augment.evaluation import student_pixels
from candle_tf.deploy.reported_export import refuse_other_student
from candle_tf.deploy.tflite.interpreters import (
    Interpreter,
    open_compute_engine,
    open_litert,
)
from candle_tf.errors import UserError
from candle_tf.files import read_json_object, require_path, sha256_of_file
from candle_tf.folder_kinds import describe_other_folder, refuse_pretraining
from candle_tf.metrics import softmax

RUNTIMES = ("auto", "lce", "float", "saved_model")
METADATA = "student.json"
SAVED_MODELS = "saved_model"
_ADVICE = "Give a run's folder, its export or a file of it."
_FILES = {"lce": "student.lce.tflite", "float": "student.float.tflite"}


@dataclass(frozen=True)
class ExportedStudent:
    """A loaded student.

    Attributes:
        source: what was loaded, for messages.
        runtime: "lce", "float" or "saved_model".
        labels: class names in the order of the logits.
        stored_side: side in pixels of the square to which an image is resized first.
        image_size: side in pixels of the student's input.
        resize: "stretch" (the whole image), or "crop" (its central square).
        scores_of: from pixels, uint8 `[N, S, S, 3]`, to the softmax over classes, float32 `[N, C]`.
        shot_groups: class names of each shot group; empty for exports before there were these.
    """

    source: str
    runtime: str
    labels: tuple[str, ...]
    stored_side: int
    image_size: int
    resize: str
    scores_of: Callable[[np.ndarray], np.ndarray]
    shot_groups: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def preprocess(self, image: np.ndarray) -> np.ndarray:
        """From a decoded image, uint8 `[H, W, 3]`, to the student's input, uint8 `[S, S, 3]`.

        Raises:
            UserError: for an array that is no such image.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise UserError(
                f"An image is {image.dtype} {list(image.shape)}; give uint8 [height, width, 3], "
                "red, green, blue in 0..255."
            )
        return student_pixels(
            image, resize=self.resize, side=self.stored_side, image_size=self.image_size
        )

    def scores(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Softmax over classes, float32 `[N, C]`, of decoded images, uint8 `[H, W, 3]` each.

        Raises:
            UserError: for an array that is no such image.
        """
        if not len(images):
            return np.zeros((0, len(self.labels)), np.float32)
        return self.scores_of(np.stack([self.preprocess(image) for image in images]))


def load_exported(path: str | Path, runtime: str = "auto") -> ExportedStudent:
    """Loads a student.

    Args:
        path: a run's folder, its export folder, a numbered SavedModel in that or the folder of all
            of them, or one of its TFLite files.
        runtime: "lce" (the Larq Compute Engine), "float" (the float32 reference model in LiteRT),
            "saved_model" (TensorFlow), or "auto": what `path` names, else the engine.

    Raises:
        UserError: for an empty path; where nothing of the kind is there, files are damaged or do
            not belong together, or are of another student than the run reports, as its export was
            refused.
    """
    if runtime not in RUNTIMES:
        raise UserError(f"--runtime={runtime} is not known; it is one of {', '.join(RUNTIMES)}.")
    path = require_path(path, _ADVICE)
    folder, named = find_export(path)
    if runtime not in ("auto", named or runtime):
        raise UserError(f"--runtime={runtime} contradicts {path}, which is for --runtime={named}.")
    chosen = named or ("lce" if runtime == "auto" else runtime)
    metadata = _read_metadata(folder / METADATA)
    if chosen == "saved_model":
        saved_model = _newest_version(path, folder)
        refuse_other_student(folder, is_saved_model=True)
        scores_of = _open_saved_model(saved_model)
        source = saved_model
    else:
        source = folder / _FILES[chosen]
        refuse_other_student(folder, is_saved_model=False)
        scores_of = _scores_of_interpreter(_open_tflite(source, chosen, metadata))
    return ExportedStudent(str(source), chosen, scores_of=scores_of, **_input_of(metadata, folder))


def find_export(path: Path) -> tuple[Path, str | None]:
    """The export folder that a path belongs to, and the runtime that it names, if any.

    Raises:
        UserError: where there is no export; says what is there.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; give a run's folder, its export or a file of it.")
    refuse_pretraining(path)
    if path.is_file():
        runtimes = {name: runtime for runtime, name in _FILES.items()}
        if path.name in runtimes and (path.parent / METADATA).is_file():
            return path.parent, runtimes[path.name]
        raise UserError(
            f"{path} is no {' or '.join(runtimes)} with its {METADATA} beside it, which holds "
            "labels and preprocessing; give the export folder of a run."
        )
    candidates: list[tuple[Path, str | None]] = [(path, None), (path / "export", None)]
    # "." has no parent, and a link another one.
    whole = path.resolve()
    if whole.name == SAVED_MODELS:
        candidates.append((whole.parent, "saved_model"))
    elif _is_saved_model(whole):
        candidates.append((whole.parent.parent, "saved_model"))
    for folder, runtime in candidates:
        if (folder / METADATA).is_file():
            return folder, runtime
    if (path / "config.json").is_file():
        raise UserError(
            f"{path} is a run without an export: it has not finished, or it has "
            "--export_student=off. Start the same command again without that flag, which resumes "
            "it."
        )
    if told := describe_other_folder(path):
        raise UserError(told)
    raise UserError(
        f"{path} holds no export: there is no {METADATA} in it or in {path / 'export'}. Give the "
        "folder of a finished run (python -m candle_tf.train), or its export."
    )


def find_saved_models(path: str | Path) -> Path:
    """The folder of numbered SavedModels that a path means.

    Args:
        path: that folder itself, or what `load_exported` takes.

    Raises:
        UserError: where there is no SavedModel; says whether it is a run without an export. For a
            numbered one that is not the highest: another one would be served. Where it is of
            another student than the run reports, as its export was refused.
    """
    path = require_path(path, _ADVICE)
    if _versions_in(path):
        if path.resolve().name == SAVED_MODELS:
            refuse_other_student(path.resolve().parent, is_saved_model=True)
        return path
    base = find_export(path)[0] / SAVED_MODELS
    newest = max(_require_versions(base), key=_number)
    whole = path.resolve()
    if _is_saved_model(whole) and _number(whole) != _number(newest):
        raise UserError(
            f"{path} is not the highest version in {base}, and that is the one that is served: "
            f"{newest.name}. Give that folder, or one that holds this version alone."
        )
    refuse_other_student(base.parent, is_saved_model=True)
    return base


def _newest_version(path: Path, folder: Path) -> Path:
    if (path / "saved_model.pb").is_file():
        return path
    if _is_saved_model(path.resolve()):
        raise UserError(f"{path} holds no SavedModel: there is no saved_model.pb in it.")
    return max(_require_versions(folder / SAVED_MODELS), key=_number)


def _require_versions(base: Path) -> list[Path]:
    versions = _versions_in(base)
    if not versions:
        raise UserError(f"{base} holds no numbered SavedModel; export the run again.")
    return versions


def _versions_in(base: Path) -> list[Path]:
    return [entry for entry in base.glob("*") if _is_version(entry)]


def _is_version(folder: Path) -> bool:
    return re.fullmatch(r"[0-9]+", folder.name) is not None


def _is_saved_model(folder: Path) -> bool:
    """Whether a path without links is that of a numbered SavedModel of an export."""
    return folder.parent.name == SAVED_MODELS and _is_version(folder)


def _number(version: Path) -> int:
    return int(version.name)


def _read_metadata(path: Path) -> dict[str, Any]:
    metadata = read_json_object(path, "Export the run again.")
    kinds = {"labels": list, "files": dict, "input": dict}
    if not all(isinstance(metadata.get(name), kind) for name, kind in kinds.items()):
        raise UserError(
            f"{path} is damaged ({', '.join(kinds)} are not as written). Export the run again."
        )
    return metadata


def _input_of(metadata: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Labels, shot groups and preprocessing.

    Before version 0.2 the last was in the run's settings alone.
    """
    resizing = metadata["input"].get("resizing")
    if resizing is None:
        resizing = _resizing_of_run(folder.parent / "config.json", folder)
    labels = tuple(map(str, metadata["labels"]))
    try:
        return {
            "labels": labels,
            "shot_groups": _shot_groups_of(metadata, labels),
            "stored_side": int(resizing["stored_side"]),
            "resize": str(resizing["resize"]),
            "image_size": int(metadata["input"]["shape"][1]),
        }
    except (KeyError, TypeError, IndexError, ValueError, OverflowError) as error:
        raise UserError(
            f"{folder / METADATA} is damaged ({type(error).__name__}: {error}). Export the run "
            "again."
        ) from error


def _shot_groups_of(
    metadata: dict[str, Any], labels: tuple[str, ...]
) -> dict[str, tuple[str, ...]]:
    """Class names by group.

    Raises:
        ValueError: where they are not as written.
    """
    groups = metadata.get("shot_groups", {})
    if not isinstance(groups, dict) or not all(isinstance(each, list) for each in groups.values()):
        raise ValueError("shot_groups are not lists of classes")
    places = range(len(labels))
    if any(type(place) is not int or place not in places for of in groups.values() for place in of):
        raise ValueError("a shot group has a class that is not in labels")
    return {group: tuple(labels[place] for place in of) for group, of in groups.items()}


def _resizing_of_run(config: Path, folder: Path) -> dict[str, Any]:
    from candle_tf.data.images.store import store_side

    try:
        settings = read_json_object(config, "Restore it.")
        resize = str(settings["resize"])
        sides = settings["image_size"], tuple(settings["calibration_resolutions"])
    except (UserError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / METADATA} was written before version 0.2 and does not say how images are "
            f"resized, and the run's {config} cannot be read ({error}): export the run again."
        ) from error
    return {"stored_side": store_side(*sides, resize), "resize": resize}


def _open_tflite(path: Path, runtime: str, metadata: dict[str, Any]) -> Interpreter:
    if not path.is_file():
        raise UserError(f"{path} does not exist; export the run again, or give another --runtime.")
    entry = metadata["files"].get(path.name)
    expected = entry.get("sha256") if isinstance(entry, dict) else None
    if expected != sha256_of_file(path):
        raise UserError(
            f"{path} is not the file that {path.parent / METADATA} describes (SHA-256 differs): "
            "restore it or export the run again."
        )
    opener = open_compute_engine if runtime == "lce" else open_litert
    return opener(path.read_bytes(), str(path))


def _scores_of_interpreter(interpreter: Interpreter) -> Callable[[np.ndarray], np.ndarray]:
    def scores(pixels: np.ndarray) -> np.ndarray:
        logits = np.concatenate([interpreter(pixels[i : i + 1]) for i in range(len(pixels))])
        return softmax(logits).astype(np.float32)

    return scores


def _open_saved_model(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    import tensorflow as tf

    try:
        loaded = tf.saved_model.load(str(folder))
        signature = loaded.signatures["pixels"]
    except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
        raise UserError(f"{folder} cannot be loaded ({error}): export the run again.") from error

    def scores(pixels: np.ndarray) -> np.ndarray:
        assert loaded is not None  # the signature does not keep its variables alive
        return signature(pixels=tf.constant(pixels))["scores"].numpy()

    return scores
