"""assets/labels.txt of a SavedModel: one class name a line, in the order of the logits."""

from collections.abc import Sequence

from candle_tf.errors import UserError

LABELS = "labels.txt"


def encode_labels(class_names: Sequence[str], classes: int) -> str:
    """The file's text.

    Args:
        class_names: one name per class.
        classes: of the student.

    Raises:
        UserError: for a wrong number of names, or a name that is not one line of text.
    """
    if len(class_names) != classes:
        raise UserError(
            f"{len(class_names)} class names were given for a student of {classes} classes: "
            "give one per class, in the order of the training data."
        )
    for name in class_names:
        # Python stands in a surrogate for each byte of a file name that is not UTF-8.
        undecoded = any("\ud800" <= character <= "\udfff" for character in name)
        if name.splitlines() != [name] or undecoded or "\0" in name:
            raise UserError(
                f"The class name {name!r} is not one line of text, so it cannot be written to "
                f"{LABELS}: rename that class."
            )
    return "".join(f"{name}\n" for name in class_names)
