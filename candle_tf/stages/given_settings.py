"""Settings that a user gave, by flags or from Python, and a file that they begin from."""

from typing import Any

from candle_tf.config import Config
from candle_tf.plugins import import_plugins
from candle_tf.recipes import recipe_settings


def config_of(given: dict[str, Any], origin: str, begin_from: str = "") -> Config:
    """The settings that are given, over those of a file where one is named.

    A data set of the catalog brings settings of its own, which win over those of a recipe; what is
    given wins over both. Images without the name of a data set are a folder. Beside a file a recipe
    replaces the settings that it has, and so does such a data set, if the file has another one.

    Args:
        given: JSON values by flag name, of what was given and of nothing else.
        origin: where they are from, for messages.
        begin_from: a run's config.json; empty for none.

    Raises:
        UserError: for values that `Config` refuses, and a plugin that the file names and `given`
            does not; for an imbalance factor without effect.
    """
    if not begin_from:
        if given.get("data_dir") and "dataset" not in given:
            # The default brings its images; one's own are a folder, as in other programs.
            given = {"dataset": "folder", **given}
        return Config.with_catalog(given, origin)
    # What `Config` takes from the recipe, where nothing is given.
    replaced = set(recipe_settings(_text(given, "recipe")))
    # Of the plugins that the file names those alone are imported.
    import_plugins(_text(given, "plugin"))
    before = Config.from_json(begin_from).to_dict()
    changes_data = given.get("dataset", before["dataset"]) != before["dataset"]
    if changes_data and before["profile"] != "counts":
        # It was that of the other data set, where none was given.
        replaced.add("profile")
    values = {name: value for name, value in before.items() if name not in replaced}
    return Config.with_catalog(given, origin, before=values)


def _text(given: dict[str, Any], name: str) -> str:
    """A setting, or "" where it is not given; what is no text is refused with the others."""
    value = given.get(name)
    return value if isinstance(value, str) else ""
