"""One's own students, losses, teachers, sources and augmentations: modules that register them.

    # my_parts.py, in the working directory or installed
    from candle_tf.students.architectures.registry import STUDENTS

    STUDENTS.register("my_student", "my_parts:build_my_student")

    python -m candle_tf.train --plugin=my_parts --student=my_student ...

A plugin is Python code that runs with the rights of the user: name only what you trust. One that
only a run's config.json names is not imported. It is imported before settings are checked, so it
should not import TensorFlow at its top.
"""

import importlib
import sys
from pathlib import Path

from candle_tf.errors import UserError


def import_plugins(names: str) -> None:
    """Imports modules that register something.

    Args:
        names: module names, separated by commas; empty for none. The working directory is searched
            too, also where an installed program runs.

    Raises:
        UserError: where a name is none, a module does not exist, or fails while it is imported.
    """
    for name in _split(names):
        if name in sys.modules:
            continue
        if not all(part.isidentifier() for part in name.split(".")):
            raise UserError(f"--plugin={name} is no name of a module, such as my_parts or a.b.")
        here = str(Path.cwd())
        if not {"", here} & set(sys.path):
            sys.path.append(here)
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name.split(".")[0] and error.name != name:
                raise UserError(f"--plugin={name} needs {error.name}, which is missing.") from error
            raise UserError(
                f"--plugin={name} is no module in {here} or among the installed ones; give the "
                "name without .py."
            ) from error
        except SystemExit as error:
            raise UserError(
                f"--plugin={name} ends the program when it is imported (exit code "
                f"{error.code!r}): take the call of sys.exit() out of its top level."
            ) from error
        except Exception as error:
            kind = type(error).__name__
            raise UserError(
                f"--plugin={name} fails when it is imported: {kind}: {error}."
            ) from error


def refuse_new_plugins(names: str, place: Path) -> None:
    """Refuses plugins that only a file names: reading it must not run their code.

    Args:
        names: as of `import_plugins`.
        place: the file that names them, for the message.

    Raises:
        UserError: where some are not imported yet, with all of these.
    """
    missing = [name for name in _split(names) if name not in sys.modules]
    if missing:
        several = len(missing) > 1
        plugins = f"the plugins {', '.join(missing)}" if several else f"the plugin {missing[0]!r}"
        them, code = ("them", "which are") if several else ("it", "which is")
        were = "they were" if several else "it was"
        raise UserError(
            f"{place} names {plugins}, {code} code that would run with your rights, so {were} not "
            f"imported. If you trust {them}, give --plugin={','.join(missing)}, or in Python "
            f"import {them} first."
        )


def _split(names: str) -> list[str]:
    return [name for name in map(str.strip, names.split(",")) if name]
