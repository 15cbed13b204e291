"""The folder of a run: settings, split, stages, report, export, and a manifest over all of it.

runs/digits/
  config.json     the settings; `--config` repeats the run from it
  data_check.json images left out as they cannot be read, and images in two parts
  split.json      which image is trained, validated and tested on
  calibrate/      history.csv, steps.csv, tensorboard/, checkpoints/ of the teacher's classifier
  student/        the same of the student
  report.json     every figure          report.html   the images
  export/         saved_model/<n>/, student.lce.tflite, student.float.tflite, student.json
  manifest.json   versions, and the SHA-256 of every file that a stage finished
"""

import dataclasses
import json
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from absl import logging

import candle_tf
from candle_tf.config import LISTS, Config
from candle_tf.errors import UserError
from candle_tf.files import sha256_of_file, write_atomically

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
# Where a run lies says nothing about what it computes: a moved folder goes on.
_PLACES = ("run_dir", "cache_dir", "data_dir", *LISTS, "split", "teacher_weights")
# A stopped run says to try the other one; once the split is saved it plays no part.
_CHANGEABLE = (*_PLACES, "on_bad_image")


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Paths and records of one run."""

    path: Path

    @property
    def config_path(self) -> Path:
        """The settings of the run."""
        return self.path / "config.json"

    @property
    def split_path(self) -> Path:
        """Which image is in which part."""
        return self.path / "split.json"

    @property
    def data_check_path(self) -> Path:
        """Images left out, and images in two parts."""
        return self.path / "data_check.json"

    @property
    def report_path(self) -> Path:
        """Every figure of the run."""
        return self.path / "report.json"

    @property
    def export_path(self) -> Path:
        """What is shipped."""
        return self.path / "export"

    @property
    def manifest_path(self) -> Path:
        """Versions and hashes."""
        return self.path / "manifest.json"

    def record(self, stage: str, files: Iterable[Path], **facts: str) -> None:
        """Writes into the manifest that `stage` finished with these files.

        Args:
            stage: its name.
            files: what it wrote, inside the folder.
            **facts: what is not a file here, such as the hash of the teacher's weights.
        """
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
        write_atomically(self.manifest_path, (json.dumps(manifest, indent=2) + "\n").encode())

    def finished(self, stage: str) -> bool:
        """Whether `stage` is recorded and all of its files are as they were written.

        Raises:
            UserError: where a recorded file is missing or damaged; names it.
        """
        files = self.manifest().get("stages", {}).get(stage)
        if files is None:
            return False
        for name, expected in files.items():
            path = self.path / name
            if not path.exists() or sha256_of_file(path) != expected:
                raise UserError(
                    f"{path} is missing or not as the stage {stage!r} wrote it. Restore it, or "
                    f"take {stage!r} out of {self.manifest_path} to do that stage again."
                )
        return True

    def manifest(self) -> dict[str, Any]:
        """The manifest as it stands; empty before the first stage.

        Raises:
            UserError: where the file is damaged.
        """
        if not self.manifest_path.exists():
            return {}
        try:
            manifest = json.loads(self.manifest_path.read_text())
            if not isinstance(manifest, dict):
                raise ValueError("it does not hold one JSON object")
        except ValueError as error:
            raise UserError(
                f"The manifest {self.manifest_path} is damaged ({error}). Restore or delete it; "
                "without it, finished exports are made again."
            ) from error
        return manifest


def versions() -> dict[str, str]:
    """Versions of everything that can change a run's figures."""
    found = {name: metadata.version(name) for name in _PACKAGES}
    return {"candle_tf": candle_tf.__version__, "python": platform.python_version(), **found}


def open_run_folder(config: Config) -> RunFolder:
    """Makes the folder of a run, or takes up the one an earlier call of the same command made.

    Raises:
        UserError: where the folder holds a run with other settings (which are named), or cannot
            be written.
    """
    folder = RunFolder(Path(config.run_dir))
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        if folder.config_path.exists():
            _require_same(Config.from_json(folder.config_path), config, folder.path)
        config.to_json(folder.config_path)
    except OSError as error:
        raise UserError(f"--run_dir={config.run_dir} cannot be written: {error}.") from error
    return folder


def _require_same(before: Config, now: Config, path: Path) -> None:
    old, new = before.to_dict(), now.to_dict()
    changed = [
        f"--{name} was {old[name]} and is now {new[name]}"
        for name in new
        if name not in _CHANGEABLE and old[name] != new[name]
    ]
    if changed:
        raise UserError(
            f"{path} holds a run with other settings: {'; '.join(changed)}. Give another "
            "--run_dir, or the settings of that run (--config) to go on with it."
        )
