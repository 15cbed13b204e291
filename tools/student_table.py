"""Students side by side: what they cost, what their converted files weigh, how true those are.

    python -m tools.student_table --image_size=224 --classes=1000 --json=students.json

Nothing is trained here. Each student has random kernels, shifts, slopes and scales, and its batch
norms have random statistics around the random images' own, where training leaves them. All of it is
drawn from fixed seeds. The student is converted as for shipping and once more with every weight in
float (by the plain TFLite converter), and is run on those images.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from candle_tf import app
from candle_tf.errors import UserError
from candle_tf.files import require_writable_file, write_atomically
from candle_tf.reporting.table import human_bytes, percent, text_table
from candle_tf.students.architectures.registry import STUDENTS
from candle_tf.students.settings import StudentSettings

_COLUMNS = ("student", "binary M", "float M", "M OPs", "predicted", "LCE file",
            "float32 reference model",
            "ratio", "LceBconv2d", "largest diff.", "same class %")  # fmt: skip


def student_row(
    name: str, image_size: int, classes: int, width: float, stem_stride: int, images: int
) -> dict[str, Any]:
    """Builds, converts and runs one student.

    Args:
        name: of the student.
        image_size: side in pixels.
        classes: number of classes.
        width: multiplier of the channels.
        stem_stride: 2 or 1.
        images: number of random images to run.

    Returns:
        "student", "binary_parameters", "float_parameters", "ops", "predicted_bytes", "bytes" of
        the converted file, "float_bytes" of the float32 reference model, "ratio" of those two,
        "binary_convolutions" in the file and "binary_layers" in the student,
        "largest_difference" of any logit, relative to the largest one, and "argmax_agreement",
        0 to 1.

    Raises:
        UserError: where the student cannot be built or converted.
    """
    import tensorflow as tf

    from candle_tf.deploy.tflite.converter import convert, convert_float, run
    from candle_tf.deploy.tflite.flatbuffer import BINARY_CONVOLUTION, operators
    from candle_tf.students.analysis.cost import summarize
    from candle_tf.students.architectures.registry import build_student
    from candle_tf.students.layers.blocks import binary_layers

    shape = (image_size, image_size, 3)
    pixels = random_images(images, image_size)
    tf.keras.utils.set_random_seed(0)
    student = build_student(name, shape, classes, width=width, stem_stride=stem_stride)
    randomize(student)
    reestimate_batch_norms(student, pixels)
    costs = summarize(student)
    flatbuffer = convert(student)
    in_float = len(convert_float(student))
    steps = [step.name for step in operators(flatbuffer)]
    expected = student(pixels, training=False)["logits"].numpy()
    actual = run(flatbuffer, pixels)
    return {
        "student": name,
        "binary_parameters": costs.binary_parameters,
        "float_parameters": costs.float_parameters,
        "ops": costs.ops,
        "predicted_bytes": costs.bytes,
        "bytes": len(flatbuffer),
        "float_bytes": in_float,
        "ratio": in_float / len(flatbuffer),
        "binary_convolutions": steps.count(BINARY_CONVOLUTION),
        "binary_layers": len(binary_layers(student)),
        "largest_difference": float(np.abs(actual - expected).max() / np.abs(expected).max()),
        "argmax_agreement": float((actual.argmax(axis=1) == expected.argmax(axis=1)).mean()),
    }


def randomize(student: Any, seed: int = 0) -> None:
    """Gives a new student random statistics, scales, shifts and slopes, and exact signs."""
    rng = np.random.default_rng(seed)
    for layer in student.layers:
        set_exact_sign = getattr(getattr(layer, "kernel_quantizer", None), "set_exact_sign", None)
        if set_exact_sign is not None:
            set_exact_sign()
        for weight in layer.weights:
            kind = weight.name.rpartition("/")[2].partition(":")[0]
            if kind in ("gamma", "moving_variance"):
                weight.assign(rng.uniform(0.5, 1.5, weight.shape))
            elif kind in ("beta", "moving_mean", "offset", "shift_in", "shift_out", "bias"):
                weight.assign(rng.normal(0, 0.3, weight.shape))
            elif kind in ("slope", "alpha", "share"):
                weight.assign(rng.uniform(0, 0.5, weight.shape))


def reestimate_batch_norms(
    student: Any, pixels: np.ndarray, seed: int = 2, least_variance: float = 0.0
) -> None:
    """Re-estimates batch normalisation's statistics on images, and adds noise to them.

    They are then like trained ones. With other statistics BNext's activations grow from block to
    block by some powers of ten, and a few images' logits are far larger than all others'.

    Args:
        student: Keras model from pixels; changed in place.
        pixels: float `[N, H, W, 3]` in 0..255.
        seed: of the noise.
        least_variance: of a channel, relative to the mean of its layer. Of few images a channel may
            have next to none; with the noise before it, which changes signs, it then has values of
            some hundred deviations.
    """
    rng = np.random.default_rng(seed)
    norms = [layer for layer in student.layers if hasattr(layer, "moving_variance")]
    momenta = [norm.momentum for norm in norms]
    # With momentum 0 the statistics are those of the next call.
    for norm in norms:
        norm.momentum = 0.0
    student(pixels, training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        variance = norm.moving_variance.numpy()
        norm.moving_variance.assign(np.maximum(variance, least_variance * variance.mean()))
        deviation = np.sqrt(norm.moving_variance.numpy())
        norm.moving_mean.assign_add(0.3 * deviation * rng.normal(size=deviation.shape))
        norm.moving_variance.assign(norm.moving_variance * rng.uniform(0.7, 1.4, deviation.shape))


def random_images(count: int, size: int, seed: int = 1) -> np.ndarray:
    """Coloured clouds of zero mean and unit variance each: whole numbers in 0..255, float32."""
    import tensorflow as tf

    noise = np.random.default_rng(seed).normal(size=(count, 8, 8, 3))
    clouds = tf.image.resize(noise, (size, size), method="bicubic").numpy()
    axes = (1, 2, 3)
    clouds = (clouds - clouds.mean(axes, keepdims=True)) / clouds.std(axes, keepdims=True)
    return np.round(np.clip(127.5 + 64 * clouds, 0, 255)).astype(np.float32)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as aligned text."""
    return text_table([_cells(row) for row in rows], _COLUMNS)


