"""A whole run, stage by stage; finished stages are read, not run again."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import tensorflow as tf
from absl import logging

from candle_tf.config import Config
from candle_tf.deploy.checks.errors import ExportError
from candle_tf.distribute import Workers, open_workers
from candle_tf.errors import UserError, find_user_error
from candle_tf.files import explain_full_disk
from candle_tf.native.ops import has_bfloat16_products
from candle_tf.progress import format_seconds
from candle_tf.reporting.results import Results, read_results
from candle_tf.run_folder import RunFolder, join_run_folder, open_run_folder
from candle_tf.settings import as_flags
from candle_tf.stages import run_teacher
from candle_tf.stages.balance_floors import read_balance_floors
from candle_tf.stages.balance_replay import read_balance_replay
from candle_tf.stages.calibrate import Calibrated, calibrate, open_teacher
from candle_tf.stages.disk_space import DiskNeeds
from candle_tf.stages.distillation import refuse_untrained_classifier
from candle_tf.stages.evaluate import evaluate
from candle_tf.stages.export import STAGE as EXPORT
from candle_tf.stages.export import export
from candle_tf.stages.export_requirements import check_export_requirements
from candle_tf.stages.export_teacher import NAME as TEACHER_FILE
from candle_tf.stages.export_teacher import STAGE as EXPORT_TEACHER
from candle_tf.stages.export_teacher import export_teacher
from candle_tf.stages.prepare import Data, prepare
from candle_tf.stages.replica_shares import refuse_share_without_labels
from candle_tf.stages.report import report
from candle_tf.stages.run_place import refuse_run_among_images
from candle_tf.stages.train import (
    Trained,
    default_epochs,
    train_student,
    train_together,
    with_epochs,
)
from candle_tf.stages.training_requirements import (
    check_split_requirements,
    check_training_requirements,
)
from candle_tf.students.compute_policy import DTYPES, ComputePolicy, resolve_compute_policy
from candle_tf.teachers.backbones import Teacher

T = TypeVar("T")


class _StageTimes:
    """Announces the stages of a run, and tells at the end how long each took."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def run(self, title: str, work: Callable[[], T]) -> T:
        """Does the work of a stage."""
        logging.info("--- %s", title)
        began = time.monotonic()
        result = work()
        self._seconds[title] = time.monotonic() - began
        return result

    def log(self) -> None:
        """Writes the time of each stage, and of all."""
        each = [f"{title}: {format_seconds(time)}" for title, time in self._seconds.items()]
        total = format_seconds(sum(self._seconds.values()))
        logging.info("time: %s; in all %s", ", ".join(each), total)


def run(config: Config) -> tuple[RunFolder, Results]:
    """Calibrates, trains, evaluates, exports and reports; resumes where an earlier call stopped.

    Of several workers (`distribute`) all train, and the chief alone does what comes after.

    Returns:
        The run's folder, and its results. Where a check refused the export, they say so:
        `require_export` raises it.

    Raises:
        UserError: for anything that a user can fix; nothing finished is lost.
    """
    refuse_run_among_images(config)
    # What it refuses is told before anything is computed.
    read_balance_floors(config)
    read_balance_replay(config)
    workers = open_workers(config.compute.strategy)
    # Bit-identical results whether or not a run was interrupted; on CPUs it costs nothing.
    tf.keras.utils.set_random_seed(config.run.seed)
    tf.config.experimental.enable_op_determinism()
    with workers.end_together():
        policy = resolve_compute_policy(
            config.compute.precision,
            config.compute.xla,
            kernels=config.compute.kernels,
            replicas=workers.replicas,
        )
        check_training_requirements(config, workers.replicas)
        folder = _open_folder(config, workers)
        for name, wanted in config.without_effect().items():
            runs = "runs " if wanted.startswith("without ") else ""
            logging.warning(
                "--%s=%s has no effect: it is for %s%s",
                *(name, config[name], runs, as_flags(wanted)),
            )
        try:
            results = _run_stages(config, folder, policy, workers)
        except (OSError, tf.errors.OpError) as error:
            if explained := explain_full_disk(error, folder.path) or find_user_error(error):
                raise explained from error
            raise
        except UserError as error:
            # TensorFlow adds places in the code to one that is raised while it traces a function.
            if explained := find_user_error(error):
                raise explained from error
            raise
        finally:
            folder.remove_if_nothing_began()
    return folder, results or read_results(folder.report_path)


