"""The folder of a run: settings, split, stages, report, export and manifest.

runs/digits/
  config.json     the settings; `--config` repeats the run from it
  data_check.json images left out as they cannot be read, and images in two subsets or classes
  image_contents.json  hashes of the images' bytes, which a resumed run compares; those of images
                  without labels are in unlabelled_contents.json
  split.json      images of train, validation and test
  calibrate/      history.csv, steps.csv, tensorboard/, checkpoints/ of the teacher's classifier;
                  select_epoch.json, how its epoch is selected, where --select_epoch was changed
                  after a student had begun to learn from it
  student/        the same of the student; classifier.safetensors, the classifier as it was
                  measured, of methods that change it after training; balance_floors.json and
                  balance_replay.csv, what was read of another run
  report.json     all results           report.html   tables and figures
  tensorboard/    sample views, mistakes, confusion and hyper-parameters; losses are with the stages
  test_predictions.csv  class of every test image, by teacher and student
  validation_predictions.csv  of every validation image, by the student
  export/         saved_model/<n>/, student.lce.tflite, student.float.tflite, student.json
  manifest.json   versions, and the SHA-256 of every file that a stage finished
"""

import contextlib
import dataclasses
import json
import os
import platform
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from absl import logging

import candle_tf
from candle_tf.changed_settings import (
    changeable_names,
    changeable_names_of_workers,
    changed_names,
    log_changes_of_trained_student,
    log_more_epochs,
    require_same,
)
from candle_tf.config import Config
from candle_tf.errors import UserError
from candle_tf.files import read_json_object, sha256_of_file, write_atomically
from candle_tf.folder_lock import NAME as LOCK_NAME
from candle_tf.folder_lock import lock_folder
from candle_tf.methods.settings import EPOCH_CHOICES

