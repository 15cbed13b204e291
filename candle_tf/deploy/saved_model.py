"""SavedModels in numbered folders, as TensorFlow Serving takes them.

folder = export_saved_model(student, "export/saved_model", ["cat", "dog"])    # .../1, .../2
serve = tf.saved_model.load(folder).signatures["serving_default"]
serve(pixels=tf.constant(images))       # {"scores": ..., "classes": ...}
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from candle_tf.deploy.binarize import deployable
from candle_tf.errors import UserError

SIGNATURE = "serving_default"
LABELS = "labels.txt"
# Graphs for training on would name gradients that only this package knows.
SAVE_OPTIONS = tf.saved_model.SaveOptions(experimental_custom_gradients=False)


def export_saved_model(
    student: tf.keras.Model, directory: str | Path, class_names: Sequence[str]
) -> Path:
    """Writes a student as `directory`/<n>/, with n one above the highest number there.

    The signature "serving_default" takes "pixels", uint8 [N, H, W, 3], and gives "scores", the
    softmax, float32 [N, classes], and "classes", the arg-max, int64 [N]. Stock TensorFlow runs it.
    The labels are in assets/labels.txt, one a line. A folder is complete or not there at all, and
    none is ever written over.

    Args:
        student: Keras model from pixels, float32 [N, H, W, 3] in 0..255, to "logits".
        directory: where the numbered folders are; made where missing.
        class_names: one name per class, in the order of the logits.

    Returns:
        The new folder.

    Raises:
        UserError: for a wrong number of names, or a name that is not one line of text.
    """
    model = deployable(student)
    labels = _labels(class_names, int(model.output_shape[-1]))
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=directory) as unfinished:
        labels_file = Path(unfinished) / LABELS
        labels_file.write_text(labels, encoding="utf-8", newline="\n")
        module = _Server(model, labels_file)
        written = Path(unfinished) / "model"
        signatures = {SIGNATURE: module.serve.get_concrete_function()}
        tf.saved_model.save(module, str(written), signatures=signatures, options=SAVE_OPTIONS)
        folder = directory / str(_next_number(directory))
        # A folder that another process has filled in the meantime makes this fail, not merge.
        return written.rename(folder)


class _Server(tf.Module):
    """What is saved: a traced function, its variables and the labels; no Keras object."""

    def __init__(self, model: tf.keras.Model, labels_file: Path) -> None:
        super().__init__()
        self.parameters = model.variables
        self.labels = tf.saved_model.Asset(str(labels_file))

        def serve(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
            logits = model(tf.cast(pixels, tf.float32), training=False)
            return {"scores": tf.nn.softmax(logits), "classes": tf.argmax(logits, axis=-1)}

        spec = tf.TensorSpec(model.input_shape, tf.uint8, name="pixels")
        self.serve = tf.function(serve, input_signature=[spec], autograph=False)


def _labels(class_names: Sequence[str], classes: int) -> str:
    if len(class_names) != classes:
        raise UserError(
            f"{len(class_names)} class names were given for a student of {classes} classes: "
            "give one per class, in the order of the training data."
        )
    for name in class_names:
        # Python stands in a surrogate for each byte of a file name that is not UTF-8.
        undecoded = any("\ud800" <= character <= "\udfff" for character in name)
        if name.splitlines() != [name] or undecoded:
            raise UserError(
                f"The class name {name!r} is not one line of text, so it cannot be written to "
                f"{LABELS}: rename that class."
            )
    return "".join(f"{name}\n" for name in class_names)


def _next_number(directory: Path) -> int:
    names = (entry.name for entry in directory.iterdir())
    return 1 + max((int(name) for name in names if name.isascii() and name.isdigit()), default=0)
