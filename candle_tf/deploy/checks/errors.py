"""The error of an export that fails one of its checks."""

from candle_tf.errors import UserError


class ExportError(UserError):
    """An exported file that is not binary, or does not compute what the student computes."""
