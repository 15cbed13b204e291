"""Whole runs as a user starts them: finished, killed and resumed, repeated, refused."""

import csv
import hashlib
import json
import shutil
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from candle_tf.config import Config
from candle_tf.data.pipeline import evaluation_batches
from candle_tf.data.splits.split import load_split
from candle_tf.deploy.tflite.converter import run, run_litert
from candle_tf.methods.class_accuracy import mean_class_accuracy
from candle_tf.methods.prior_correction import held_out_log_predictions
from candle_tf.reporting.image_predictions import read_image_predictions
from candle_tf.reporting.results import Results, read_results
from candle_tf.run_folder import RunFolder, open_run_folder
from candle_tf.stages.calibrate import calibrate
from candle_tf.stages.disk_space import disk_needs
from candle_tf.stages.earlier_run import EarlierRun
from candle_tf.stages.prepare import prepare
from candle_tf.stages.run import _keep_default_epochs, _keep_precision
from candle_tf.stages.split import open_data
from candle_tf.stages.train import train_student
from candle_tf.students.compute_policy import (
    DTYPES,
    PLAIN,
    ComputePolicy,
    resolve_compute_policy,
)
from candle_tf.teachers.backbones import load_teacher
from tests.command import Command, start

SMALL = {
    "dataset": "digits",
    "imbalance_factor": 5,
    "image_size": 16,
    "stem_stride": 1,
    "plugin": "tests.tiny_parts",
    "student": "tiny_student",
    "augmentation": "pad_crop",
    "calibration_resolutions": (32,),
    "calibration_epochs": 3,
    "batch_size": 64,
    # By validation two runs of other lengths could select the same epoch, which is exported once.
    "select_epoch": "last",
}
EPOCHS = 5


