"""Which settings have no effect with the others: by what their `only_for` says.

    found = settings_without_effect({"balance": "fixed", "balance_tau": 1.0, ...}, fields)
    found["balance_tau"]                                            # "balance=class_adversarial"

What a setting is for may itself be without effect: --fixed_lambda is for --balance=fixed, and
--balance for CANDLE.
"""

import dataclasses
from collections.abc import Collection, Mapping
from fnmatch import fnmatch
from typing import Any

Fields = Mapping[str, "dataclasses.Field[Any]"]
# A plugin may register values of these, and so read settings that are for others of their values.
_OF_PLUGINS = ("method", "balance", "feature_loss", "calibration_loss", "student")
_WITHOUT = "without "


def settings_without_effect(
    values: Mapping[str, Any],
    fields: Fields,
    *,
    brought: Mapping[str, Collection[Any]] | None = None,
    has_plugins: bool = False,
) -> dict[str, str]:
    """The settings that ask for something and have no effect, each with what it is for.

    Args:
        values: of all settings, by name.
        fields: of all settings, see `settings.setting`.
        brought: values that a setting may have without having been given: what a recipe or a data
            set brings asks for nothing, as the default.
        has_plugins: whether settings may be read by what is not known here: one is then left out
            where it is for a method, a balance or the like.
    """
    found = {}
    for name, field in fields.items():
        silent = (field.default, field.metadata["nothing"], *(brought or {}).get(name, ()))
        if values[name] not in silent and (wanted := _lacks(name, values, fields, has_plugins)):
            found[name] = wanted
    return found


def _lacks(name: str, values: Mapping[str, Any], fields: Fields, has_plugins: bool) -> str:
    """What a setting is for and the others are not; "" where it has an effect."""
    only_for = fields[name].metadata["only_for"]
    lacks = []
    for alternative in only_for.split(" or ") if only_for else []:
        conditions = alternative.split(" and ")
        unmet = [each for each in conditions if not _holds(each, values, fields, has_plugins)]
        if not unmet:
            # What it is for may itself have no effect; what must not be given need have none.
            others = [each.partition("=")[0] for each in conditions if _WITHOUT not in each]
            unmet = [_lacks(other, values, fields, has_plugins) for other in others]
        wanted = " and ".join(filter(None, dict.fromkeys(unmet)))
        if not wanted:
            return ""
        lacks.append(wanted)
    return " or ".join(lacks)


def _holds(condition: str, values: Mapping[str, Any], fields: Fields, has_plugins: bool) -> bool:
    if condition.startswith(_WITHOUT):
        other = condition.removeprefix(_WITHOUT)
        return bool(values[other] == fields[other].default)
    other, _, wanted = condition.partition("=")
    if has_plugins and other in _OF_PLUGINS:
        return True
    if not wanted:
        return bool(values[other] != fields[other].default)
    return any(fnmatch(str(values[other]), pattern) for pattern in wanted.split("|"))
