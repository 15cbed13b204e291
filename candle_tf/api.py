"""candle_tf from Python: train, load, predict, evaluate.

    import candle_tf

    model = candle_tf.train(data_dir="flowers.zip", run_dir="runs/flowers")
    model = candle_tf.load("runs/flowers")                     # the same, later
    model.predict(["rose.jpg", "photos/"])[0].classes          # the most likely class first
    model.evaluate("folder", data_dir="more_flowers.zip").mean # accuracy, mean over classes

All of it is what the command line does, by the same names; what is wrong with settings, files or
images is a `UserError`.
"""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from absl import logging
from PIL import Image

from candle_tf.data.catalog import kind_of
from candle_tf.data.images.decode import convert_image
from candle_tf.data.settings import LISTED, ON_BAD_IMAGE
from candle_tf.data.sources.image_files import open_image_files
from candle_tf.data.sources.registry import open_source
from candle_tf.data.sources.source import Source
from candle_tf.deploy.exported_student import ExportedStudent, find_export, load_exported
from candle_tf.deploy.reported_export import find_run
from candle_tf.errors import UserError
from candle_tf.files import expand_home
from candle_tf.metrics import Metrics, evaluate_logits
from candle_tf.progress import Progress
from candle_tf.reporting.results import Results, read_results, read_shot_groups
from candle_tf.reporting.table import percent
from candle_tf.runtime_messages import drop_harmless_warnings
from candle_tf.stages.data_paths import require_data_paths
from candle_tf.stages.given_settings import config_of
from candle_tf.stages.predict import BATCH_SIZE, Prediction, classify, predict
from candle_tf.stages.seen_images import warn_of_seen_images

# One image: a path, which may be of many, an array as decoded, or Pillow's.
_Path: TypeAlias = str | Path
_Pixels: TypeAlias = np.ndarray | Image.Image
# Of a decoded image.
_DIMENSIONS = 3
# Key of a model in the report, by its runtime.
_REPORTED = {"lce": "tflite", "float": "tflite_float", "saved_model": "student"}