def _run(run_dir: Path, **settings: object) -> subprocess.CompletedProcess[str]:
    flags = [
        f"--{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
        for name, value in {**SMALL, "epochs": EPOCHS, "run_dir": run_dir, **settings}.items()
    ]
    return start("candle_tf.train", *flags)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that nothing interrupted, and what it printed."""
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    process = _run(run_dir)
    assert process.returncode == 0, process.stderr[-3000:]
    # A run's plugin is imported by whoever reads its settings.
    import tests.tiny_parts  # noqa: F401

    return run_dir, process.stdout


def _figures(run_dir: Path) -> Results:
    return read_results(run_dir / "report.json")


def _table(output: str) -> str:
    return output[output.index("\nmodel") :].split("\n\n")[0]


def test_prints_teacher_student_and_file_with_the_folder(finished):
    run_dir, output = finished
    for words in ("teacher", "student in Keras", "student as LCE file", "many", "few", "size"):
        assert words in output
    assert str(run_dir) in output


def test_leaves_everything_that_is_promised(finished):
    run_dir, _ = finished
    for name in (
        "config.json",
        "split.json",
        "manifest.json",
        "report.json",
        "report.html",
        "calibrate/history.csv",
        "student/history.csv",
        "student/steps.csv",
        "student/checkpoints/progress.json",
        "export/student.lce.tflite",
        "export/student.float.tflite",
        "export/teacher.int8.tflite",
        "test_predictions.csv",
        "validation_predictions.csv",
        "export/student.json",
        "export/saved_model/1/saved_model.pb",
    ):
        assert (run_dir / name).stat().st_size > 0, name
    assert list(run_dir.glob("student/tensorboard/**/events.out.tfevents.*"))
    assert Config.from_json(run_dir / "config.json").data.imbalance_factor == 5


@pytest.mark.parametrize("kept", ["float32", "bfloat16"])
def test_a_student_that_has_begun_keeps_its_precision(tmp_path, kept):
    config, folder = Config(dataset="digits"), RunFolder(tmp_path)
    policies = {dtype: ComputePolicy(native=True, dtype=dtype) for dtype in DTYPES}
    folder.record("data", [], precision=kept)
    for policy in policies.values():
        assert _keep_precision(config, folder, policy) == policy
    (tmp_path / "student" / "checkpoints").mkdir(parents=True)
    (tmp_path / "student" / "checkpoints" / "progress.json").write_text("{}")
    named = config.replace(precision="float32")
    for policy in policies.values():
        assert _keep_precision(config, folder, policy) == policies[kept]
        assert _keep_precision(named, folder, policy) == policy
    assert _keep_precision(config, folder, PLAIN) == PLAIN


def test_a_student_that_has_begun_keeps_what_no_epochs_stand_for(tmp_path):
    config, folder = Config(dataset="digits"), RunFolder(tmp_path)
    assert _keep_default_epochs(config, 100, folder) == 2000
    (tmp_path / "student" / "checkpoints").mkdir(parents=True)
    (tmp_path / "student" / "checkpoints" / "progress.json").write_text("{}")
    # Versions that did not record it divided 128,000 by all images.
    assert _keep_default_epochs(config, 100, folder) == 1280
    folder.record("data", [], default_epochs="1999")
    assert _keep_default_epochs(config, 100, folder) == 1999


def test_a_run_records_what_no_epochs_stand_for(finished):
    run_dir, _ = finished
    config = Config.from_json(run_dir / "config.json")
    images = config.images_in_epoch(read_results(run_dir / "report.json").split["train"])
    recorded = json.loads((run_dir / "manifest.json").read_text())["default_epochs"]
    assert int(recorded) == max(100, -(-128_000 // images))


def test_predictions_on_validation_images_are_those_of_the_selected_epoch(finished):
    """Corrected for preferred classes, each image by what is predicted of the others."""
    run_dir, _ = finished
    told = read_image_predictions(run_dir / "validation_predictions.csv")
    assert told.images == load_split(run_dir / "split.json").validation.ids
    config = Config.from_json(run_dir / "config.json")
    data = prepare(config, RunFolder(run_dir))
    selected = read_results(run_dir / "report.json").selected_epoch
    trained = EarlierRun(run_dir, "the run").load_network(epoch=selected)
    batches_of = partial(evaluation_batches, image_size=config.student.image_size)
    each = [trained(batch["inputs"])["logits"] for batch in batches_of(data.validation)]
    logits = np.concatenate(each)
    labels = data.validation.labels
    history = csv.DictReader((run_dir / "student" / "history.csv").open())
    scores = [float(row["val_mean_class_accuracy"]) for row in history]
    assert mean_class_accuracy(labels, logits.argmax(axis=1)) == pytest.approx(
        scores[selected - 1], abs=1e-6
    )
    outputs = [trained(batch["inputs"])["logits"] for batch in batches_of(data.train)]
    logs = held_out_log_predictions(logits, labels, np.concatenate(outputs), data.train.labels)
    corrected = logits - float(config.balance.prior_correction) * logs
    expected = [data.split.class_names[c] for c in corrected.argmax(axis=1)]
    assert list(told.predicted["student"]) == expected


def test_tensorboard_shows_images_accuracies_and_hyper_parameters(finished):
    run_dir, _ = finished
    board = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"tensors": 0})
    board.Reload()
    images = {tag: board.Tensors(tag)[0].tensor_proto.string_val for tag in (
        "training views", "confusion", "mistakes of the highest confidence"
    )}  # fmt: skip
    # Width and height come before the images.
    assert images["training views"][:2] == [b"16", b"16"]
    assert len(images["training views"]) == 2 + 16
    for values in images.values():
        assert tf.image.decode_png(values[2]).shape[-1] == 3
    figures = _figures(run_dir)
    for model, metrics in figures.metrics.items():
        (event,) = board.Tensors(f"test accuracy mean/{model}")
        assert tf.make_ndarray(event.tensor_proto) == pytest.approx(metrics.mean, abs=1e-6)
    content = board.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    started = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    assert started.hparams["batch_size"].number_value == SMALL["batch_size"]
    assert started.hparams["method"].string_value == "candle"
    assert "run_dir" not in started.hparams


def test_the_room_that_was_asked_for_before_training_is_enough(finished, tmp_path):
    run_dir, _ = finished
    config = Config.from_json(str(run_dir / "config.json"))
    needs = disk_needs(config, config.student.build(10), RunFolder(tmp_path))
    teacher = load_teacher("efficientnet_lite0").encoder.count_params()
    parts = needs.with_teacher(teacher, 1280).parts

    def size(pattern: str) -> int:
        return sum(path.stat().st_size for path in run_dir.glob(pattern) if path.is_file())

    # One more checkpoint is there while the next one is written.
    assert 1.5 * size("student/checkpoints/epoch-*") <= parts["checkpoints"]
    int8 = size("export/teacher.int8.tflite")
    assert 0 < int8 <= parts["the teacher's int8 file"] < 6 * int8
    assert 0 < size("export/**/*") - int8 <= parts["export"]


def test_the_exported_file_is_smaller_and_as_accurate_as_measured(finished):
    run_dir, _ = finished
    figures = _figures(run_dir)
    path = run_dir / "export" / "student.lce.tflite"
    assert figures.bytes["tflite"] == path.stat().st_size < figures.bytes["student"] / 10
    config = Config.from_json(run_dir / "config.json")
    data = prepare(config, open_run_folder(config))
    batches = evaluation_batches(data.test, image_size=config.student.image_size)
    pixels = np.concatenate([batch["inputs"].numpy() for batch in batches])
    predicted = run(path.read_bytes(), pixels, kernel="reference").argmax(axis=1)
    hits = predicted == data.test.labels
    mean = np.mean([hits[data.test.labels == c].mean() for c in range(data.classes)])
    assert figures.metrics["tflite"].mean == pytest.approx(mean, abs=0.01)
    described = json.loads((run_dir / "export" / "student.json").read_text())
    file = described["files"][path.name]
    assert file["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    accuracy = {"mean": figures.metrics["tflite"].mean, **figures.metrics["tflite"].groups}
    assert file["accuracy"] == accuracy
    assert described["labels"] == list(data.split.class_names)


def test_the_teachers_int8_file_is_as_accurate_as_measured(finished):
    run_dir, output = finished
    figures = _figures(run_dir)
    path = run_dir / "export" / "teacher.int8.tflite"
    assert figures.bytes["teacher_int8"] == path.stat().st_size < figures.bytes["teacher"] / 3
    config = Config.from_json(run_dir / "config.json")
    data = prepare(config, open_run_folder(config))
    (side,) = config.calibration.calibration_resolutions
    batches = evaluation_batches(data.test, image_size=side)
    pixels = np.concatenate([batch["inputs"].numpy() for batch in batches])
    hits = run_litert(path.read_bytes(), pixels).argmax(axis=1) == data.test.labels
    mean = np.mean([hits[data.test.labels == c].mean() for c in range(data.classes)])
    assert figures.metrics["teacher_int8"].mean == pytest.approx(mean, abs=1e-6)
    record = figures.export["teacher_int8"]
    assert record["resolution"] == side
    told = read_image_predictions(run_dir / "test_predictions.csv")
    names = np.array(data.split.class_names)
    predicted = names[run_litert(path.read_bytes(), pixels).argmax(axis=1)]
    same = predicted == np.array(told.predicted["teacher"])
    assert record["agreement"] == pytest.approx(same.mean(), abs=1e-9)
    assert "% mean class accuracy; beside its teacher in int8 (32 px, " in output
    card = (run_dir / "export" / "model_card.md").read_text()
    assert "What else could be shipped" in card


def test_a_finished_run_is_not_done_again(finished):
    run_dir, output = finished
    before = {path: path.stat().st_mtime_ns for path in (run_dir / "export").rglob("*.*")}
    checkpoint = run_dir / "student" / "checkpoints" / f"epoch-{EPOCHS:04d}.index"
    written = checkpoint.stat().st_mtime_ns
    again = _run(run_dir)
    assert again.returncode == 0, again.stderr[-3000:]
    assert _table(again.stdout) == _table(output)
    assert checkpoint.stat().st_mtime_ns == written
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [path.name for path in (run_dir / "export" / "saved_model").iterdir()] == ["1"]


def test_more_epochs_continue_a_finished_run(finished, tmp_path):
    whole, _ = finished
    run_dir = tmp_path / "longer"
    shutil.copytree(whole, run_dir)
    process = _run(run_dir, epochs=EPOCHS + 2)
    assert process.returncode == 0, process.stderr[-3000:]
    assert f"--epochs was {EPOCHS} and is now {EPOCHS + 2}" in process.stderr
    times = next(line for line in process.stderr.splitlines() if line.startswith("time: "))
    told = [stage.partition(":")[0] for stage in times.removeprefix("time: ").split(", ")]
    assert told == [
        "1/6 data",
        "2/6 calibrate the teacher",
        "3/6 train the student (candle)",
        "4/6 evaluate",
        "5/6 export",
        "5/6 export the teacher as int8",
        "6/6 report",
    ]
    figures = _figures(run_dir)
    assert (figures.last_epoch, figures.config["epochs"]) == (EPOCHS + 2, EPOCHS + 2)
    steps = [(run / "student/steps.csv").read_text().splitlines() for run in (whole, run_dir)]
    assert steps[1][: len(steps[0])] == steps[0]
    assert len(steps[1]) - 1 == (len(steps[0]) - 1) * (EPOCHS + 2) / EPOCHS
    # The export is of the new student, beside the old version.
    names = {path.name for path in (run_dir / "export" / "saved_model").iterdir()}
    assert names == {"1", "2"}
    assert figures.export["student"] != _figures(whole).export["student"]
    fewer = _run(run_dir)
    assert fewer.returncode == 2
    assert f"--epochs was {EPOCHS + 2} and is now {EPOCHS}" in fewer.stderr


def test_a_run_that_never_began_does_not_block_the_next(tmp_path):
    run_dir = tmp_path / "run"
    process = _run(run_dir, dataset="folder", profile="exponential", data_dir=tmp_path / "nowhere")
    assert process.returncode == 2
    assert "Traceback" not in process.stderr
    assert not run_dir.exists()


def test_other_settings_in_the_same_folder_are_refused(finished):
    run_dir, _ = finished
    process = _run(run_dir, learning_rate=0.001)
    assert process.returncode == 2
    assert "--learning_rate was 0.005 and is now 0.001" in process.stderr
    assert "Traceback" not in process.stderr


def test_a_damaged_checkpoint_is_named(finished):
    run_dir, _ = finished
    path = run_dir / "student" / "checkpoints" / f"epoch-{EPOCHS:04d}.data-00000-of-00001"
    whole = path.read_bytes()
    path.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
    try:
        process = _run(run_dir)
    finally:
        path.write_bytes(whole)
    assert process.returncode == 2
    assert str(path) in process.stderr
    assert "Traceback" not in process.stderr


def test_the_teacher_stays_as_it_was_through_both_stages(tmp_path):
    published = {"plugin": "", "student": "quicknet_small", "width": 0.125}
    config = Config(**{**SMALL, **published}, epochs=1, run_dir=str(tmp_path / "run"))
    folder = open_run_folder(config)
    data = prepare(config, folder)
    before = [weight.numpy() for weight in load_teacher(config.teacher.teacher).encoder.weights]
    calibrated = calibrate(config, data, folder.path / "calibrate")
    policy = resolve_compute_policy(config.compute.precision, config.compute.xla)
    train_student(config, data, calibrated.targets, folder.path / "student", policy, calibrated)
    after = [weight.numpy() for weight in calibrated.teacher.encoder.weights]
    assert len(before) == len(after) > 0
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    "path",
    sorted((Path(__file__).parents[2] / "configs").glob("*.cfg")),
    ids=lambda path: path.name,
)
def test_every_flagfile_is_accepted(path, tmp_path):
    """Down to the first thing only a user can give: the images."""
    process = start(
        "candle_tf.train", f"--flagfile={path}", "--dataset=folder", f"--data_dir={tmp_path}",
        "--run_dir=/dev/null/no",
    )  # fmt: skip
    assert process.returncode == 2
    assert "--run_dir=/dev/null/no cannot be written" in process.stderr


def test_corrections_are_compared_on_images_that_the_student_was_not_trained_on(finished):
    run_dir, _ = finished
    process = Command(
        "tools.compare_corrections", str(run_dir), "--plugin=tests.tiny_parts"
    ).result()
    assert process.returncode == 0, process.stderr[-3000:]
    lines = process.stdout.splitlines()
    rule = next(number for number, line in enumerate(lines) if line.startswith("---"))
    rows = [line.split() for line in lines[rule + 1 : rule + 4]]
    split = load_split(run_dir / "split.json")
    with open_data(Config.from_json(run_dir / "config.json")) as source:
        used = {image for part in split.subsets.values() for image in part.ids}
        labels = {
            image: source.class_names[label]
            for image, label in zip(source.train.ids, source.train.labels, strict=True)
            if image not in used
        }
    measured = set(labels.values())
    # Of the largest class no image is left out.
    (whole,) = set(source.class_names) - measured
    for row, images in zip(rows, ("none", "training", "validation"), strict=True):
        assert row[1:6] == [f"{len(labels):,}", str(len(measured)), "of", "10", images]
    assert lines[-1].endswith(f": {whole}.")
