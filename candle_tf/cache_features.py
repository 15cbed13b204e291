"""Computes the teacher features of a run beforehand, in shards: for batch systems.

    python -m candle_tf.cache_features --flagfile=run.cfg --cache_dir=/shared/cache --shard=1/8
    ...
    python -m candle_tf.cache_features --flagfile=run.cfg --cache_dir=/shared/cache --shard=8/8
    python -m candle_tf.train --flagfile=run.cfg --cache_dir=/shared/cache

Takes the flags of `candle_tf.train`. The shards may run at once or one after the other, on any
machines that share --cache_dir. An interrupted or damaged shard is completed by the same command,
or by the training itself.
"""

import re

from absl import flags

from candle_tf import app
from candle_tf.command_help import TRAINING_HELP
from candle_tf.config import Config
from candle_tf.data.cached_arrays import Shard
from candle_tf.errors import UserError
from candle_tf.stages.data_paths import require_data_paths


def main(config: Config, shard: Shard) -> None:
    """Computes one shard."""
    require_data_paths(config)
    # Imported here, so that a mistyped flag is refused at once and not after TensorFlow's start.
    from candle_tf.stages.cache_features import cache_features

    cache_features(config, shard)
    print(f"Shard {shard.number} of {shard.count} is in {config.run.cache_path}.")


def _read_shard(text: str) -> Shard:
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    number, count = (int(part) for part in match.groups()) if match else (0, 0)
    if not 1 <= number <= count:
        raise UserError(f"--shard={text} is no shard; give e.g. 1/8 to 8/8 for eight of them.")
    return Shard(number, count)


def command() -> None:
    """What `candle-cache-features` and `python -m candle_tf.cache_features` run."""
    app.define_config_flags()
    flags.DEFINE_string("shard", "1/1", "which of how many equal ranges of rows: i/n, from 1/n on")
    app.run(
        lambda _: main(app.config_from_flags(), _read_shard(flags.FLAGS.shard)),
        needs_arguments=True,
        help_groups={"Shard": ("shard",), **TRAINING_HELP},
        resumes=True,
    )


if __name__ == "__main__":
    command()
