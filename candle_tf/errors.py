"""The error that a user can fix; mains print it as one message, without a traceback."""

import re


class UserError(Exception):
    """What was wrong, with the value and the place, and what to do about it.

    Raised for bad flags, files, images, weights and checkpoints. `candle_tf.app.run` prints the
    message and ends the process with exit code 2; anything else that is raised is a defect of ours
    and keeps its traceback.
    """


_NAMED = f"{UserError.__name__}: "
_TRACEBACK = "\nTraceback (most recent call last)"
# What Keras adds to the message of an error in a layer.
_LAYER = re.compile(r"\n\s*\n\s*Call arguments received by layer")


def find_user_error(error: BaseException) -> UserError | None:
    """The `UserError` that was raised inside of TensorFlow; None where none was.

    Of one that a generator of a `tf.data` pipeline raised it passes on the text alone, in an error
    of its own; one that is raised while a function is traced gets the places in the code before.
    """
    _, _, text = str(error).partition(_NAMED)
    # Of a layer in a function that is traced there are two, one inside the other.
    text = text.partition(_TRACEBACK)[0].rpartition(_NAMED)[2]
    message = _LAYER.split(text)[0].strip()
    return UserError(message) if message else None
