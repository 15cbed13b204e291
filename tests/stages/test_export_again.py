"""The exports of a finished run that is continued: files are replaced, and a stop loses nothing."""

import candle_tf  # noqa: F401  (selects Keras 2 before TensorFlow is imported)

# isort: split
import errno
import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.config import Config
from candle_tf.deploy.checks.agreement import Agreement
from candle_tf.deploy.checks.errors import ExportError
from candle_tf.files import write_atomically
from candle_tf.run_folder import RunFolder, open_run_folder
from candle_tf.stages import export as export_module
from candle_tf.stages import export_teacher as teacher_module
from candle_tf.stages.export import export
from candle_tf.stages.export_teacher import export_teacher
from candle_tf.stages.export_tflite import METADATA_NAME, NAMES
from candle_tf.stages.run import writes_teacher

DATA = SimpleNamespace(
    split=SimpleNamespace(class_names=("a", "b")),
    test=SimpleNamespace(
        images=SimpleNamespace(array=np.zeros((1, 8, 8, 3), np.uint8), original_aspect=False)
    ),
)

AGREEMENT = Agreement(
    images=1,
    untouched_difference=0.0,
    median_difference=0.0,
    largest_difference=0.0,
    decided=1,
    disagreeing=0,
    argmax_agreement=1.0,
)


def network(epoch: int) -> tf.keras.Model:
    """Other weights in each epoch."""
    pixels = tf.keras.Input([4])
    bias = tf.keras.initializers.Constant(epoch)
    dense = tf.keras.layers.Dense(2, kernel_initializer="zeros", bias_initializer=bias)
    return tf.keras.Model(pixels, dense(pixels))


class Writers:
    """Writes the files of an export at once, without converting; stops before one of them."""

    def __init__(self) -> None:
        self.stop_before = ""
        self.error: BaseException = KeyboardInterrupt()
        self.converted = 0

    def write(self, path: Path, content: bytes) -> Path:
        if path.name == self.stop_before:
            raise self.error
        write_atomically(path, content)
        return path

    def tflite(self, student: tf.keras.Model, _data: Any, _evaluation: Any, folder: Path) -> Any:
        content = student.layers[-1].bias.numpy().tobytes()
        names = [*NAMES.values(), METADATA_NAME]
        record = {"agreement": {}, "bytes": {}, "metrics": {}}
        return record, [self.write(folder / name, content) for name in names]

    def saved_model(
        self, student: tf.keras.Model, base: Path, _names: Any, *, check: Any, **_: Any
    ) -> Path:
        base.mkdir(parents=True, exist_ok=True)
        version = base / str(1 + len(list(base.iterdir())))
        self.write(version / "saved_model.pb", student.layers[-1].bias.numpy().tobytes())
        check(version)
        return version

    def teacher(self, *_: Any) -> bytes:
        self.converted += 1
        if self.stop_before == teacher_module.NAME:
            raise self.error
        return b"file"


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> Writers:
    made = Writers()
    monkeypatch.setattr(export_module, "export_tflite", made.tflite)
    monkeypatch.setattr(export_module, "export_saved_model", made.saved_model)
    monkeypatch.setattr(export_module, "_check_saved_model", lambda *_: AGREEMENT)
    monkeypatch.setattr(teacher_module, "_convert", made.teacher)
    monkeypatch.setattr(teacher_module, "_measure", lambda *_: {"resolution": 32, "bytes": 4})
    return made


def export_epoch(epoch: int, folder: RunFolder) -> Path:
    checkpoints = SimpleNamespace(restore=lambda _: None)
    trained: Any = SimpleNamespace(checkpoints=checkpoints, student=network(epoch))
    evaluation: Any = SimpleNamespace(selected_epoch=epoch)
    data: Any = DATA
    return export(trained, data, evaluation, folder).tflite


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ExportError("it does not compute")])
@pytest.mark.parametrize(
    "stop_before", ["student.lce.tflite", "student.float.tflite", "saved_model.pb"]
)
def test_an_export_that_stops_between_its_files_is_made_by_the_next_call(
    tmp_path, writers, stop_before, error
):
    folder = RunFolder(tmp_path)
    before = export_epoch(5, folder).read_bytes()
    writers.stop_before, writers.error = stop_before, error
    with pytest.raises(type(error)):
        export_epoch(7, folder)
    writers.stop_before = ""
    after = export_epoch(7, folder).read_bytes()
    assert np.frombuffer(before, np.float32).tolist() == [5, 5]
    assert np.frombuffer(after, np.float32).tolist() == [7, 7]
    assert folder.is_finished("export")


