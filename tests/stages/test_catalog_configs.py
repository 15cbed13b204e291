"""Each config of the catalog on stand-in images: opened, split, decoded, trained two steps on.

Two steps of a small student; one config goes through calibration and distillation too.
"""

import dataclasses
import functools
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from PIL import Image

import candle_tf
from candle_tf import app
from candle_tf.config import Config
from candle_tf.data.catalog import CATALOG, Entry
from candle_tf.data.pipeline import training_batches
from candle_tf.data.splits.longtail import profile_counts
from candle_tf.methods.baselines import SupervisedTrainer
from candle_tf.methods.optimizers import adam
from candle_tf.methods.parameter_groups import ParameterGroup
from candle_tf.methods.registry import METHODS
from candle_tf.run_folder import open_run_folder
from candle_tf.stages.calibrate import calibrate
from candle_tf.stages.prepare import Data, prepare
from candle_tf.stages.split import draw_split, open_data
from candle_tf.stages.student_views import student_augmentation
from candle_tf.stages.train import train_student
from candle_tf.students.architectures.registry import build_student
from candle_tf.students.compute_policy import resolve_compute_policy

ROOT = Path(candle_tf.__file__).parents[1]
SHARED = ROOT / "../shared/data"
# What a run of minutes or days becomes one of seconds by; the data flags stay as they are.
SMALL = {
    "width": 0.125,
    "image_size": 32,
    "calibration_resolutions": 32,
    "calibration_epochs": 1,
    "calibration_batch_size": 8,
    "batch_size": 8,
    "epochs": 1,
    "views": 1,
    "validation_fraction": 0,
    "select_epoch": "last",
    "store": "disk",
}


@functools.cache
def image(height: int, channels: int, form: str) -> bytes:
    """One image, encoded: what is in it is no matter here."""
    noise = np.random.default_rng(0).integers(0, 256, (height, 32, channels), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise.squeeze()).save(buffer, form)
    return buffer.getvalue()


