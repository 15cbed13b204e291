"""Whether tests of the native operators can run here."""

import pytest

from candle_tf.native.build import AUTO, native_operators

needs_native = pytest.mark.skipif(
    native_operators(AUTO) is None, reason="there is no compiler for the native operators"
)
