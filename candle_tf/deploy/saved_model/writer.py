"""SavedModels in numbered folders, as TensorFlow Serving takes them.

folder = export_saved_model(student, "export/saved_model", ["cat", "dog"], image_side=160)
signatures = tf.saved_model.load(folder).signatures
signatures["serving_default"](image_bytes=tf.constant([open("cat.jpg", "rb").read()]))
signatures["pixels"](pixels=tf.constant(images))       # {"scores": float32 [N, classes]}
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import tensorflow as tf

from candle_tf.data.augment.crops import centre_box, render, whole_box
from candle_tf.deploy.binarize import make_deployable
from candle_tf.deploy.preprocessing.decode import decode
from candle_tf.deploy.preprocessing.stretch import stretch
from candle_tf.deploy.saved_model.labels import LABELS, encode_labels
from candle_tf.deploy.saved_model.warmup import warmup_images, write_warmup

SIGNATURE = "serving_default"
PIXELS = "pixels"
TOP_CLASSES = 5
# Graphs for training on would name gradients that only this package knows.
SAVE_OPTIONS = tf.saved_model.SaveOptions(experimental_custom_gradients=False)


def export_saved_model(
    student: tf.keras.Model,
    directory: str | Path,
    class_names: Sequence[str],
    *,
    image_side: int,
    original_aspect: bool = False,
    check: Callable[[Path], object] | None = None,
) -> Path:
    """Writes a student as `directory`/<n>/, with n one above the highest number there.

    Two signatures, which stock TensorFlow runs:

    - "serving_default" takes "image_bytes", JPEG or PNG files of any size, string `[N]`. It decodes
      and resizes them as evaluation does and gives the k = min(5, classes) best classes of each,
      best first: "class_names", string `[N, k]`, "class_ids", int64 `[N, k]`, and "scores",
      float32 `[N, k]`, their softmax. One bad image fails its whole request with INVALID_ARGUMENT.
    - "pixels" takes "pixels", uint8 `[N, H, W, 3]`, already resized, and gives "scores", the
      softmax over all classes, float32 `[N, classes]`.

    The labels are in assets/labels.txt, one a line, and calls to warm up with in assets.extra. A
    numbered folder is complete and checked, or not there at all, and none is ever written over.

    Args:
        student: Keras model from pixels, float32 `[N, H, W, 3]` in 0..255, to "logits".
        directory: where the numbered folders are; made where missing.
        class_names: one name per class, in the order of the logits.
        image_side: side of the squares that images are stretched to before they are resized
            for the student, in pixels: of `data.images.open_image_store`.
        original_aspect: whether the input is the centre of the original image (--resize=crop).
        check: called with the SavedModel's folder while that has another name, which no server
            takes; where it raises, the SavedModel gets no number.

    Returns:
        The new folder.

    Raises:
        UserError: for a wrong number of names, or a name that is not one line of text.
    """
    model = make_deployable(student)
    labels = encode_labels(class_names, int(model.output_shape[-1]))
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=directory) as unfinished:
        labels_file = Path(unfinished) / LABELS
        labels_file.write_text(labels, encoding="utf-8", newline="\n")
        module = _Server(model, labels_file, class_names, image_side, original_aspect)
        written = Path(unfinished) / "model"
        tf.saved_model.save(
            module, str(written), signatures=module.signatures(), options=SAVE_OPTIONS
        )
        _write_warmup(written, int(model.input_shape[1]))
        if check is not None:
            check(written)
        folder = directory / str(_next_number(directory))
        # A folder that another process has filled in the meantime makes this fail, not merge.
        return written.rename(folder)


class _Server(tf.Module):
    """What is saved: traced functions, their variables and the labels; no Keras object."""

    def __init__(
        self,
        model: tf.keras.Model,
        labels_file: Path,
        class_names: Sequence[str],
        image_side: int,
        original_aspect: bool,
    ) -> None:
        super().__init__()
        self.parameters = model.variables
        self.labels = tf.saved_model.Asset(str(labels_file))
        size = int(model.input_shape[1])
        top = min(TOP_CLASSES, len(class_names))

        def scores_of(inputs: tf.Tensor) -> tf.Tensor:
            return tf.nn.softmax(model(inputs, training=False))

        def serve_pixels(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"scores": scores_of(tf.cast(pixels, tf.float32))}

        def serve_images(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
            inputs = _inputs(image_bytes, image_side, size, original_aspect)
            best = tf.math.top_k(scores_of(inputs), top)
            return {
                "class_names": tf.gather(tf.constant(list(class_names)), best.indices),
                "class_ids": tf.cast(best.indices, tf.int64),
                "scores": best.values,
            }

        pixels = tf.TensorSpec(model.input_shape, tf.uint8, name="pixels")
        images = tf.TensorSpec([None], tf.string, name="image_bytes")
        self.serve_pixels = tf.function(serve_pixels, input_signature=[pixels], autograph=False)
        self.serve_images = tf.function(serve_images, input_signature=[images], autograph=False)

    def signatures(self) -> dict[str, tf.types.experimental.ConcreteFunction]:
        """What can be called in a SavedModel, by name."""
        return {
            SIGNATURE: self.serve_images.get_concrete_function(),
            PIXELS: self.serve_pixels.get_concrete_function(),
        }


def _inputs(image_bytes: tf.Tensor, image_side: int, size: int, original_aspect: bool) -> tf.Tensor:
    """What evaluation gives the student for these files: float32 `[N, size, size, 3]`."""

    def one(item: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        encoded, index = item
        image = decode(encoded, index)
        sides = tf.cast(tf.shape(image)[:2], tf.float64)
        aspect = tf.cast(sides[1] / sides[0], tf.float32)
        box = centre_box(aspect) if original_aspect else whole_box()
        # Whole numbers, as in `data.augment.evaluation.render_evaluation`.
        return tf.round(render(stretch(image, image_side), box, tf.constant(False), size))

    numbers = tf.range(tf.size(image_bytes))
    signature = tf.TensorSpec([size, size, 3], tf.float32)
    # A few at a time: a decoded photograph can take 100 MB.
    return tf.map_fn(
        one, (image_bytes, numbers), fn_output_signature=signature, parallel_iterations=2
    )


def _write_warmup(saved_model: Path, size: int) -> None:
    images = warmup_images()
    requests = [(SIGNATURE, {"image_bytes": tf.constant([image])}) for image in images]
    pixels = tf.zeros([1, size, size, 3], tf.uint8)
    write_warmup(saved_model, [*requests, (PIXELS, {"pixels": pixels})])


def _next_number(directory: Path) -> int:
    names = (entry.name for entry in directory.iterdir())
    return 1 + max((int(name) for name in names if name.isascii() and name.isdigit()), default=0)
