"""--help of a main: what it does, and the flags that matter, in groups; --helpfull lists all.

print(help_text("candle_tf.train", TRAINING_HELP, flag_values))
"""

import os
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

HelpGroups = Mapping[str, Sequence[str]]

# Of the mains that take a run's settings.
TRAINING_HELP: HelpGroups = {
    "Data": (
        "dataset", "data_dir", "train_list", "test_list", "profile", "imbalance_factor",
        "validation_fraction", "unlabelled_dir",
    ),
    "Teacher": ("teacher",),
    "Student": ("student", "width", "stem_stride", "image_size", "student_weights"),
    "Training": ("recipe", "method", "epochs", "learning_rate", "prior_correction"),
    "Run": ("run_dir", "cache_dir", "seed", "plugin", "config", "flagfile"),
}  # fmt: skip

_ASKED = ("--help", "-help", "-h", "--h", "-?")
_WIDTH = 100
# absl's own flag, which it defines later and explains at length.
_FLAGFILE = "a file of flags, one a line (configs/*.cfg)"


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether a command line, without the program's name, asks for --help."""
    before_files = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return any(argument in _ASKED for argument in before_files)


def help_text(module: str, groups: HelpGroups | None, flag_values: Any) -> str:
    """What a main does, and its flags with their defaults.

    Args:
        module: name of the main's module, whose docstring is shown.
        groups: names of the flags to show, by title; None for all flags of the main itself.
        flag_values: the flags, absl's `FlagValues`.
    """
    own = [flag.name for flag in flag_values.get_flags_for_module(sys.modules[module])]
    shown: HelpGroups = groups or {"Flags": own}
    # As written in the file: `candle_tf.train` shows Python the text of the function.
    parts = [(vars(sys.modules[module])["__doc__"] or "").strip()]
    parts += [_group(title, names, flag_values) for title, names in shown.items() if names]
    return "\n\n".join([*parts, f"All flags: {_program(module)} --helpfull"])


def _group(title: str, names: Sequence[str], flag_values: Any) -> str:
    return "\n".join([f"{title}:", *(_describe(name, flag_values) for name in names)])


def _describe(name: str, flag_values: Any) -> str:
    return textwrap.fill(
        _FLAGFILE if name == "flagfile" else _help_and_default(flag_values[name]),
        width=_WIDTH,
        initial_indent=f"  --{name}".ljust(26) + " ",
        subsequent_indent=" " * 27,
        break_on_hyphens=False,
    )


def _help_and_default(flag: Any) -> str:
    text = " ".join((flag.help or "").split()).replace(": one of ", "; one of ")
    has_default = flag.default not in (None, "", [], False)
    return f"{text} [{flag.default_as_str[1:-1]}]" if has_default else text


def _program(module: str) -> str:
    """How the running program is called."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None:
        return f"python -m {spec.name.removesuffix('.__main__')}"
    called = os.path.basename(sys.argv[0])
    return f"python {called}" if called.endswith(".py") else called or f"python -m {module}"
