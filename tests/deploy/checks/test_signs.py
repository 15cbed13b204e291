"""Files that differ from Keras by signs at their threshold, and files that are wrong."""

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from candle_tf.deploy.checks.agreement import check_agreement
from candle_tf.deploy.checks.errors import ExportError
from candle_tf.deploy.checks.signs import SignAgreement, check_signs
from candle_tf.deploy.tflite.converter import convert, convert_float, run
from candle_tf.deploy.tflite.flatbuffer import (
    append_outputs,
    operators,
    unpack_signs,
)
from candle_tf.deploy.tflite.interpreters import open_compute_engine, open_litert
from candle_tf.students.layers.blocks import batch_norm, binary_conv, binary_layers
from candle_tf.students.layers.quantizers import ApproxSign
from tests.deploy.test_binarize import photographs, randomize, small_student

CHANNELS = 40  # more than one word of 32, and the second is not full
CLASSES = 6


def tie_student() -> tf.keras.Model:
    """A student of which many activations are at their threshold, up to rounding.

    A binary convolution gives few values, multiples of its channel's scale. Where batch
    normalisation subtracts one of them but for its last bit, and nothing else is added, rounding
    decides the sign of every activation of that value.
    """
    pixels = tf.keras.Input((16, 16, 3), name="pixels")
    x = tf.keras.layers.Rescaling(1 / 127.5, offset=-1.0)(pixels)
    x = tf.keras.layers.Conv2D(CHANNELS, 3, padding="same", use_bias=False, name="stem")(x)
    x = ApproxSign(name="sign_0")(batch_norm(x, "stem_bn"))
    for number in (1, 2, 3):
        x = binary_conv(x, CHANNELS, 3, 1, name=f"conv_{number}")
        x = ApproxSign(name=f"sign_{number}")(batch_norm(x, f"bn_{number}"))
    x = batch_norm(binary_conv(x, CHANNELS, 3, 2, name="conv_4"), "bn_4")
    x = tf.keras.layers.GlobalAveragePooling2D()(x)
    student = tf.keras.Model(
        pixels, {"logits": tf.keras.layers.Dense(CLASSES, name="logits")(x)}, name="ties"
    )
    randomize(student)
    for number in (1, 2, 3):
        conv, norm = student.get_layer(f"conv_{number}"), student.get_layer(f"bn_{number}")
        scales = np.abs(conv.kernel_quantizer(conv.kernel.numpy()).numpy()).max(axis=(0, 1, 2))
        last_bit = np.where(np.arange(CHANNELS) % 2, 1e-7, -1e-7)
        norm.moving_mean.assign(4 * scales * (1 + last_bit))
        norm.beta.assign(np.zeros(CHANNELS))
    return student


@pytest.fixture(scope="module")
def ties() -> tuple[tf.keras.Model, bytes]:
    student = tie_student()
    return student, convert(student)


@pytest.fixture(scope="module")
def small() -> tuple[tf.keras.Model, bytes]:
    return small_student(), convert(small_student())


def images(side: int) -> np.ndarray:
    return np.round(tf.image.resize(photographs(), (side, side)).numpy()).astype(np.uint8)


def check(student: tf.keras.Model, flatbuffer: bytes) -> SignAgreement:
    pixels = images(student.input_shape[1])
    return check_signs(flatbuffer, student, pixels, "file", open_compute_engine)


def test_ties_are_told_from_a_wrong_file(ties):
    student, flatbuffer = ties
    pixels = images(16)
    expected = student(pixels.astype(np.float32), training=False)["logits"].numpy()
    # By its outputs alone the file would be refused.
    with pytest.raises(ExportError, match="quantile"):
        check_agreement(expected, run(flatbuffer, pixels), "file")
    agreement = check(student, flatbuffer)
    assert agreement.images == len(pixels)
    assert agreement.signs == len(pixels) * 4 * 16 * 16 * CHANNELS
    assert agreement.flipped > 100
    assert agreement.farthest_flipped < 1e-6
    assert agreement.largest_difference < 1e-5


def test_the_float_file_has_the_same_check(ties):
    student, _ = ties
    agreement = check_signs(convert_float(student), student, images(16), "file", open_litert)
    assert agreement.signs == 24 * 4 * 16 * 16 * CHANNELS
    assert agreement.farthest_flipped < 1e-6


