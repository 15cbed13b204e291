"""Teachers of a user's own: what is wrong with one is told with its name, before it is used."""

import pytest
import tensorflow as tf

from candle_tf.errors import UserError
from candle_tf.registry import Registry
from candle_tf.teachers import backbones, settings
from candle_tf.teachers.backbones import Backbone, load_teacher, refuse_unknown_teachers
from candle_tf.teachers.settings import TeacherSettings


def identity(pixels: tf.Tensor) -> tf.Tensor:
    return pixels


def model_of(change) -> tf.keras.Model:
    pixels = tf.keras.Input([None, None, 3])
    return tf.keras.Model(pixels, change(tf.keras.layers.Conv2D(4, 3, 2)(pixels)))


def register(monkeypatch, **teachers) -> None:
    for module in (backbones, settings):
        monkeypatch.setattr(module, "TEACHERS", Registry(teachers))


def load_mine(returned):
    def load(choice, weights, sha256):  # noqa: ARG001
        return returned

    return load


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda: None, "returned NoneType and not a Backbone"),
        (lambda: model_of(tf.identity), "returned Functional and not a Backbone"),
        (lambda: Backbone(identity, identity), "returned a Backbone of function and function"),
        (lambda: Backbone(model_of(tf.identity), None), "Backbone of Functional and None"),
        (lambda: Backbone(model_of(lambda x: tf.reduce_mean(x, [1, 2, 3])), identity),
         r"its model gave an output of shape \(None,\)"),
        (lambda: Backbone(model_of(lambda x: tf.reduce_mean(x, 1)), identity),
         r"its model gave an output of shape \(None, None, 4\)"),
        (lambda: Backbone(model_of(lambda x: x[:, :, 0, 0]), identity),
         r"its model gave an output of shape \(None, None\)"),
    ],
)  # fmt: skip
def test_a_teacher_that_is_no_backbone_is_refused(monkeypatch, returned, words):
    register(monkeypatch, mine=load_mine(returned()))
    with pytest.raises(UserError, match=rf"^teacher 'mine' \(.*load_mine.*\):? .*{words}"):
        load_teacher("mine")


def test_maps_and_features_are_taken(monkeypatch):
    maps = Backbone(model_of(tf.identity), identity)
    features = Backbone(model_of(lambda x: tf.reduce_mean(x, [1, 2])), identity)
    register(monkeypatch, maps=load_mine(maps), features=load_mine(features))
    assert load_teacher("maps+features").feature_size == 8


def test_arguments_are_known_before_a_teacher_is_loaded(monkeypatch):
    def load(choice):
        raise AssertionError(choice)

    register(monkeypatch, mine=load, right=load_mine(None))
    words = r"teacher 'mine' .* is called with \(choice, weights, sha256\) and takes \(choice\)"
    with pytest.raises(UserError, match=words):
        refuse_unknown_teachers(TeacherSettings(teacher="right+mine"))
    refuse_unknown_teachers(TeacherSettings(teacher="right"))
