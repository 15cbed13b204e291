"""The error that a user can fix; mains print it as one message, without a traceback."""


class UserError(Exception):
    """What was wrong, with the value and the place, and what to do about it.

    Raised for bad flags, files, images, weights and checkpoints. `candle_tf.app.run` prints the
    message and ends the process with exit code 2; anything else that is raised is a defect of ours
    and keeps its traceback.
    """


_NAMED = f"{UserError.__name__}: "
_TRACEBACK = "\nTraceback (most recent call last)"


def find_user_error(error: BaseException) -> UserError | None:
    """The `UserError` that a generator of a `tf.data` pipeline raised; None where none did.

    TensorFlow passes on the text of such an error alone, in an error of its own.
    """
    _, _, text = str(error).partition(_NAMED)
    message = text.partition(_TRACEBACK)[0].strip()
    return UserError(message) if message else None
