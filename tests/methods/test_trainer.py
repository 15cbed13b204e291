import numpy as np
import pytest
import tensorflow as tf

from candle_tf.methods.trainer import Player, Trainer, adam, cosine_schedule


def _expected_rate(step: int, peak: float, steps: int, warmup: int) -> float:
    if step < warmup:
        return peak * step / warmup
    return peak * 0.5 * (1 + np.cos(np.pi * (step - warmup) / (steps - warmup)))


@pytest.mark.parametrize(("steps", "fraction", "warmup"), [(100, 0.1, 10), (200, 0.0, 0)])
def test_cosine_schedule(steps, fraction, warmup):
    schedule = cosine_schedule(0.004, steps, fraction)
    actual = [float(schedule(step)) for step in range(steps + 1)]
    expected = [_expected_rate(step, 0.004, steps, warmup) for step in range(steps + 1)]
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-8)
    assert actual[warmup] == pytest.approx(0.004)
    assert actual[-1] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_cosine_schedule_of_a_very_short_training_is_finite(steps):
    schedule = cosine_schedule(0.004, steps, 0.99)
    rates = [float(schedule(step)) for step in range(steps + 1)]
    assert np.isfinite(rates).all()
    assert max(rates) == pytest.approx(0.004)


class _Saddle(Trainer):
    """objective = x^2 - y^2 + x y: x descends on it and y ascends."""

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

    def players(self):
        return [Player(self.descent, [self.x]), Player(self.ascent, [self.y], ascends=True)]


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
        def players(self):
            return [Player(self.descent, weights[:1]), Player(self.ascent, weights[1:], True)]

    trainer = Two()
    trainer.descent, trainer.ascent = adam(0.1), adam(0.1)
    trainer.ready()
    for optimizer, weight in ((trainer.descent, weights[0]), (trainer.ascent, weights[1])):
        shapes = [variable.shape.as_list() for variable in optimizer.variables]
        assert shapes.count(weight.shape.as_list()) == 2
