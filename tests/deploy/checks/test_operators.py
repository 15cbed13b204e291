import larq as lq
import numpy as np
import pytest
import tensorflow as tf

from candle_tf.deploy.checks.errors import ExportError
from candle_tf.deploy.checks.operators import check_binary
from candle_tf.deploy.tflite.converter import convert
from candle_tf.students.layers.blocks import batch_norm, binary_conv
from candle_tf.students.layers.quantizers import ApproxSign, ScaledSign
from tests.deploy.test_binarize import randomize, small_student


@pytest.fixture(scope="module")
def flatbuffer() -> bytes:
    return convert(small_student())


def _chain(first_pad: float = 1.0, first_sign: bool = True) -> tf.keras.Model:
    """Two binary convolutions, the first of which can be written so that it turns to float."""
    pixels = tf.keras.Input((8, 8, 3), name="pixels")
    x = tf.keras.layers.Conv2D(32, 3, padding="same", name="stem")(pixels)
    if first_sign:
        x = ApproxSign(name="sign_1")(x)
    if first_pad == 1.0:
        x = binary_conv(x, 32, 3, 1, name="first")
    else:
        x = tf.keras.layers.ZeroPadding2D(1)(x)
        x = lq.layers.QuantConv2D(32, 3, kernel_quantizer=ScaledSign(), name="first")(x)
    x = ApproxSign(name="sign_2")(batch_norm(x, "long_name_of_the_first_batch_normalisation"))
    x = batch_norm(binary_conv(x, 32, 3, 1, name="second"), "bn_2")
    x = tf.keras.layers.GlobalAveragePooling2D()(x)
    return tf.keras.Model(pixels, {"logits": tf.keras.layers.Dense(4, name="logits")(x)})


@pytest.mark.parametrize("options", [{"first_sign": False}, {"first_pad": 0.0}])
def test_a_layer_that_became_float_is_named(options):
    student = randomize(_chain(**options))
    converted = convert(student)
    with pytest.raises(ExportError, match=r"1 binary .* has 2; not binary: first\.") as refusal:
        check_binary(converted, student, "x.tflite")
    assert "x.tflite" in str(refusal.value)


def test_a_dead_channel_stays_binary():
    student = randomize(_chain())
    kernel = student.get_layer("first").kernel
    kernel.assign(kernel.numpy() * (np.arange(32) != 5))
    assert check_binary(convert(student), student)["LceBconv2d"] == 2


def test_float_use_of_a_sign_and_layers_the_engine_lacks_are_refused(flatbuffer):
    pixels = tf.keras.Input((8, 8, 3), name="pixels")
    sign = ApproxSign()(tf.keras.layers.Conv2D(32, 3, name="stem")(pixels))
    both = binary_conv(sign, 32, 3, 1, name="binary") * tf.keras.layers.ReLU()(sign)
    logits = tf.keras.layers.Dense(4)(tf.keras.layers.GlobalAveragePooling2D()(both))
    student = randomize(tf.keras.Model(pixels, {"logits": logits}))
    with pytest.raises(ExportError, match="1 LceDequantize"):
        check_binary(convert(student), student)

    features = small_student().output["features"]
    dense = lq.layers.QuantDense(4, kernel_quantizer="ste_sign", name="dense_bits")(features)
    student = tf.keras.Model(small_student().input, {"logits": dense})
    with pytest.raises(ExportError, match="no binary form of dense_bits"):
        check_binary(flatbuffer, student)


def test_a_float_layer_the_student_lacks_is_refused(flatbuffer):
    student = small_student()
    without_head = tf.keras.Model(student.input, {"logits": student.output["features"]})
    with pytest.raises(ExportError, match=r"1 FULLY_CONNECTED .* has 0"):
        check_binary(flatbuffer, without_head)