@dataclass(frozen=True, repr=False)
class Model:
    """An exported student, and the report of its run where there is one.

    One that was loaded can be pickled, for multiprocessing and joblib: it is loaded again from its
    path. Several threads may use one; the interpreter runs the images of one at a time.

    Attributes:
        student: what classifies.
        results: every figure of the run; None for what was loaded as an export.
        run_dir: folder of the run, also of an export that is still in it; None for others.
        loaded_from: path and runtime as `load` was given them; None for others.
    """

    student: ExportedStudent
    results: Results | None = None
    run_dir: Path | None = None
    loaded_from: tuple[Path, str] | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        """What was loaded, and how good its run says it is."""
        told = [self.student.source, f"runtime {self.student.runtime}"]
        told.append(f"{len(self.labels)} classes")
        metrics = self.results.metrics if self.results else {}
        if found := metrics.get(_REPORTED[self.student.runtime]):
            told.append(f"mean accuracy {percent(found.mean)} %")
        return f"Model({', '.join(told)})"

    def __reduce__(self) -> tuple[Callable[..., "Model"], tuple[Any, ...]]:
        """To be pickled: a loaded student holds an interpreter, which cannot be."""
        if self.loaded_from is not None:
            return load, self.loaded_from
        return Model, (self.student, self.results, self.run_dir)

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the scores."""
        return self.student.labels

    @cached_property
    def keras_model(self) -> Any:
        """The trained student as a Keras 2 model, built from the run's checkpoint.

        From pixels, float32 `[N, S, S, 3]` in 0..255 as `student.preprocess` returns them, to a
        dictionary of "features" `[N, d]` and "logits" `[N, C]`.

        Raises:
            UserError: for an export without its run, which has no checkpoint; for a run with
                plugins that are not imported yet; for one that was continued after its report,
                and is not finished.
        """
        if self.results is None or self.run_dir is None:
            raise UserError(
                "This is an export without its run, whose checkpoint a Keras model is built from: "
                "give load() the run's folder."
            )
        from candle_tf.stages.trained_student import load_trained_student

        with drop_harmless_warnings():
            return load_trained_student(self.run_dir, self.results.selected_epoch)

    @cached_property
    def shot_groups(self) -> Mapping[str, Sequence[str]]:
        """Class names by how many images of them were trained on: "many", "medium" and "few".

        They are the report's, or else the export's. An export that was written before it held
        them has none, unless its run is known.

        Raises:
            UserError: where the run's report is read for them and is damaged.
        """
        if self.results is not None:
            return self.results.split["groups"]
        if self.student.shot_groups or self.run_dir is None:
            return self.student.shot_groups
        return read_shot_groups(self.run_dir / "report.json")

    def predict(
        self,
        images: _Path | _Pixels | Iterable[_Path] | Iterable[_Pixels],
        top: int = 5,
    ) -> list[Prediction]:
        """Classifies images.

        Args:
            images: paths of image files, folders and archives; or decoded images, uint8 [H, W, 3]
                each (of one size: [N, H, W, 3]), or Pillow's, which give what their files give; or
                one of these.
            top: classes of each image, the most likely first; at least 1.

        Returns:
            One prediction for each image, in order; of no images none. A file that is no readable
            image is one with an `error`; files in folders and archives without an image's extension
            are left out, with a warning.

        Raises:
            UserError: for paths that are empty, too long or do not exist, arrays of another shape
                or type, and what is neither; for a `top` that is no whole number from 1 up.
        """
        top = _require_count(top)
        given = _as_list(images)
        arrays = [image for image in given if isinstance(image, np.ndarray | Image.Image)]
        if arrays and len(arrays) == len(given):
            return self._predict_arrays(arrays, top)
        paths = [image for image in given if isinstance(image, str | Path)]
        if len(paths) < len(given):
            kinds = sorted({type(image).__name__ for image in given})
            raise UserError(
                f"predict() was given {', '.join(kinds)}: give paths of images, or decoded images "
                "as uint8 NumPy arrays [H, W, 3] or of Pillow, and not both."
            )
        if not paths:
            return []
        with open_image_files(paths) as files:
            return list(predict(self.student, files, top))

    def _predict_arrays(self, images: Sequence[_Pixels], top: int) -> list[Prediction]:
        names = [f"image {number}" for number in range(len(images))]
        inputs = [
            self.student.preprocess(
                convert_image(image, name) if isinstance(image, Image.Image) else image
            )
            for name, image in zip(names, images, strict=True)
        ]
        batches = range(0, len(images), BATCH_SIZE)
        found = [
            classify(self.student, names[i : i + BATCH_SIZE], inputs[i : i + BATCH_SIZE], top)
            for i in batches
        ]
        return [prediction for batch in found for prediction in batch]

    def evaluate(
        self,
        dataset: str = "folder",
        data_dir: str | Path = "",
        on_bad_image: str = "stop",
        **source: str | Path,
    ) -> Metrics:
        """Accuracy on labelled images: per class, with precision and F1, by shot group, top-5,
        calibration.

        Not all classes need images: those without are not measured. In a list, whole numbers are
        indices of the student's classes. A warning tells of images that the run learned from.

        Args:
            dataset: as --dataset. The test subset is measured; where the data has none, validation,
                or else all.
            data_dir: as --data_dir.
            on_bad_image: "stop" at an image that cannot be read, or "skip" it with a warning.
            **source: other flags of the data by name; `test_list` alone will do for lists and
                for annotations of COCO.

        Raises:
            UserError: for what is neither text nor a path, data that cannot be used, a flag that
                data do not have, an image that cannot be read where that is not to be skipped, no
                image that can, and a class that the student does not know.
        """
        if on_bad_image not in ON_BAD_IMAGE:
            raise UserError(
                f"on_bad_image={on_bad_image} is not known; it is {' or '.join(ON_BAD_IMAGE)}."
            )
        for name, value in {"dataset": dataset, "data_dir": data_dir, **source}.items():
            if not isinstance(value, str | Path):
                raise UserError(f"{name}={value!r} is neither text nor a path: give one of these.")
        dataset, place = str(dataset), str(data_dir)
        given = {name: str(value) for name, value in source.items()}
        kind = kind_of(dataset, place, given.get("train_list") or given.get("test_list", ""))
        if kind in LISTED and not given.get("train_list"):
            if not given.get("test_list"):
                raise UserError(
                    f"The data set {dataset!r} needs --test_list, the file that names the images "
                    "to measure and their classes, beside --data_dir."
                )
            given = {**given, "train_list": given["test_list"], "test_list": ""}
        with open_source(kind, place, known_classes=self.labels, **given) as data:
            subset = data.test or data.train
            if self.run_dir is not None:
                warn_of_seen_images(self.run_dir, data, subset.ids)
            ids = np.asarray(self._ids_of(data))[subset.labels]
            scores, measured = self._scores_of(data, subset.ids, on_bad_image == "skip")
        logits = np.log(np.maximum(scores, np.finfo(np.float32).tiny))
        return evaluate_logits(logits, ids[measured], self._groups(), self.labels)

    def _scores_of(
        self, data: Source, ids: Sequence[str], skips: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores of the images that can be read, and their places among all."""
        scores, measured, bad = [], [], []
        progress = Progress("evaluate", len(ids))
        for start in range(0, len(ids), BATCH_SIZE):
            batch = []
            for place, image in enumerate(ids[start : start + BATCH_SIZE], start):
                try:
                    batch.append(data.read_image(image))
                    measured.append(place)
                except UserError as error:
                    if not skips:
                        raise
                    bad.append(str(error))
            scores.append(self.student.scores(batch))
            progress.advance(min(BATCH_SIZE, len(ids) - start))
        progress.close()
        if bad:
            logging.warning("%d images were left out, such as: %s", len(bad), bad[0])
        if not measured:
            raise UserError(f"None of {len(ids)} images can be read, such as: {bad[0]}")
        return np.concatenate(scores), np.array(measured)

    def _ids_of(self, data: Source) -> list[int]:
        numbers = {name: number for number, name in enumerate(self.labels)}
        unknown = [name for name in data.class_names if name not in numbers]
        if unknown:
            raise UserError(
                f"The data has the class {unknown[0]!r}, which {self.student.source} does not "
                f"know; its classes are {', '.join(self.labels[:10])}"
                f"{', ...' if len(self.labels) > 10 else ''}."
            )
        return [numbers[name] for name in data.class_names]

    def _groups(self) -> dict[str, np.ndarray]:
        numbers = {name: number for number, name in enumerate(self.labels)}
        return {
            group: np.array([numbers[name] for name in names if name in numbers], int)
            for group, names in self.shot_groups.items()
        }


