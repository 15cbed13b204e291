import pytest
import tensorflow as tf

from candle_tf.methods.optimizers import adam
from candle_tf.methods.trainer import ParameterGroup, Trainer


class _Saddle(Trainer):
    """objective = x^2 - y^2 + x y: x descends on it and y maximize."""

    def __init__(self) -> None:
        pixels = tf.keras.Input([1])
        dense = tf.keras.layers.Dense(2, name="logits")
        super().__init__(tf.keras.Model(pixels, {"logits": dense(pixels)}), 2, "saddle")
        self.x = tf.Variable(2.0)
        self.y = tf.Variable(1.0)
        self.descent = tf.keras.optimizers.SGD(0.1)
        self.ascent = tf.keras.optimizers.SGD(0.01)

    def terms(self, batch, training):  # noqa: ARG002
        return {"objective": self.x**2 - self.y**2 + self.x * self.y, "y": self.y + 0.0}

    def parameter_groups(self):
        return [
            ParameterGroup(self.descent, [self.x]),
            ParameterGroup(self.ascent, [self.y], maximize=True),
        ]


def test_players_move_at_once_in_their_own_directions():
    trainer = _Saddle().ready()
    terms = trainer.train_step({})
    # Both gradients are taken at (2, 1), before either has moved.
    assert terms["objective"].numpy() == pytest.approx(5.0)
    assert terms["y"].numpy() == pytest.approx(1.0)
    assert trainer.x.numpy() == pytest.approx(2.0 - 0.1 * (2 * 2.0 + 1.0))
    assert trainer.y.numpy() == pytest.approx(1.0 + 0.01 * (-2 * 1.0 + 2.0))
    trainer.train_step({})
    assert trainer.y.numpy() == pytest.approx(1.0 + 0.01 * (-2 * 1.0 + 1.5))


def test_ready_gives_every_optimizer_its_slots():
    weights = [tf.Variable(tf.ones([3])), tf.Variable(tf.ones([2]))]

    class Two(_Saddle):
        def parameter_groups(self):
            return [
                ParameterGroup(self.descent, weights[:1]),
                ParameterGroup(self.ascent, weights[1:], True),
            ]

    trainer = Two()
    trainer.descent, trainer.ascent = adam(0.1), adam(0.1)
    trainer.ready()
    for optimizer, weight in ((trainer.descent, weights[0]), (trainer.ascent, weights[1])):
        shapes = [variable.shape.as_list() for variable in optimizer.variables]
        assert shapes.count(weight.shape.as_list()) == 2


class _Shared(_Saddle):
    """objective = x^2 + w^2 - y^2."""

    def __init__(self) -> None:
        super().__init__()
        self.w = tf.Variable(3.0)

    def terms(self, batch, training):  # noqa: ARG002
        return {"objective": self.x**2 + self.w**2 - self.y**2}

    def parameter_groups(self):
        descent = ParameterGroup(self.descent, [self.x, self.w])
        return [descent, ParameterGroup(self.ascent, [self.y], maximize=True)]


def test_variables_handed_over_move_by_their_own_optimizer_at_once_with_the_others():
    trainer = _Shared()
    trainer.set_optimizer([trainer.w], tf.keras.optimizers.SGD(0.25))
    trainer.ready().train_step({})
    assert trainer.x.numpy() == pytest.approx(2.0 - 0.1 * 2 * 2.0)
    assert trainer.w.numpy() == pytest.approx(3.0 - 0.25 * 2 * 3.0)
    assert trainer.y.numpy() == pytest.approx(1.0 + 0.01 * -2 * 1.0)
    moved = [[v.ref() for v in group.variables] for group in trainer.moves()]
    assert moved == [[trainer.x.ref()], [trainer.y.ref()], [trainer.w.ref()]]


def test_what_does_not_descend_cannot_be_handed_over():
    trainer = _Shared()
    for variable in (trainer.y, tf.Variable(0.0, name="stranger")):
        with pytest.raises(ValueError, match=f"{variable.name} is not among"):
            trainer.set_optimizer([variable], tf.keras.optimizers.SGD(0.1))
