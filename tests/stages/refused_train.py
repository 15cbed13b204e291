"""`candle_tf.train` whose export goes wrong in one place: for the tests of what is refused.

    python -m tests.stages.refused_train WHAT FLAGS...

WHAT is "tflite" (a bit of a binary kernel is flipped) or "saved_model" (its classes are in another
order).
"""

import sys
from typing import Any

import candle_tf  # noqa: F401  # chooses Keras 2 before TensorFlow is imported


def break_tflite() -> None:
    """Flips the signs of a channel's bits in each file for the engine."""
    from candle_tf.stages import export_tflite
    from tests.deploy.checks.test_signs import flip_a_bit, patch

    convert = export_tflite.convert
    export_tflite.convert = lambda student: patch(convert(student), "LceBconv2d", 0, 1, flip_a_bit)


def break_saved_model() -> None:
    """The network that is saved gives its classes in the other order."""
    import tensorflow as tf

    from candle_tf.deploy.saved_model import writer

    make_deployable = writer.make_deployable

    def make_other(student: Any) -> Any:
        # Not by its weights, which are the student's own variables.
        model = make_deployable(student)
        return tf.keras.Model(model.inputs, tf.reverse(model.output, axis=[1]))

    writer.make_deployable = make_other


def main() -> None:
    """Patches what exports, and trains."""
    what = sys.argv.pop(1)
    from candle_tf import app
    from candle_tf.train import main as train

    def train_and_break(config: Any) -> None:
        {"tflite": break_tflite, "saved_model": break_saved_model}[what]()
        train(config)

    app.define_config_flags()
    app.run(lambda _: train_and_break(app.config_from_flags()))


if __name__ == "__main__":
    main()