def _open_folder(config: Config, workers: Workers) -> RunFolder:
    """The run's folder, which is the same for all workers.

    Raises:
        UserError: as `open_run_folder`; for a worker where the folder or the settings differ.
    """
    folder = open_run_folder(config) if workers.is_chief else None
    workers.refuse_other_folder(Path(config.run.run_dir))
    return folder or join_run_folder(config)


def _run_stages(
    config: Config, folder: RunFolder, policy: ComputePolicy, workers: Workers
) -> Results | None:
    """The chief's results."""
    times = _StageTimes()
    policy = _keep_precision(config, folder, policy)
    config, data = _prepare_data(config, folder, policy, workers, times)
    needs = None
    if workers.is_chief:
        needs = check_export_requirements(config, data.split.class_names, folder)
    calibrated = None
    if config.training.distils:
        calibrated = _calibrate_teacher(config, data, folder, workers, times)
        if needs:
            _add_teacher(needs, config, calibrated).require()
    trained = _train(config, data, calibrated, folder, policy, workers, times)
    if trained is None:
        return None
    results = _export_and_report(config, data, calibrated, trained, folder, times)
    times.log()
    return results


def _prepare_data(
    config: Config, folder: RunFolder, policy: ComputePolicy, workers: Workers, times: _StageTimes
) -> tuple[Config, Data]:
    """The settings with the number of epochs, and the prepared split."""
    check = partial(check_split_requirements, config, replicas=workers.replicas)
    data = times.run("1/6 data", lambda: prepare(config, folder, workers, check))
    if data.unlabelled is not None:
        refuse_share_without_labels(config, len(data.unlabelled), workers.replicas)
    default = _keep_default_epochs(config, len(data.train), folder)
    records = (folder.config_path, folder.data_check_path, folder.split_path)
    # Runs of older versions have none of the images' contents.
    paths = (folder.image_contents_path, folder.unlabelled_contents_path)
    contents = [path for path in paths if path.exists()]
    folder.record(
        "data",
        [*records, *contents],
        split=data.split.hash,
        precision=policy.dtype,
        default_epochs=str(default),
    )
    return with_epochs(config, len(data.train), default), data


def _calibrate_teacher(
    config: Config, data: Data, folder: RunFolder, workers: Workers, times: _StageTimes
) -> Calibrated:
    path = folder.path / "calibrate"
    calibrated = times.run(
        "2/6 calibrate the teacher",
        lambda: calibrate(config, data, path, workers, _keep_teacher(config, data, folder)),
    )
    folder.record("calibrate", _training_files(path))
    refuse_untrained_classifier(config, data, calibrated)
    return calibrated


def _train(
    config: Config,
    data: Data,
    calibrated: Calibrated | None,
    folder: RunFolder,
    policy: ComputePolicy,
    workers: Workers,
    times: _StageTimes,
) -> Trained | None:
    """The student, which the chief alone has."""
    path = folder.path / "student"
    targets = calibrated.targets if calibrated else None
    title = f"3/6 train the student ({config.training.method})"
    training = (config, data, targets, path, policy, calibrated)
    if workers.replicas > 1:
        together = f"{title} on {workers.replicas} devices"
        times.run(together, lambda: train_together(*training, workers))
    if not workers.is_chief:
        logging.info("worker %d waits while the chief evaluates and exports", workers.number)
        return None
    trained = times.run(title, lambda: train_student(*training))
    xla = "on" if policy.xla else "off"
    kernels = "native" if policy.native else "plain"
    folder.record(
        "student", _training_files(path), precision=policy.dtype, xla=xla, kernels=kernels
    )
    return trained


def _export_and_report(
    config: Config,
    data: Data,
    calibrated: Calibrated | None,
    trained: Trained,
    folder: RunFolder,
    times: _StageTimes,
) -> Results:
    """Measures the student, writes its files and the teacher's, and reports all of it.

    A refused export is told in the results.
    """
    evaluation = times.run("4/6 evaluate", lambda: evaluate(config, data, trained, calibrated))
    exported, teacher_file, refused = None, None, ""
    if _is_exported(config, folder):
        try:
            exported = times.run("5/6 export", lambda: export(trained, data, evaluation, folder))
        except ExportError as error:
            refused = str(error)
    if exported and calibrated and writes_teacher(config, folder):
        teacher_file = times.run(
            "5/6 export the teacher as int8",
            partial(export_teacher, config, data, calibrated, exported, folder),
        )
    return times.run(
        "6/6 report",
        lambda: report(
            config, folder, data, calibrated, trained, evaluation, exported, teacher_file, refused
        ),
    )