def load(path: str | Path, runtime: str = "auto") -> Model:
    """Loads a finished run, or an export of one.

    Args:
        path: a run's folder, its export, or one file of that.
        runtime: "lce", "float" (the float32 reference model), "saved_model", or "auto": what `path`
            names, else the engine.

    Raises:
        UserError: where there is none, or it is damaged.
    """
    with drop_harmless_warnings():
        student = load_exported(path, runtime)
    given = Path(expand_home(str(path)))
    loaded_from = given.absolute(), runtime
    report = given / "report.json"
    if report.exists():
        return Model(student, read_results(report), given, loaded_from)
    export, _ = find_export(given)
    return Model(student, run_dir=find_run(export), loaded_from=loaded_from)


def train(*, config: str | Path | None = None, **settings: Any) -> Model:
    """Runs everything: calibration, training, evaluation, export and report.

    The same call resumes a stopped run, and gives a finished one back. It tells its stages and how
    far it is in absl's log: `absl.logging.set_verbosity(absl.logging.INFO)` shows them.

    Args:
        config: a run's config.json to begin from; settings given beside it win.
        **settings: flags of `python -m candle_tf.train` by name, e.g. `dataset="folder"`,
            `data_dir="flowers.zip"`, `run_dir="runs/flowers"`, `epochs=25`. As there, a data set
            of the catalog brings settings of its own, and what is given wins.

    Returns:
        The exported student with the run's report.

    Raises:
        UserError: for settings and data that cannot be used, a call without any setting, and for
            an export that a check refuses, after the run was reported.
    """
    if not settings and not config:
        # As the command line, which shows its help: this would train on digits, in runs/run.
        raise UserError(
            'train() was given no setting: give dataset="digits", data_dir="images.zip" or what '
            "else names the images, or config= with the path of a run's config.json."
        )
    chosen = config_of(_as_json(settings), "The call of train()", str(config or ""))
    if chosen.student.export_student == "off":
        raise UserError(
            "export_student='off' leaves nothing that train() could give back: leave it out, or "
            "run python -m candle_tf.train, whose report.json holds the figures."
        )
    require_data_paths(chosen)
    with drop_harmless_warnings():
        from candle_tf.stages.run import require_export, run

        folder, results = run(chosen)
    require_export(results)
    return load(folder.path)


def _require_count(top: Any) -> int:
    try:
        count = operator.index(top)
    except TypeError as error:
        raise UserError(
            f"top={top!r} is no whole number: give how many classes of each image."
        ) from error
    if count < 1:
        raise UserError(f"top={top} is less than 1: give how many classes of each image.")
    return count


def _as_list(images: Any) -> list[Any]:
    """What was given as images, one by one; what holds none is itself one, to be refused."""
    is_one = isinstance(images, np.ndarray) and _is_one_image(images)
    if is_one or isinstance(images, str | bytes | Path) or not isinstance(images, Iterable):
        return [images]
    return list(images)


def _is_one_image(array: np.ndarray) -> bool:
    """Whether an array can be no list of images or of paths."""
    return array.dtype.kind not in "OSU" and array.ndim <= _DIMENSIONS and array.shape != (0,)


def _as_json(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as a config.json has them: paths as text, tuples as lists, NumPy's as Python's."""
    return {name: _plain(value) for name, value in settings.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
