"""`candle_tf.train`, killed by SIGKILL before or after one write: for the tests of resuming.

    python -m tests.stages.killed_train WHEN PATTERN FLAGS...

WHEN is "before" or "after": the first rename of a file to a path that PATTERN matches, or the first
TensorFlow checkpoint with such a prefix; "while" kills between the files of the checkpoint.
"""

import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import candle_tf  # noqa: F401  # chooses Keras 2 before TensorFlow is imported


def kill_at(when: str, pattern: re.Pattern[str], call: Callable[..., Any], target: int) -> Any:
    """`call`, which kills the process where its argument number `target` matches."""

    def killing(*arguments: Any, **options: Any) -> Any:
        matches = pattern.search(str(arguments[target]))
        if matches and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = call(*arguments, **options)
        if matches and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return killing


def leave_half_a_checkpoint(pattern: re.Pattern[str]) -> None:
    """As TensorFlow does it: a folder PREFIX_temp with the shards, before they are merged."""
    import tensorflow as tf

    write = tf.train.Checkpoint.write

    def killing(self: Any, prefix: str, *arguments: Any, **options: Any) -> Any:
        if pattern.search(prefix):
            folder = Path(f"{prefix}_temp")
            folder.mkdir()
            (folder / "part-00000-of-00001.data-00000-of-00001").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        return write(self, prefix, *arguments, **options)

    tf.train.Checkpoint.write = killing


def main() -> None:
    """Patches what writes, and trains."""
    when, pattern = sys.argv[1], re.compile(sys.argv[2])
    del sys.argv[1:3]
    if when == "while":
        leave_half_a_checkpoint(pattern)
    else:
        os.replace = kill_at(when, pattern, os.replace, 1)
        Path.rename = kill_at(when, pattern, Path.rename, 1)  # type: ignore[method-assign]
    from candle_tf.train import command

    command()


if __name__ == "__main__":
    main()
