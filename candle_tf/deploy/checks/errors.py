"""The error of an export that fails one of its checks, and what its file is called."""

from candle_tf.errors import UserError

# Added to the name of a file that a check refused.
REFUSED = ".refused"


class ExportError(UserError):
    """An exported file that is not binary, or does not compute what the student computes."""
