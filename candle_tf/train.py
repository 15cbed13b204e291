"""The main job: calibrate the teacher, train the binary student, evaluate, export, report.

    python -m candle_tf.train --flagfile=configs/quickstart.cfg
    python -m candle_tf.train --data_dir=images.zip --run_dir=runs/images

The same command resumes an interrupted run.
"""

import inspect
import sys
import types
from pathlib import Path
from typing import Any

from candle_tf import app
from candle_tf.command_help import TRAINING_HELP
from candle_tf.config import Config
from candle_tf.errors import UserError
from candle_tf.metrics import untested_sentence
from candle_tf.reporting.results import Results, untested_classes
from candle_tf.reporting.shipping import shipping_sentence
from candle_tf.reporting.table import method_table, printable
from candle_tf.stages.data_paths import require_data_paths


def main(config: Config) -> None:
    """Runs everything and prints the table."""
    require_data_paths(config)
    # Imported here, so that a mistyped flag is refused at once and not after TensorFlow's start.
    from candle_tf.stages.run import require_export, run

    folder, results = run(config)
    print(f"\n{closing_text(folder.path, results)}", flush=True)
    require_export(results)


def closing_text(path: Path, results: Results) -> str:
    """What a run prints at its end.

    Args:
        path: of the run's folder.
        results: of the run.
    """
    untested = printable(untested_sentence(untested_classes(results)))
    told = [
        method_table(results.rows()),
        f"{untested}." if untested else "",
        shipping_sentence(results),
        f"Everything is in {path}; begin with {path / 'report.html'}.",
    ]
    return "\n\n".join(filter(None, told))


def command() -> None:
    """What `candle-train` and `python -m candle_tf.train` run."""
    app.define_config_flags()
    app.run(
        lambda _: main(app.config_from_flags()),
        needs_arguments=True,
        help_groups=TRAINING_HELP,
        resumes=True,
    )


class _CallableModule(types.ModuleType):
    # This module, which `candle_tf.train(...)` calls as `candle_tf.api.train`, whose text it has.

    def __call__(self, *unnamed: Any, **settings: Any) -> Any:
        from candle_tf.api import train

        if unnamed:
            raise UserError(
                f"train() was given {unnamed[0]!r} without the name of a setting: write "
                'train(dataset="digits"), for example.'
            )
        return train(**settings)

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        from candle_tf.api import train

        return train.__doc__

    @property
    def __signature__(self) -> inspect.Signature:
        """The settings by name with their defaults, for editors and notebooks."""
        named = inspect.Parameter.KEYWORD_ONLY
        begin_from = inspect.Parameter("config", named, default=None, annotation="str | Path")
        settings = [
            inspect.Parameter(name, named, default=field.default, annotation=type(field.default))
            for name, field in Config.fields().items()
        ]
        return inspect.Signature([begin_from, *settings], return_annotation="candle_tf.Model")


sys.modules[__name__].__class__ = _CallableModule

if __name__ == "__main__":
    command()