_CONFIG = "config.json"
_POLICY = "select_epoch.json"
# Whose files are the run's, whether its manifest names them or not: those of a stage that stopped.
_STAGE_FOLDERS = ("calibrate", "student", "export", "cache", "tensorboard")
# In data_check.json: whether the split was there before.
SPLIT_FOUND = "split_found"
_PACKAGES = (
    "tensorflow",
    "tf_keras",
    "larq",
    "larq-compute-engine",
    "ai-edge-litert",
    "keras-cv",
    "numpy",
    "pillow",
    "scikit-learn",
)


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Paths and records of one run.

    Attributes:
        path: of the folder.
        lock: of the process that writes into it.
        writes: whether this process does; of workers that train together one does.
        found: the settings and records of data that were there when the folder was opened.
    """

    path: Path
    lock: IO[str] | None = dataclasses.field(default=None, repr=False, compare=False)
    writes: bool = True
    found: frozenset[Path] = dataclasses.field(default_factory=frozenset, repr=False, compare=False)

    @property
    def config_path(self) -> Path:
        """The settings of the run."""
        return self.path / _CONFIG

    @property
    def split_path(self) -> Path:
        """The split: images of train, validation and test."""
        return self.path / "split.json"

    @property
    def data_check_path(self) -> Path:
        """Images left out, and images in two subsets or two classes of one."""
        return self.path / "data_check.json"

    @property
    def image_contents_path(self) -> Path:
        """Hashes of the bytes of the split's images."""
        return self.path / "image_contents.json"

    @property
    def unlabelled_contents_path(self) -> Path:
        """Hashes of the bytes of the images without labels."""
        return self.path / "unlabelled_contents.json"

    @property
    def classifier_path(self) -> Path:
        """The student's classifier as it was measured, of methods that change it after training."""
        return self.path / "student" / "classifier.safetensors"

    @property
    def report_path(self) -> Path:
        """All results of the run."""
        return self.path / "report.json"

    @property
    def export_path(self) -> Path:
        """The exported files."""
        return self.path / "export"

    @property
    def manifest_path(self) -> Path:
        """Versions and hashes."""
        return self.path / "manifest.json"

    @property
    def has_begun(self) -> bool:
        """Whether anything was trained here: an epoch of the teacher's classifier or a student."""
        return self.has_epochs or self.report_path.exists() or self.export_path.exists()

    @property
    def has_epochs(self) -> bool:
        """Whether a training here has finished an epoch."""
        return any(self.path.glob("*/checkpoints/progress.json"))

    @property
    def has_student_epochs(self) -> bool:
        """Whether a student's training, or a part of it, has finished an epoch."""
        return any(self.path.glob("student*/checkpoints/progress.json"))

    @property
    def first_stage_epochs(self) -> int | None:
        """Epochs of the first of two stages, where the second was begun on its student."""
        first, second = (
            self.path / name / "checkpoints" / "progress.json"
            for name in ("student_stage1", "student")
        )
        if not (first.is_file() and second.is_file()):
            return None
        history = read_json_object(first, "Restore it, or give another --run_dir.").get("history")
        return len(history) if isinstance(history, list) else None

    def keep_calibration_policy(self, policy: str) -> None:
        """Records how the epoch of the teacher's classifier was selected, for a student that has
        learned from it: --select_epoch may be changed for the student.

        Args:
            policy: the --select_epoch before the first change; later ones leave the record.
        """
        calibrated = (self.path / "calibrate" / "checkpoints" / "progress.json").exists()
        begun = self.has_student_epochs
        path = self.path / "calibrate" / _POLICY
        if calibrated and begun and not path.exists():
            write_atomically(path, (json.dumps({"select_epoch": policy}) + "\n").encode())

    def remove_if_nothing_began(self) -> None:
        """Removes the records of a run that stopped before its first epoch, so that none blocks
        the next; of caches nothing is lost. The folder itself goes if it is empty then.

        What was found there stays: it may be a user's, such as a split that `tools.make_split` has
        saved there. That of a killed run blocks none with other settings, see `open_run_folder`.
        """
        if self.has_begun or not (self.writes and self.path.is_dir()):
            return
        for path in {self.config_path, *self._data_paths} - self.found:
            path.unlink(missing_ok=True)
        (self.path / LOCK_NAME).unlink(missing_ok=True)
        for folder in (self.path / "cache", self.path):
            with contextlib.suppress(OSError):  # not empty, or not there
                folder.rmdir()

    def forget_data(self) -> None:
        """Removes what was drawn by other settings, before anything was trained on it.

        A split that was there before a run stays: it may be a user's.
        """
        kept = {self.split_path} if self.has_found_split else set()
        for path in set(self._data_paths) - kept:
            path.unlink(missing_ok=True)

    @property
    def has_found_split(self) -> bool:
        """Whether split.json was there before a run read its images; it checks them first."""
        if not self.data_check_path.exists():
            return self.split_path.exists()
        remedy = "Delete it, and split.json, unless that is yours: nothing was trained by them."
        return read_json_object(self.data_check_path, remedy).get(SPLIT_FOUND) is True

    @property
    def _data_paths(self) -> tuple[Path, ...]:
        """Records that a run writes before it trains anything, beside its settings."""
        return (
            self.split_path,
            self.data_check_path,
            self.image_contents_path,
            self.unlabelled_contents_path,
            self.manifest_path,
        )

    def list_records(self) -> frozenset[Path]:
        """The settings and records of data that are there."""
        return frozenset(path for path in (self.config_path, *self._data_paths) if path.exists())

    def owns(self, path: Path) -> bool:
        """Whether a file in the folder is the run's: of its settings, data, stages or checkpoints.

        Args:
            path: of the file; as absolute, and with links followed, as the folder's is.

        Raises:
            UserError: as `manifest`.
        """
        name = path.relative_to(self.path)
        stages = self.manifest().get("stages", {}).values()
        recorded = {each for files in stages for each in files}
        in_stage = len(name.parts) > 1 and name.parts[0] in _STAGE_FOLDERS
        return in_stage or name.as_posix() in recorded or path in (
            self.config_path, *self._data_paths, self.report_path,
        )  # fmt: skip

    def record(self, stage: str, files: Iterable[Path], **facts: str) -> None:
        """Records in the manifest that a stage finished, with its files.

        Args:
            stage: its name.
            files: the files it wrote, inside the folder.
            **facts: other entries, such as the hash of the teacher's weights.
        """
        if not self.writes:
            return
        manifest = self.manifest()
        now = versions()
        before = manifest.get("versions", now)
        changed = [
            f"{name} {before.get(name)} -> {now[name]}"
            for name in now
            if before.get(name) != now[name]
        ]
        if changed:
            logging.warning("%s was begun with other versions: %s", self.path, ", ".join(changed))
        manifest.update(facts, versions=now)
        manifest.setdefault("stages", {})[stage] = {
            str(path.relative_to(self.path)): sha256_of_file(path) for path in sorted(files)
        }
        self._write_manifest(manifest)

    def forget_stage(self, stage: str) -> None:
        """Takes a stage out of the manifest, before its files are written again: what stops in
        between leaves files that are not those of the record.

        Args:
            stage: its name; one that is not recorded changes nothing.
        """
        manifest = self.manifest()
        if self.writes and manifest.get("stages", {}).pop(stage, None) is not None:
            self._write_manifest(manifest)

    def _write_manifest(self, manifest: dict[str, Any]) -> None:
        write_atomically(self.manifest_path, (json.dumps(manifest, indent=2) + "\n").encode())

    def is_finished(self, stage: str) -> bool:
        """Whether a stage is recorded and all of its files are unchanged.

        Raises:
            UserError: if a recorded file is missing or damaged; names it.
        """
        files = self.manifest().get("stages", {}).get(stage)
        if files is None:
            return False
        for name, expected in files.items():
            path = self.path / name
            if not path.exists() or sha256_of_file(path) != expected:
                raise UserError(
                    f"{path} is missing or was changed after the stage {stage!r}. Restore it, "
                    f"or remove {stage!r} from {self.manifest_path} to run that stage again."
                )
        return True

    def manifest(self) -> dict[str, Any]:
        """Reads the manifest; empty before the first stage.

        Raises:
            UserError: if the file is damaged.
        """
        if not self.manifest_path.exists():
            return {}
        remedy = "Restore or delete it; without it, finished exports are made again."
        manifest = read_json_object(self.manifest_path, remedy)
        stages = manifest.get("stages", {})
        records = [manifest.get("versions", {}), stages]
        records += stages.values() if isinstance(stages, dict) else []
        if not all(isinstance(record, dict) for record in records):
            raise UserError(
                f"{self.manifest_path} is damaged (versions and stages are no objects). {remedy}"
            )
        return manifest