def _is_exported(config: Config, folder: RunFolder) -> bool:
    """Whether the student is to be exported; files that are there stay in the report."""
    return config.student.export_student == "auto" or folder.is_finished(EXPORT)


def writes_teacher(config: Config, folder: RunFolder) -> bool:
    """Whether the teacher is to be a file; one that is there stays in the report."""
    there = folder.is_finished(EXPORT_TEACHER) and (folder.export_path / TEACHER_FILE).exists()
    return config.teacher.export_teacher == "auto" or there


def require_export(results: Results) -> None:
    """Raises the refusal of a run's export, if there is one, after the run was reported.

    Raises:
        ExportError: with what the check found, and what to do.
    """
    if results.refused:
        raise ExportError(
            f"{results.refused} The report holds the run's figures. The same command exports again "
            "without training again; where it is refused again, report it with that file."
        )


def _keep_precision(config: Config, folder: RunFolder, policy: ComputePolicy) -> ComputePolicy:
    """The policy, in the precision that --precision=auto was for a student that has begun.

    What is the faster one for a CPU may change with a version. Runs of versions that did not record
    it at their beginning were in bfloat16 where the CPU multiplies it.
    """
    begun = folder.has_student_epochs
    if config.compute.precision != "auto" or not policy.native or not begun:
        return policy
    dtype = folder.manifest().get("precision")
    if dtype not in DTYPES:
        dtype = "bfloat16" if has_bfloat16_products() else "float32"
    return replace(policy, dtype=dtype)


def _keep_default_epochs(config: Config, images: int, folder: RunFolder) -> int:
    """What --epochs=0 stands for, which stays what it was for a student that has begun.

    Versions that did not record it counted all training images, also those that a last batch, which
    is not full, leaves out: they had fewer epochs.

    Args:
        config: the run's settings.
        images: for training, with labels.
        folder: of the run.
    """
    if not folder.has_student_epochs:
        return default_epochs(config, config.images_in_epoch(images))
    kept = str(folder.manifest().get("default_epochs", ""))
    return int(kept) if kept.isdecimal() and int(kept) else default_epochs(config, images)


def _keep_teacher(config: Config, data: Data, folder: RunFolder) -> Teacher:
    """The teacher, with the weights with which its classifier has begun.

    Raises:
        UserError: as `open_teacher`, and for other weights.
    """
    teacher = open_teacher(config, data)
    begun = (folder.path / "calibrate" / "checkpoints" / "progress.json").exists()
    before = folder.manifest().get("teacher", teacher.fingerprint)
    if begun and before != teacher.fingerprint:
        teacher = _open_other_epoch(config, data, folder, before)
    folder.record("teacher", [], teacher=teacher.fingerprint)
    return teacher


def _open_other_epoch(config: Config, data: Data, folder: RunFolder, fingerprint: str) -> Teacher:
    """The teacher with other weights than it has now: where it is a run, at another epoch. Older
    versions took the best one, and a run that was reported again may have selected another.

    Raises:
        UserError: where none has this fingerprint.
    """
    for policy in ("best", "last") if run_teacher.has_run(config.teacher) else ():
        with run_teacher.select_epochs_by(policy):
            teacher = open_teacher(config, data)
        if teacher.fingerprint == fingerprint:
            return teacher
    raise UserError(
        f"--teacher={config.teacher.teacher} has other weights than when {folder.path} was "
        "begun, and its new classifier was trained on features of those. Restore the weights, "
        "or give another --run_dir."
    )


def _add_teacher(needs: DiskNeeds, config: Config, calibrated: Calibrated) -> DiskNeeds:
    writes_file = config.teacher.export_teacher == "auto"
    parameters = calibrated.teacher.encoder.count_params() + calibrated.classifier.count_params()
    return needs.with_teacher(parameters * writes_file, calibrated.classifier.input_shape[-1])


def _training_files(path: Path) -> list[Path]:
    files = [*path.glob("*.csv"), *(path / "checkpoints").glob("*")]
    # What is not a whole file is being written, or was when a process was killed.
    return [file for file in files if file.is_file() and not file.name.startswith(".")]
