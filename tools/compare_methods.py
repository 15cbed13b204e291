"""Trains several methods on the same split, student, views and epochs, and prints their table.

    python -m tools.compare_methods --flagfile=configs/quickstart.cfg --run_dir=runs/methods

Each method gets a folder of its own under --run_dir; what is finished is not done again.
"""

from pathlib import Path

from absl import flags

from candle_tf import app
from candle_tf.command_help import TRAINING_HELP
from candle_tf.config import Config
from candle_tf.errors import UserError
from candle_tf.methods.registry import METHODS
from candle_tf.reporting.comparison import compare

_METHODS = flags.DEFINE_list(
    "methods", ["candle", "cross_entropy", "balanced_softmax"], f"some of {', '.join(METHODS)}"
)


def main(config: Config) -> None:
    """Runs every method and compares them."""
    unknown = sorted(set(_METHODS.value) - set(METHODS))
    if unknown or not _METHODS.value:
        raise UserError(
            f"--methods={','.join(_METHODS.value)} is not a list of {', '.join(METHODS)}."
        )
    from candle_tf.stages.run import require_export, run

    base = Path(config.run.run_dir)
    cache = config.run.cache_dir or str(base / "cache")
    configs = [
        config.replace(method=method, run_dir=str(base / method), cache_dir=cache)
        for method in _METHODS.value
    ]
    results = [run(each)[1] for each in configs]
    table = compare(results, str(base / "comparison.html"), str(base / "comparison.json"))
    print(f"\n{table}\n\nEverything is in {base}; begin with {base / 'comparison.html'}.")
    for each in results:
        require_export(each)


if __name__ == "__main__":
    app.define_config_flags()
    app.run(
        lambda _: main(app.config_from_flags()),
        needs_arguments=True,
        help_groups={"Comparison": ("methods",), **TRAINING_HELP},
        resumes=True,
    )