def versions() -> dict[str, str]:
    """Versions of all packages that can change a run's results."""
    found = {name: metadata.version(name) for name in _PACKAGES}
    return {"candle_tf": candle_tf.__version__, "python": platform.python_version(), **found}


def open_run_folder(config: Config) -> RunFolder:
    """Makes the folder of a run, or opens it to resume the run.

    Raises:
        UserError: if the folder has a run with other settings (which are named), is in use by
            another process, or cannot be written; for more epochs than the first of two stages
            has, where the second has begun; if its settings are missing and something was trained.
    """
    folder = RunFolder(Path(config.run.run_dir))
    settings = config.to_dict()
    if folder.has_epochs and not folder.config_path.exists():
        raise UserError(
            f"{folder.config_path} is missing, so that nothing tells by which settings was trained "
            "what is there. Restore it, or give another --run_dir."
        )

    def read(path: Path) -> dict[str, Any]:
        if not folder.has_begun and _names_other_plugin(path, settings["plugin"]):
            folder.forget_data()
            return settings
        before = Config.from_json(path).to_dict()
        if not folder.has_begun and changed_names(before, settings):
            folder.forget_data()
        return before

    done, epochs = folder.first_stage_epochs, config.training.epochs
    changeable: Collection[str] = tuple(settings)
    if folder.has_begun and folder.config_path.exists():
        begun = Config.from_json(folder.config_path).to_dict()
        changeable = changeable_names(begun, settings, done)
    lock, before = claim_folder(folder.path, settings, changeable, read)
    # Before it is written down: config.json would hold what no command can continue.
    if done is not None and epochs > done:
        raise UserError(
            f"--epochs={epochs} cannot continue {folder.path / 'student_stage1'}, which has "
            f"{done}: the second stage was trained on that student already. Give --epochs={done}, "
            "or another --run_dir."
        )
    found = folder.list_records()
    if before is not None and before["select_epoch"] != settings["select_epoch"]:
        # Before config.json is written, which held it.
        with _explain_unwritable(folder.path):
            folder.keep_calibration_policy(before["select_epoch"])
    write_settings(folder.path, settings)
    if before is not None and folder.has_begun:
        if done is None:
            log_more_epochs(before, settings)
        log_changes_of_trained_student(before, settings)
    return RunFolder(folder.path, lock, found=found)


