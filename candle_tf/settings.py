"""What a group of settings is made of: fields with help text, choices and bounds.

    @dataclass(frozen=True)
    class StudentSettings(SettingsGroup):
        student: str = setting("reactnet_a", "architecture of the student", choices=STUDENTS)
        width: float = setting(1.0, "multiplier of the student's channels", above=0, at_most=4)

Each package has its groups in a `settings.py`, which imports no TensorFlow; `candle_tf.config`
lists the groups. Each field is a command-line flag of the same name: names are unique over all
groups.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Collection
from typing import Any

from candle_tf.errors import UserError
from candle_tf.files import expand_home

# Larger whole numbers fit no array, and no run is that long.
_LARGEST_INT = 2**31 - 1


def setting(
    default: Any,
    help: str,
    *,
    choices: Collection[str] = (),
    at_least: float = -math.inf,
    above: float = -math.inf,
    at_most: float = math.inf,
    below: float = math.inf,
    only_for: str = "",
    nothing: Any = None,
) -> Any:
    """A field of a settings group.

    Args:
        default: of the type that the setting has: bool, int, float, str, or a tuple of int.
        help: for the flag.
        choices: the values it may take, e.g. a `Registry`; empty for any.
        at_least, above, at_most, below: bounds of a number, or of each number of a tuple.
        only_for: another setting and its value without which this one has no effect:
            "balance=fixed", "sampler=deferred_*", one of several in "balance=plain|fixed", or "mix"
            for any but its default, or "without mix" for its default alone; several with " and ",
            or one of them with " or ". The help begins with it.
        nothing: the value that asks for nothing, if the default asks for something: as without
            effect it is not told.
    """
    metadata = {
        "help": f"for {as_flags(only_for)}: {help}" if only_for else help,
        "choices": choices,
        "bounds": {"at_least": at_least, "above": above, "at_most": at_most, "below": below},
        "only_for": only_for,
        "nothing": nothing,
    }
    return dataclasses.field(default=default, metadata=metadata)


def as_flags(only_for: str) -> str:
    """What a setting is for, as one writes it: "--mix_views=half", "--a=1 and without --b"."""
    return re.sub(r"(^|(?<= and )|(?<= or ))(without )?", r"\2--", only_for)


@dataclasses.dataclass(frozen=True)
class SettingsGroup:
    """Settings that belong together, refused where they cannot work.

    Raises:
        UserError: for a value out of range, an unknown name, or two values of the group that
            contradict each other. The message names the flag, the value and what is allowed.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            check_setting(field, value)
            if isinstance(value, str):
                object.__setattr__(self, field.name, expand_home(value))
        self.check()

    def check(self) -> None:
        """Refuses values that contradict each other; each is in range already."""


def check_setting(field: "dataclasses.Field[Any]", value: Any) -> None:
    """Refuses a value that is not one of the field's choices, or not within its bounds.

    Raises:
        UserError: names the flag, the value and what is allowed.
    """
    choices, bounds = field.metadata["choices"], field.metadata["bounds"]
    if choices and value not in choices:
        raise UserError(f"--{field.name}={value} is not known; it is one of {', '.join(choices)}.")
    if not isinstance(value, tuple | int | float) or isinstance(value, bool):
        return
    for number in value if isinstance(value, tuple) else (value,):
        # "above" and "below" are strict and infinite by default: NaN and infinity never pass.
        if isinstance(number, int) and bounds["at_most"] == bounds["below"] == math.inf:
            bounds = bounds | {"at_most": _LARGEST_INT}
        allowed = (
            bounds["above"] < number < bounds["below"]
            and bounds["at_least"] <= number <= bounds["at_most"]
        )
        if not allowed:
            raise UserError(
                f"--{field.name}={_abbreviate(number)} is out of range; "
                f"it must be {_range(bounds)}."
            )


def convert_setting(field: "dataclasses.Field[Any]", value: Any, origin: str) -> Any:
    """`value` as the field's type, refusing what JSON cannot mean by it.

    Args:
        field: of a settings group.
        value: as JSON gives it.
        origin: the file, for messages.

    Raises:
        UserError: for a value of another type.
    """
    kind: type[Any] = type(field.default)
    accepts: Callable[[Any], bool] = {
        bool: lambda v: isinstance(v, bool),
        int: lambda v: isinstance(v, int) and not isinstance(v, bool),
        float: lambda v: isinstance(v, int | float) and not isinstance(v, bool),
        str: lambda v: isinstance(v, str),
        tuple: lambda v: (
            isinstance(v, list)
            and all(isinstance(item, int) and not isinstance(item, bool) for item in v)
        ),
    }[kind]
    if not accepts(value):
        raise UserError(f"{origin} gives {field.name}={value!r}, which is no {kind.__name__}.")
    try:
        return kind(value)
    except OverflowError as error:
        raise UserError(f"{origin} gives {field.name} a number that is out of range.") from error


def _abbreviate(number: float) -> str:
    """A number in at most 30 characters; Python refuses to print whole numbers of 5,000 digits."""
    if isinstance(number, int) and abs(number) >= 10**25:
        return "a number of more than 25 digits"
    return str(number)


def _range(bounds: dict[str, float]) -> str:
    words = {"at_least": "at least", "above": "above", "at_most": "at most", "below": "below"}
    said = [f"{words[name]} {bound:.10g}" for name, bound in bounds.items() if math.isfinite(bound)]
    return " and ".join(said) or "finite"
