import pytest
import tensorflow as tf

from candle_tf.methods.optimizers import adam
from candle_tf.methods.parameter_groups import ParameterGroup
from candle_tf.methods.trainer import TOTAL_LOSS, Trainer


class _Saddle(Trainer):
    """The total loss is x^2 + w^2 - y^2 + x y: x and w minimize it and y maximizes it."""

    def __init__(self, x: tf.Variable, y: tf.Variable, w: tf.Variable, groups) -> None:
        pixels = tf.keras.Input([1])
        dense = tf.keras.layers.Dense(2, name="logits")
        network = tf.keras.Model(pixels, {"logits": dense(pixels)})
        super().__init__(network, 2, groups, name="saddle")
        self.x, self.y, self.w = x, y, w

    def compute_losses(self, batch, training):  # noqa: ARG002
        total_loss = self.x**2 + self.w**2 - self.y**2 + self.x * self.y
        return {TOTAL_LOSS: total_loss, "y": self.y + 0.0}


def _saddle(*groups: tuple[str, tf.keras.optimizers.Optimizer, bool]) -> _Saddle:
    variables = {"x": tf.Variable(2.0), "y": tf.Variable(1.0), "w": tf.Variable(0.0)}
    return _Saddle(
        **variables,
        groups=[
            ParameterGroup([variables[name] for name in names], optimizer, maximize)
            for names, optimizer, maximize in groups
        ],
    )


def _sgd(rate: float) -> tf.keras.optimizers.Optimizer:
    return tf.keras.optimizers.SGD(rate)


def test_groups_move_at_once_in_their_own_directions():
    trainer = _saddle(("x", _sgd(0.1), False), ("y", _sgd(0.01), True))
    losses = trainer.train_step({})
    # Both gradients are taken at (2, 1), before either has moved.
    assert losses[TOTAL_LOSS].numpy() == pytest.approx(5.0)
    assert losses["y"].numpy() == pytest.approx(1.0)
    assert trainer.x.numpy() == pytest.approx(2.0 - 0.1 * (2 * 2.0 + 1.0))
    assert trainer.y.numpy() == pytest.approx(1.0 + 0.01 * (-2 * 1.0 + 2.0))
    trainer.train_step({})
    assert trainer.y.numpy() == pytest.approx(1.0 + 0.01 * (-2 * 1.0 + 1.5))


def test_a_new_trainer_has_every_optimizers_slots():
    weights = [tf.Variable(tf.ones([3])), tf.Variable(tf.ones([2]))]
    minimizer, maximizer = adam(0.1), adam(0.1)
    groups = [ParameterGroup(weights[:1], minimizer), ParameterGroup(weights[1:], maximizer, True)]
    _Saddle(*(tf.Variable(0.0) for _ in range(3)), groups)
    for optimizer, weight in ((minimizer, weights[0]), (maximizer, weights[1])):
        shapes = [variable.shape.as_list() for variable in optimizer.variables]
        assert shapes.count(weight.shape.as_list()) == 2


def test_two_groups_that_minimize_move_by_their_own_optimizers_at_once():
    trainer = _saddle(("x", _sgd(0.1), False), ("w", _sgd(0.25), False), ("y", _sgd(0.01), True))
    trainer.w.assign(3.0)
    trainer.train_step({})
    assert trainer.x.numpy() == pytest.approx(2.0 - 0.1 * (2 * 2.0 + 1.0))
    assert trainer.w.numpy() == pytest.approx(3.0 - 0.25 * 2 * 3.0)
    assert trainer.y.numpy() == pytest.approx(1.0 + 0.01 * (-2 * 1.0 + 2.0))
    moved = [[v.ref() for v in group.variables] for group in trainer.parameter_groups]
    assert moved == [[trainer.x.ref()], [trainer.w.ref()], [trainer.y.ref()]]


@pytest.mark.parametrize("maximize", [False, True])
def test_a_variable_in_two_groups_is_refused(maximize):
    with pytest.raises(ValueError, match="is in two parameter groups"):
        _saddle(("xw", _sgd(0.1), False), ("w", _sgd(0.1), maximize))


def test_a_trainer_without_groups_is_refused():
    with pytest.raises(ValueError, match="at least one parameter group"):
        _saddle()


def test_checkpoints_hold_every_optimizer_under_the_names_of_earlier_runs(tmp_path):
    trainer = _saddle(("x", adam(0.1), False), ("w", adam(0.1), False), ("y", adam(0.1), True))
    path = tf.train.Checkpoint(trainer=trainer).write(str(tmp_path / "epoch"))
    names = [name for name, _ in tf.train.list_variables(path)]
    for optimizer in ("_optimizer", "_other_optimizer", "_balance_optimizer"):
        stored = [name for name in names if name.startswith(f"trainer/{optimizer}/")]
        assert len(stored) >= 4, optimizer  # iterations, rate, two moments
