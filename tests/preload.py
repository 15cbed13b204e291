"""What the processes of `tests.command` are forked with; no thread is started here."""

import gc

import candle_tf  # chooses Keras 2
from candle_tf.runtime_messages import quiet_imports

quiet_imports()

import candle_tf.api  # noqa: E402
import candle_tf.stages.run  # noqa: E402, F401

# As in tests/conftest.py; what is imported already is never garbage.
gc.set_threshold(20_000, 10, 10)
gc.freeze()