def _cells(row: dict[str, Any]) -> dict[str, str]:
    return {
        "student": row["student"],
        "binary M": f"{row['binary_parameters'] / 1e6:.2f}",
        "float M": f"{row['float_parameters'] / 1e6:.2f}",
        "M OPs": f"{row['ops'] / 1e6:.1f}",
        "predicted": human_bytes(row["predicted_bytes"]),
        "LCE file": human_bytes(row["bytes"]),
        "float32 reference model": human_bytes(row["float_bytes"]),
        "ratio": f"{row['ratio']:.1f}",
        "LceBconv2d": f"{row['binary_convolutions']} of {row['binary_layers']}",
        "largest diff.": f"{row['largest_difference']:.1e}",
        "same class %": percent(row["argmax_agreement"]),
    }


def define_flags() -> None:
    """Defines this main's flags: when it runs, as other mains have flags of the same names."""
    defaults = StudentSettings()
    names = ", ".join(STUDENTS)
    flags.DEFINE_list("students", list(STUDENTS), f"some of {names}")
    flags.DEFINE_integer("image_size", defaults.image_size, "side of the input in pixels")
    flags.DEFINE_integer("classes", 1000, "number of classes")
    flags.DEFINE_float("width", defaults.width, "multiplier of the students' channels")
    flags.DEFINE_integer("stem_stride", defaults.stem_stride, "stride of the stems: 2 or 1")
    flags.DEFINE_integer("images", 32, "random images that file and Keras are compared on")
    flags.DEFINE_string("json", None, "where to write the figures")


def main() -> None:
    """Prints the table of --students."""
    given = flags.FLAGS
    unknown = sorted(set(given.students) - set(STUDENTS))
    if unknown or not given.students:
        raise UserError(
            f"--students={','.join(given.students)} is not a list of {', '.join(STUDENTS)}."
        )
    for flag in ("classes", "images"):
        if given[flag].value < 1:
            raise UserError(f"--{flag}={given[flag].value} is out of range; it must be at least 1.")
    if given.json:
        require_writable_file(Path(given.json))
    # Refuses what is out of range in the words of a training.
    settings = StudentSettings(
        image_size=given.image_size, width=given.width, stem_stride=given.stem_stride
    )
    options = {"image_size": settings.image_size, "classes": given.classes, **settings.options}
    rows = [student_row(name, images=given.images, **options) for name in given.students]
    if given.json:
        figures = {**options, "images": given.images, "rows": rows}
        write_atomically(Path(given.json), (json.dumps(figures, indent=2) + "\n").encode())
    print(table(rows))


if __name__ == "__main__":
    define_flags()
    app.run(lambda _: main())