def _names_other_plugin(path: Path, plugin: str) -> bool:
    """Whether a config.json is of another plugin, which is not imported to read it."""
    values = read_json_object(path, "Delete it: nothing was trained by these settings.")
    named = values.get("plugin", "")
    return isinstance(named, str) and named != plugin


def claim_folder(
    path: Path,
    settings: dict[str, Any],
    changeable: Collection[str],
    read: Callable[[Path], dict[str, Any]],
) -> tuple[IO[str] | None, dict[str, Any] | None]:
    """Makes a folder for work that can be resumed, or opens it again.

    What killed processes were writing there is removed. config.json stays as it is, until
    `write_settings`.

    Args:
        path: of the folder.
        settings: JSON-ready, by flag name.
        changeable: names of those that may differ from the ones in the folder.
        read: reads a config.json, and refuses one of other work.

    Returns:
        The folder's lock, as `lock_folder`, and the settings that were there, if any.

    Raises:
        UserError: if the folder has other settings (which are named), is in use by another process,
            or cannot be written.
    """
    config_path = path / _CONFIG
    with _explain_unwritable(path):
        path.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(path)
        _remove_leftovers(path)
        before = read(config_path) if config_path.exists() else None
        if before is not None:
            require_same(before, settings, changeable, path)
    return lock, before


def write_settings(path: Path, settings: dict[str, Any]) -> None:
    """Writes config.json into a folder that this process has claimed.

    Args:
        path: of the folder.
        settings: as of `claim_folder`.

    Raises:
        UserError: if it cannot be written.
    """
    with _explain_unwritable(path):
        write_atomically(path / _CONFIG, (json.dumps(settings, indent=2) + "\n").encode())


@contextlib.contextmanager
def _explain_unwritable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"--run_dir={path} cannot be written: {error}.") from error


def join_run_folder(config: Config) -> RunFolder:
    """Opens the folder of a run that another worker, the chief, has opened and writes into.

    Raises:
        UserError: if the chief's settings differ (which are named).
    """
    folder = RunFolder(Path(config.run.run_dir), writes=False)
    chiefs = Config.from_json(folder.config_path).to_dict()
    settings = config.to_dict()
    changeable = changeable_names_of_workers(chiefs, settings)
    require_same(chiefs, settings, changeable, folder.path)
    return folder


def calibration_policy(folder: Path, policy: str) -> str:
    """How the epoch of the teacher's classifier is selected, as --select_epoch names it.

    Args:
        folder: of the calibration.
        policy: the run's --select_epoch, which holds where there is no record of an earlier one.

    Raises:
        UserError: for a damaged record.
    """
    path = folder / _POLICY
    if not path.exists():
        return policy
    recorded = read_json_object(path, "Restore it from a copy.").get("select_epoch")
    if recorded not in EPOCH_CHOICES:
        raise UserError(
            f"{path} is damaged (select_epoch is {recorded!r}). Restore it from a copy."
        )
    return str(recorded)


def _remove_leftovers(path: Path) -> None:
    """Removes what killed processes were writing; the folder is locked by this one."""
    waiting = [path]
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:  # no rights, or a path that is too long: nothing of ours
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if entry.name.startswith(".unfinished-"):
                    shutil.rmtree(entry.path, ignore_errors=True)
                elif not Path(entry.path, _CONFIG).exists():  # of another run, which may be running
                    waiting.append(Path(entry.path))
            elif entry.name.startswith(".") and entry.name.endswith(".unfinished"):
                process = entry.name.split(".")[-2]
                # A cache in the run folder may be shared with a process that runs.
                if not (process.isdigit() and Path(f"/proc/{process}").exists()):
                    Path(entry.path).unlink(missing_ok=True)
