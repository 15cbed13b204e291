"""The error that a user can fix; mains print it as one message, without a traceback."""


class UserError(Exception):
    """What was wrong, with the value and the place, and what to do about it.

    Raised for bad flags, files, images, weights and checkpoints. `candle_tf.app.run` prints the
    message and ends the process with exit code 2; anything else that is raised is a defect of ours
    and keeps its traceback.
    """