def patch(
    flatbuffer: bytes, operator: str, index: int, given: int, change: Callable[[np.ndarray], None]
) -> bytes:
    """The file with one constant changed in place.

    Args:
        flatbuffer: the content of the file.
        operator: name of the operators that count, and of the one that must follow after a "/".
        index: which of them.
        given: number of the constant among its inputs.
        change: changes the constant, float32 or int32, as an array of the tensor's shape.
    """
    content = bytearray(flatbuffer)
    model = schema.Model.GetRootAsModel(content, 0)
    graph = model.Subgraphs(0)
    names = [step.name for step in operators(flatbuffer)]
    pairs = [f"{name}/{following}" for name, following in zip(names, [*names[1:], ""], strict=True)]
    sought = operator if "/" in operator else f"{operator}/"
    place = [number for number, pair in enumerate(pairs) if pair.startswith(sought)][index]
    tensor = graph.Tensors(graph.Operators(place).Inputs(given))
    dtype = np.float32 if tensor.Type() == schema.TensorType.FLOAT32 else np.int32
    values = model.Buffers(tensor.Buffer()).DataAsNumpy().view(dtype)
    change(values.reshape(tensor.ShapeAsNumpy()))
    assert bytes(content) != flatbuffer
    return bytes(content)


def flip_a_bit(words: np.ndarray) -> None:
    words[3, 1, 1, 0] ^= 1 << 5


def swap_channels(values: np.ndarray) -> None:
    values[..., [2, 5]] = values[..., [5, 2]]


def swap_kernels(words: np.ndarray) -> None:
    words[[2, 5]] = words[[5, 2]]


def add_to_one(values: np.ndarray) -> None:
    values.reshape(-1)[3] += 0.1


def scale_one(values: np.ndarray) -> None:
    values.reshape(-1)[3] *= 1.05


def negate(values: np.ndarray) -> None:
    np.negative(values, out=values)


# Operator, its place among those of its name, number of the input, change.
BROKEN = {
    "a bit of a kernel": ("LceBconv2d", 2, 1, flip_a_bit),
    "kernels in another order": ("LceBconv2d", 0, 1, swap_kernels),
    "the threshold of one channel": ("ADD/LceQuantize", 1, 1, add_to_one),
    "a scale of one channel": ("LceBconv2d", 1, 2, scale_one),
    "scales in another order": ("LceBconv2d", 4, 2, swap_channels),
    "a shift of one channel": ("LceBconv2d", 3, 3, add_to_one),
    "slopes in another order": ("PRELU", 1, 1, swap_channels),
    "the stem": ("CONV_2D", 0, 1, scale_one),
    "the classifier": ("FULLY_CONNECTED", 0, 1, negate),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_is_broken_in_one_place_is_refused(small, name):
    student, flatbuffer = small
    operator, index, given, change = BROKEN[name]
    with pytest.raises(ExportError, match="file "):
        check(student, patch(flatbuffer, operator, index, given, change))


def raise_all(values: np.ndarray) -> None:
    values += 2


@pytest.mark.parametrize(
    ("given", "change"),
    [(1, flip_a_bit), (1, swap_kernels), (4, raise_all)],
    ids=["kernel", "channels", "thresholds"],
)
def test_ties_do_not_hide_a_broken_file(ties, given, change):
    student, flatbuffer = ties
    with pytest.raises(ExportError, match="file "):
        check(student, patch(flatbuffer, "LceBconv2d", 1, given, change))


def test_wrong_padding_is_refused():
    """Another student's file: of the same weights, padded with 0 where ours pads with 1."""
    student = small_student()
    wrong = tf.keras.models.clone_model(student)
    wrong.set_weights(student.get_weights())
    for layer in binary_layers(wrong):
        layer.pad_values = 0.0
    with pytest.raises(ExportError, match="before block01_point_conv have another sign"):
        check(student, convert(wrong))


def test_a_sound_file_has_no_flipped_sign(small):
    agreement = check(*small)
    assert agreement.flipped <= 2
    assert agreement.largest_difference < 1e-5


def test_channels_that_batch_normalisation_turns_around_or_off():
    """A negative scale turns a channel's kernel around in the file; one of 0 leaves none."""
    student = tie_student()
    for number in (1, 2, 3, 4):
        gamma = np.linspace(-1, 1, CHANNELS)
        gamma[7] = 0.0
        student.get_layer(f"bn_{number}").gamma.assign(gamma)
        student.get_layer(f"bn_{number}").beta.assign(np.full(CHANNELS, 0.3))
    assert check(student, convert(student)).farthest_flipped < 1e-6


def test_more_outputs_leave_the_first_as_it_is(small):
    _, flatbuffer = small
    steps = [step for step in operators(flatbuffer) if step.name == "LceBconv2d"]
    watched = open_compute_engine(append_outputs(flatbuffer, [step.source for step in steps]))
    pixels = photographs()[:1]
    outputs = watched.invoke(pixels)
    assert len(outputs) == 1 + len(steps)
    np.testing.assert_array_equal(outputs[0], run(flatbuffer, pixels))


def test_signs_are_unpacked_as_the_engine_packs_them():
    words = np.array([[0b101, -1]], np.int32)
    signs = unpack_signs(words, 40)
    assert signs.shape == (1, 40)
    assert signs[0, :4].tolist() == [-1, 1, -1, 1]
    assert (signs[0, 4:32] == 1).all()
    assert (signs[0, 32:] == -1).all()
