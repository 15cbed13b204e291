"""What the processes of `tests.command` are forked with; no thread is started here."""

import gc

import candle_tf.api
import candle_tf.stages.run  # noqa: F401

# As in tests/conftest.py; what is imported already is never garbage.
gc.set_threshold(20_000, 10, 10)
gc.freeze()