def counts_of(entry: Entry) -> np.ndarray:
    """Training images of each class of the stand-in."""
    counts = np.full(entry.classes, max(1, min(20, 400 // entry.classes)))
    if entry.profile == "natural":
        counts[:3] += (9, 5, 2)
    return counts


def stand_in(entry: Entry, folder: Path) -> dict[str, str]:
    """Images of the row's kind, and the data flags to open them by."""
    if entry.source == "folder":
        return {"data_dir": str(zip_of(entry, folder / "images.zip"))}
    if entry.source == "list":
        return lists_of(entry, folder)
    return {"data_dir": tfds_of(entry, folder)}


def zip_of(entry: Entry, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for label, count in enumerate(counts_of(entry)):
            data = image(24, 3, "JPEG")
            for i in range(count):
                archive.writestr(f"train/class {label:03d}/{i}.jpg", data)
            archive.writestr(f"test/class {label:03d}/0.jpg", data)
    return path


def lists_of(entry: Entry, folder: Path) -> dict[str, str]:
    lines: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for label, count in enumerate(counts_of(entry)):
            numbers = {"train": count, "validation": 1, "test": 1}
            for part, number in numbers.items():
                for i in range(number):
                    name = f"{part}/n{label:04d}/{i}.jpg"
                    archive.writestr(name, image(24, 3, "JPEG"))
                    lines[part].append(f"{name} {label}")
    for part, rows in lines.items():
        (folder / f"{part}.txt").write_text("\n".join(rows) + "\n")
    named = {f"{part}_list": str(folder / f"{part}.txt") for part in lines}
    return {"data_dir": str(folder / "images.zip"), **named}


def tfds_of(entry: Entry, folder: Path) -> str:
    """The real builder with its real features, preparing stand-in images."""
    import tensorflow_datasets as tfds

    builder = tfds.builder(
        entry.source.removeprefix("tfds:"), data_dir=folder, file_format="array_record"
    )

    def example(number: int, label: int) -> dict:
        values = {}
        for name, feature in builder.info.features.items():
            if isinstance(feature, tfds.features.ClassLabel):
                values[name] = label if name == "label" else 0
            elif isinstance(feature, tfds.features.Image):
                height, _, channels = feature.shape
                values[name] = io.BytesIO(image(height or 24, channels, "PNG"))
            elif isinstance(feature, tfds.features.BBoxFeature):
                values[name] = tfds.features.BBox(0.0, 0.0, 1.0, 1.0)
            elif isinstance(feature, tfds.features.Sequence):
                values[name] = []
            else:
                values[name] = f"image_{number:05d}"
        return values

    def generate(counts):
        labels = np.repeat(np.arange(entry.classes), counts)
        return ((i, example(i, int(label))) for i, label in enumerate(labels))

    test = "validation" if entry.name == "inaturalist2018" else "test"
    tested = np.ones(entry.classes, int)
    tested[200:] = 0
    builder._split_generators = lambda _: {
        "train": generate(counts_of(entry)),
        test: generate(tested),
    }
    builder.download_and_prepare()
    return str(folder)


def config_of(entry: Entry, run_dir: Path, **changes: object) -> Config:
    values = flags.FlagValues()
    app.define_config_flags(values)
    settings = {**SMALL, "run_dir": run_dir, **changes}
    arguments = [f"--{name}={value}" for name, value in settings.items()]
    values(["train", f"--flagfile={ROOT / entry.config}", *arguments])
    return app.config_from_flags(values)


@pytest.fixture(scope="module")
def encoder() -> tf.keras.Model:
    """A small binary student; building one takes longer than all else here, so there is one."""
    student = build_student("birealnet18", (32, 32, 3), 2, width=0.125, stem_stride=1)
    return tf.keras.Model(student.input, student.output["features"])


@pytest.fixture
def eagerly():
    """Two steps are sooner done than a graph of them is made."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def first(data: Data, number: int) -> Data:
    """The same data with the first training images alone."""
    few = dataclasses.replace(
        data.train, rows=data.train.rows[:number], labels=data.train.labels[:number]
    )
    return dataclasses.replace(data, train=few)


def two_steps(config: Config, data: Data, encoder: tf.keras.Model) -> None:
    """Two steps of the student's training on batches of the config's own views."""
    logits = tf.keras.layers.Dense(data.classes, name="logits")(encoder.output)
    student = tf.keras.Model(encoder.input, {"features": encoder.output, "logits": logits})
    group = ParameterGroup(student.trainable_variables, adam(1e-3))
    trainer = SupervisedTrainer(student, METHODS["cross_entropy"], data.counts, [group])
    batches = training_batches(
        first(data, 16).train,
        image_size=config.student.image_size,
        augmentation=student_augmentation(config),
        batch_size=config.training.batch_size,
        seed=config.run.seed,
        first_epoch=0,
        epochs=1,
    )
    before = student.get_layer("logits").kernel.numpy()
    steps = [trainer.train_step(batch) for batch in batches]
    assert len(steps) == 2
    # Untrained, so not far from a guess among all classes.
    assert 0 < float(steps[0]["objective"]) < 3 * np.log(data.classes) + 3
    after = student.get_layer("logits").kernel.numpy()
    assert np.isfinite(after).all()
    assert np.abs(after - before).max() > 0


def check_split(entry: Entry, data: Data, available: np.ndarray) -> None:
    expected = profile_counts(
        entry.profile, available, entry.imbalance_factor, by_index=entry.selection == "ldam"
    )
    assert data.counts.tolist() == expected.tolist()
    assert data.split.selection == entry.selection
    if entry.selection == "ldam":
        assert originals(data) == ldam_originals(available, expected)


def originals(data: Data) -> set[int]:
    """Numbers that the training images had before TFDS mixed them."""
    return {int(image_id.split("/")[1].removeprefix("image_")) for image_id in data.split.train.ids}


def ldam_originals(available: np.ndarray, counts: np.ndarray) -> set[int]:
    """What LDAM-DRW's procedure takes of images that lie class by class in their original."""
    legacy = np.random.RandomState(0)
    chosen: set[int] = set()
    for start, number, count in zip(
        np.cumsum(available) - available, available, counts, strict=True
    ):
        members = np.arange(start, start + number)
        legacy.shuffle(members)
        chosen |= set(members[:count].tolist())
    return chosen


@pytest.mark.parametrize("name", CATALOG)
@pytest.mark.usefixtures("eagerly")
def test_a_config_runs_on_stand_in_images(tmp_path, name, encoder):
    entry = CATALOG[name]
    config = config_of(entry, tmp_path / "run", **stand_in(entry, tmp_path))
    data = prepare(config, open_run_folder(config))
    assert data.classes == entry.classes
    check_split(entry, data, counts_of(entry))
    if entry.source == "list":
        assert len(data.test) == entry.classes
    two_steps(config, data, encoder)


@pytest.mark.usefixtures("eagerly")
def test_a_config_calibrates_and_distills_as_it_says(tmp_path):
    """The method and calibration loss of the file, on few images of few pixels."""
    entry = CATALOG["fruits"]
    more = {"method": "candle", "student": "birealnet18", **stand_in(entry, tmp_path)}
    config = config_of(entry, tmp_path / "run", **more)
    data = first(prepare(config, open_run_folder(config)), 16)
    calibrated = calibrate(config, data, tmp_path / "run" / "calibrate")
    policy = resolve_compute_policy(config.compute.precision, config.compute.xla)
    trained = train_student(
        config, data, calibrated.targets, tmp_path / "run" / "student", policy, calibrated
    )
    assert trained.student.output_shape["logits"] == (None, entry.classes)
    for weight in trained.student.weights:
        assert np.isfinite(weight.numpy()).all(), weight.name


@pytest.mark.parametrize(
    ("name", "file"),
    [("caltech101", "caltech101.zip"), ("cifar100_lt10", "cifar100_lt10.zip")],
)
@pytest.mark.usefixtures("eagerly")
def test_a_config_runs_on_the_shared_images(tmp_path, name, file, encoder):
    path = (SHARED / file).resolve()
    if not path.exists():
        pytest.skip(f"{path.name} is not at hand")
    entry = CATALOG[name]
    held = list(json.loads(path.with_suffix(".counts.json").read_text())["train"].values())
    # The shared CIFAR-100 is LDAM-DRW's by the first-n rule: rank is part of the file's name.
    more = {"selection": "first"} if entry.selection == "ldam" else {}
    config = config_of(entry, tmp_path / "run", data_dir=path, **more)
    data = prepare(config, open_run_folder(config))
    check_counts(entry, data.counts, held)
    two_steps(config, data, encoder)


def test_a_larger_imbalance_takes_the_published_number_of_the_same_images(tmp_path):
    """Of the images of the case above with imbalance factor 10: none has to be decoded."""
    path = (SHARED / "cifar100_lt10.zip").resolve()
    if not path.exists():
        pytest.skip(f"{path.name} is not at hand")
    entry = CATALOG["cifar100_lt100"]
    config = config_of(entry, tmp_path / "run", data_dir=path, selection="first")
    with open_data(config) as source:
        split = draw_split(config, source)
    held = list(json.loads(path.with_suffix(".counts.json").read_text())["train"].values())
    check_counts(entry, split.train_counts, held)


def check_counts(entry: Entry, counts: np.ndarray, held: list[int]) -> None:
    expected = profile_counts("exponential", np.array(held), entry.imbalance_factor)
    assert counts.tolist() == expected.tolist()
    if entry.training_total:
        assert counts.sum() == entry.training_total