def test_a_finished_export_of_the_same_student_is_read(tmp_path, writers):
    folder = RunFolder(tmp_path)
    export_epoch(5, folder)
    writers.stop_before = "student.lce.tflite"
    assert export_epoch(5, folder).read_bytes() == np.float32([5, 5]).tobytes()


def export_teacher_beside(student: str, folder: RunFolder) -> dict[str, Any]:
    calibrated: Any = SimpleNamespace(
        teacher=SimpleNamespace(fingerprint="teacher"), classifier=network(0)
    )
    exported: Any = SimpleNamespace(record={"student": student})
    data: Any = DATA
    return export_teacher(Config(), data, calibrated, exported, folder).record


@pytest.mark.parametrize("stop_before", [teacher_module.RECORD_NAME, "manifest.json"])
def test_a_teachers_file_that_stops_before_its_record_is_made_by_the_next_call(
    tmp_path, writers, monkeypatch, stop_before
):
    folder = RunFolder(tmp_path)
    export_teacher_beside("student of epoch 5", folder)
    writers.stop_before = stop_before
    with monkeypatch.context() as patch:
        patch.setattr(teacher_module, "write_atomically", writers.write)
        patch.setattr(RunFolder, "record", lambda *_: writers.write(folder.manifest_path, b""))
        with pytest.raises(KeyboardInterrupt):
            export_teacher_beside("student of epoch 7", folder)
    record = export_teacher_beside("student of epoch 7", folder)
    assert record["identity"]["student"] == "student of epoch 7"
    assert folder.is_finished("export_teacher")
    made = writers.converted
    assert export_teacher_beside("student of epoch 7", folder) == record
    assert writers.converted == made


def allocation_failure() -> tf.errors.ResourceExhaustedError:
    return tf.errors.ResourceExhaustedError(None, None, "failed to allocate memory")


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left"), MemoryError(), allocation_failure()], ids=repr
)
def test_what_the_machine_lacks_is_no_property_of_the_teacher(tmp_path, writers, error):
    folder = RunFolder(tmp_path)
    writers.stop_before, writers.error = teacher_module.NAME, error
    with pytest.raises(type(error)):
        export_teacher_beside("student", folder)
    writers.stop_before = ""
    assert "error" not in export_teacher_beside("student", folder)


def test_a_teacher_that_could_not_be_quantized_is_tried_again(tmp_path, writers):
    folder = RunFolder(tmp_path)
    writers.stop_before, writers.error = teacher_module.NAME, ValueError("no such operator")
    for _ in range(2):
        assert export_teacher_beside("student", folder)["error"] == "no such operator"
    assert writers.converted == 2
    writers.stop_before = ""
    record = export_teacher_beside("student", folder)
    assert "error" not in record
    assert (folder.export_path / teacher_module.NAME).read_bytes() == b"file"
    assert record["sha256"] == hashlib.sha256(b"file").hexdigest()
    assert export_teacher_beside("student", folder) == record
    assert writers.converted == 3


def test_a_machine_without_room_for_the_teacher_finishes_the_run_without_it(tmp_path):
    begun = Config(run_dir=str(tmp_path))
    open_run_folder(begun).lock.close()
    (tmp_path / "student" / "checkpoints").mkdir(parents=True)
    (tmp_path / "student" / "checkpoints" / "progress.json").write_text("{}")
    without = begun.replace(export_teacher="off")
    folder = open_run_folder(without)
    assert folder.has_begun
    assert writes_teacher(begun, folder)
    assert not writes_teacher(without, folder)
    # A record of an error alone is no file; one that was written stays.
    record = folder.export_path / teacher_module.RECORD_NAME
    write_atomically(record, b"{}")
    folder.record(teacher_module.STAGE, [record])
    assert not writes_teacher(without, folder)
    write_atomically(folder.export_path / teacher_module.NAME, b"file")
    assert writes_teacher(without, folder)
