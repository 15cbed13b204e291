"""Whether the files of a run's export are of the student that its report tells of.

    find_run(Path("runs/flowers/export"))      # runs/flowers
    refuse_other_student(Path("runs/flowers/export"), is_saved_model=False)

A run that is continued, or corrected otherwise, exports another student. Where a check refuses that
one, the files of the student before it are still there, under the names of an export.
"""

from pathlib import Path
from typing import Any

from candle_tf.deploy.checks.errors import REFUSED
from candle_tf.errors import UserError
from candle_tf.files import read_json_object

_REPORT, _MANIFEST = "report.json", "manifest.json"
_FOLDER, _SAVED_MODELS = "export", "saved_model"


def find_run(export: Path) -> Path | None:
    """The folder of the run that an export is of; None where no report is beside the export."""
    whole = export.resolve()
    is_of_run = whole.name == _FOLDER and (whole.parent / _REPORT).is_file()
    return whole.parent if is_of_run else None


def refuse_other_student(export: Path, *, is_saved_model: bool) -> None:
    """Refuses files that may be of another student than the one that the run reports.

    An export without its run's report beside it is not known to be of another one.

    Args:
        export: a folder with student.json.
        is_saved_model: whether a SavedModel is to be used, or a TFLite file.

    Raises:
        UserError: where a check refused the export of the reported student, or that was not
            exported in whole; says how to get files of it. Where report or manifest is damaged.
    """
    run = find_run(export)
    if run is None:
        return
    whole, report = run / _FOLDER, run / _REPORT
    refused = read_json_object(report, "Start the run again to write it again.").get("refused")
    if refused and not is_saved_model and _has_checked_tflite_files(whole):
        return
    if refused or not _is_recorded(run):
        why = f"that was refused: {refused}" if refused else "that is not finished."
        raise UserError(
            f"{export} may hold another student than the one that {report} tells of. The run was "
            f"to export this one, and {why} Start the run again with the same command, and without "
            "--export_student=off: it exports without training again. To use an earlier student's "
            "files all the same, copy them out of the run's folder."
        )


def _has_checked_tflite_files(export: Path) -> bool:
    """Whether the last export wrote both TFLite files, and only its SavedModel was refused.

    What a check refuses is kept; that of an earlier export is removed where a check is passed.
    """
    is_saved_model_refused = (export / f"{_SAVED_MODELS}{REFUSED}").is_dir()
    return is_saved_model_refused and not any(export.glob(f"*.tflite{REFUSED}"))


def _is_recorded(run: Path) -> bool:
    """Whether the manifest has the export, or there is none that says otherwise."""
    path = run / _MANIFEST
    if not path.is_file():
        return True
    remedy = "Restore or delete it; without it, finished exports are made again."
    stages: Any = read_json_object(path, remedy).get("stages", {})
    return not isinstance(stages, dict) or "report" not in stages or "export" in stages
