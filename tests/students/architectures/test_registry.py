from fnmatch import fnmatch

import pytest
import tensorflow as tf

from candle_tf.config import Config
from candle_tf.errors import UserError
from candle_tf.methods.annealing import find_annealed_quantizers
from candle_tf.registry import Registry
from candle_tf.students.architectures import registry
from candle_tf.students.architectures.registry import STUDENTS, build_student
from candle_tf.students.layers.blocks import binary_layers


@pytest.mark.parametrize("name", STUDENTS)
def test_every_student_has_features_logits_and_binary_layers(name):
    student = build_student(name, (32, 32, 3), 7, width=0.25, stem_stride=1)
    assert set(student.output) == {"features", "logits"}
    assert student.output["logits"].shape.as_list() == [None, 7]
    assert len(student.output["features"].shape) == 2
    names = [layer.name for layer in binary_layers(student)]
    assert len(names) == len(set(names))
    assert bool(names) != name.startswith("float_")
    for_annealed = Config.fields()["anneal_fraction"].metadata["only_for"]
    is_annealed = bool(find_annealed_quantizers(student))
    assert is_annealed == fnmatch(f"student={name}", for_annealed)


def test_options_reach_the_architecture():
    wide, narrow = (
        build_student("reactnet_a", (32, 32, 3), 7, width=width, stem_stride=2)
        for width in (0.5, 0.25)
    )
    assert wide.output["features"].shape[-1] == 2 * narrow.output["features"].shape[-1]


def test_unknown_name_is_refused_with_the_list():
    with pytest.raises(UserError, match=r"--student=reactnet .*reactnet_a"):
        build_student("reactnet", (32, 32, 3), 7)


def model_of(outputs) -> tf.keras.Model:
    """A model of what a function makes of maps [N, 2, 2, 4] and their means [N, 4]."""
    pixels = tf.keras.Input([4, 4, 3])
    maps = tf.keras.layers.Conv2D(4, 2, 2)(pixels)
    return tf.keras.Model(pixels, outputs(maps, tf.reduce_mean(maps, [1, 2])))


def dense(features, classes: int) -> tf.Tensor:
    return tf.keras.layers.Dense(classes)(features)


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        (lambda _, x: {"features": x, "logits": dense(x, 3)},
         r"has 'features' \[None, 4\] and 'logits' \[None, 3\] for 2 classes"),
        (lambda maps, x: {"features": maps, "logits": dense(x, 2)},
         r"has 'features' \[None, 2, 2, 4\] and 'logits' \[None, 2\] for 2 classes"),
        (lambda maps, x: {"features": x, "logits": dense(maps, 2)},
         r"'logits' \[None, 2, 2, 2\]"),
        (lambda _, x: {"logits": dense(x, 2)}, r"outputs are \['logits'\]"),
        (lambda _, x: dense(x, 2), "outputs are KerasTensor and not a dictionary"),
    ],
    ids=["classes", "maps", "logits of maps", "no features", "no dictionary"],
)  # fmt: skip
def test_a_student_of_other_outputs_is_refused(monkeypatch, outputs, words):
    def build(input_shape, classes, *, width=1.0, stem_stride=2):  # noqa: ARG001
        return model_of(outputs)

    monkeypatch.setattr(registry, "STUDENTS", Registry({"mine": build}))
    with pytest.raises(UserError, match=f"student 'mine' .*test_registry:.*{words}.*"):
        build_student("mine", (4, 4, 3), 2, width=0.5, stem_stride=1)


@pytest.mark.parametrize("returned", [None, {"features": 1, "logits": 2}, tf.keras.layers.Dense(2)])
def test_a_student_that_is_no_model_is_refused(monkeypatch, returned):
    monkeypatch.setattr(registry, "STUDENTS", Registry({"mine": lambda *_, **__: returned}))
    kind = type(returned).__name__
    with pytest.raises(UserError, match=rf"'mine'.* returned {kind} and not a Keras model .*"
                       r"'features' \[None, any\] and 'logits' \[None, 2\]"):  # fmt: skip
        build_student("mine", (4, 4, 3), 2)


def test_a_model_that_has_no_outputs_yet_is_refused(monkeypatch):
    class Own(tf.keras.Model):
        """Its outputs are known once it was called."""

    monkeypatch.setattr(registry, "STUDENTS", Registry({"mine": lambda *_, **__: Own()}))
    with pytest.raises(UserError, match="outputs are NoneType and not a dictionary"):
        build_student("mine", (4, 4, 3), 2)


def test_a_student_without_the_arguments_of_the_flags_is_refused(monkeypatch):
    def build(input_shape, classes):
        raise AssertionError((input_shape, classes))

    monkeypatch.setattr(registry, "STUDENTS", Registry({"mine": build}))
    with pytest.raises(UserError, match=r"student 'mine'.* is called with \(input_shape, classes, "
                       r"width=0.5\) and takes \(input_shape, classes\)"):  # fmt: skip
        build_student("mine", (4, 4, 3), 2, width=0.5)
