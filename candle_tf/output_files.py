"""Where commands write what they are asked for: refused before the work, where it cannot be kept.

require_output_files({"csv": "photos.csv", "html": "photos.html"})
"""

import os
from collections.abc import Mapping
from pathlib import Path

from candle_tf.errors import UserError
from candle_tf.files import is_stream, require_writable_file
from candle_tf.folder_kinds import is_run_folder
from candle_tf.run_folder import RunFolder


def require_output_files(places: Mapping[str, str | Path | None]) -> list[Path]:
    """Refuses outputs of one command that could not be written, or would replace what is to stay.

    Args:
        places: path by flag; a flag that is not given has "" or None.

    Returns:
        The paths that are given, in order.

    Raises:
        UserError: as `require_writable_file`; where two are one file, also by links (what is no
            file, such as a terminal or /dev/null, may be given twice); and where one is a file of a
            run, by which it is resumed, read or shipped.
    """
    given = {flag: Path(place) for flag, place in places.items() if place}
    flag_of: dict[str, str] = {}
    for flag, path in given.items():
        require_writable_file(path)
        _refuse_file_of_run(path)
        other = flag if is_stream(path) else flag_of.setdefault(os.path.realpath(path), flag)
        if other != flag:
            raise UserError(
                f"--{other} and --{flag} are both {path}, where one would replace the other: give "
                "each a file of its own."
            )
    return list(given.values())


def _refuse_file_of_run(path: Path) -> None:
    """A file that a user wrote into the folder of a run may be replaced, one of the run's not."""
    real = Path(os.path.realpath(path))
    if is_stream(path) or not real.exists():
        return
    for folder in real.parents:
        run = RunFolder(folder)
        if is_run_folder(folder) and run.owns(real):
            raise UserError(
                f"{path} is a file of the run in {folder}, which would be replaced. Choose another "
                "name, or another folder."
            )
