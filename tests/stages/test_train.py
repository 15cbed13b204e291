"""The student's stage with recipes of more than one step."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.config import Config
from candle_tf.methods.baselines import SupervisedTrainer
from candle_tf.methods.registry import METHODS
from candle_tf.metrics import SCORE
from candle_tf.run_folder import open_run_folder
from candle_tf.stages import student_weights
from candle_tf.stages import train as training
from candle_tf.stages.prepare import prepare
from candle_tf.students.architectures.bnext import _block as bnext_block
from candle_tf.students.architectures.reactnet import _block
from candle_tf.students.architectures.registry import STUDENTS
from candle_tf.students.compute_policy import resolve_compute_policy
from candle_tf.students.layers.blocks import batch_norm, binary_layers
from candle_tf.students.settings import StudentSettings
from tests.stages.interrupt import interrupt

EPOCHS = 2


@pytest.fixture(autouse=True)
def one_block_student(monkeypatch):
    """The first block of ReActNet for the whole of it, whose graph takes long to build."""

    def build(input_shape, classes, **options):  # noqa: ARG001
        pixels = tf.keras.Input(input_shape, name="pixels")
        x = tf.keras.layers.Rescaling(1 / 127.5, offset=-1.0)(pixels)
        x = tf.keras.layers.Conv2D(8, 3, 2, padding="same", name="stem_conv")(x)
        x = _block(batch_norm(x, "stem_bn"), 16, 2, "block01")
        features = tf.keras.layers.GlobalAveragePooling2D(name="features")(x)
        logits = tf.keras.layers.Dense(classes, name="logits")(features)
        return tf.keras.Model(pixels, {"features": features, "logits": logits}, name="one_block")

    monkeypatch.setitem(STUDENTS._targets, "reactnet_a", build)


def _config(run_dir, **settings) -> Config:
    return Config(
        imbalance_factor=20, image_size=16, augmentation="none",
        method="cross_entropy", batch_size=128, epochs=EPOCHS, run_dir=str(run_dir), **settings,
    )  # fmt: skip


def _train(config: Config):
    folder = open_run_folder(config)
    policy = resolve_compute_policy(config.compute.precision, config.compute.xla)
    data = prepare(config, folder)
    return training.train_student(config, data, None, folder.path / "student", policy)


def _epochs(folder) -> int:
    return len(json.loads((folder / "checkpoints" / "progress.json").read_text())["history"])


def test_two_phases_have_a_folder_each_and_resume_in_the_second(tmp_path):
    settings = {"binary_steps": 2, "weight_decay": 5.0, "clip_latent_weights": False}
    whole = _train(_config(tmp_path / "whole", **settings))
    for name in ("student_step1", "student"):
        assert _epochs(tmp_path / "whole" / name) == EPOCHS
        assert (tmp_path / "whole" / name / "history.csv").exists()

    config = _config(tmp_path / "run", **settings)
    with interrupt(SupervisedTrainer, "evaluate", call=2 * EPOCHS):
        _train(config)
    assert [_epochs(tmp_path / "run" / name) for name in ("student_step1", "student")] == [2, 1]
    resumed = _train(config)
    for one, other in zip(resumed.student.weights, whole.student.weights, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-4, atol=1e-5)

    # The same first phase, then a second phase without any decay.
    first_phase = tmp_path / "whole" / "student_step1"
    shutil.copytree(first_phase, tmp_path / "plain" / "student_step1")
    other = _config(tmp_path / "plain", **{**settings, "weight_decay": 0.0})
    other.to_json(tmp_path / "plain" / "config.json")
    shutil.copy(tmp_path / "whole" / "split.json", tmp_path / "plain")
    plain = _train(other)
    for one, other in zip(plain.student.weights, whole.student.weights, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-4, atol=1e-5)

    layers = binary_layers(resumed.student)
    assert len(layers) == 3
    assert all(layer.kernel_constraint is None for layer in layers)


def test_bop_reaches_the_student(tmp_path):
    trained = _train(_config(tmp_path, optimizer="bop", weight_decay=0.01))
    assert trained.checkpoints.epochs_done == EPOCHS
    for layer in binary_layers(trained.student):
        kernel = layer.kernel.numpy()
        np.testing.assert_array_equal(np.abs(kernel), np.ones_like(kernel))


def test_annealed_epochs_are_validated_with_the_statistics_of_signs(tmp_path, monkeypatch):
    """With those of the ramps, which are small at first, it was at the level of chance, 10 %."""

    def build(input_shape, classes, **options):  # noqa: ARG001
        pixels = tf.keras.Input(input_shape, name="pixels")
        x = tf.keras.layers.Rescaling(1 / 127.5, offset=-1.0)(pixels)
        x = batch_norm(tf.keras.layers.Conv2D(8, 3, 2, "same", name="stem_conv")(x), "stem_bn")
        x = bnext_block(x, doubles=False, stride=2, attention=False, name="block01")
        features = tf.keras.layers.GlobalAveragePooling2D(name="features")(x)
        logits = tf.keras.layers.Dense(classes, name="logits")(features)
        return tf.keras.Model(pixels, {"features": features, "logits": logits})

    monkeypatch.setitem(STUDENTS._targets, "reactnet_a", build)
    settings = {"batch_size": 32, "imbalance_factor": 2.0, "epochs": 3}
    config = _config(tmp_path, learning_rate=0.02).replace(**settings)
    history = _train(config).checkpoints.history
    losses = [row["val_loss"] for row in history]
    assert max(losses) < np.log(10), losses
    # The second of the two annealed epochs.
    assert history[1][SCORE] > 0.25, history


def test_a_student_starts_from_a_run_and_resumes_without_it(tmp_path, monkeypatch):
    _train(_config(tmp_path / "first"))
    first = student_weights.starting_weights(
        StudentSettings(student_weights=str(tmp_path / "first"), image_size=16)
    )
    starts = []

    class FirstWeights(tf.keras.callbacks.Callback):
        """In place of the annealing, which one block has none of."""

        quantizers = (None,)
        annealed_epochs = 0

        def __init__(self, *_):
            super().__init__()

        def on_train_begin(self, logs=None):  # noqa: ARG002
            starts.append(self.model.network.get_weights())
            raise KeyboardInterrupt

    config = _config(tmp_path / "second", student_weights=str(tmp_path / "first"))
    with monkeypatch.context() as patch:
        patch.setattr(training, "Annealing", FirstWeights)
        with pytest.raises(KeyboardInterrupt):
            _train(config)
    # The classes are the same, so the classifier is copied too.
    for ours, theirs in zip(starts[0], first.network.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)

    _train(config)
    shutil.rmtree(tmp_path / "first")
    assert _train(config).checkpoints.epochs_done == EPOCHS


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"views": 4, "epochs": 41}, "give --views=5 or more"),
        ({"views": 4, "epochs": 40}, ""),
        ({"views": 4, "epochs": 41, "teacher_mode": "online"}, ""),
        ({"views": 4, "epochs": 41, "teacher_view": "whole"}, ""),
    ],
)
def test_views_that_are_shown_too_often_are_told(settings, told, caplog):
    caplog.set_level("WARNING", logger="absl")
    training.with_epochs(Config(**{"teacher_view": "same", **settings}), images=100_000)
    assert told in caplog.text
    assert ("--views" in caplog.text) == bool(told)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"method": "balanced_softmax", "sampler": "class_balanced"}, True),
        ({"method": "ldam_drw", "sampler": "deferred_square_root"}, True),
        ({"method": "paco", "sampler": "square_root"}, True),
        ({"method": "class_balanced", "sampler": "square_root"}, True),
        ({"method": "post_hoc_logit_adjustment", "sampler": "square_root"}, True),
        ({"method": "dive", "sampler": "square_root"}, True),
        (
            {"method": "dive", "sampler": "square_root", "distillation_label_weight": 0.0},
            False,
        ),
        ({"method": "class_balanced", "sampler": "square_root", "class_balanced_beta": 0.0}, False),
        ({"method": "ltkd", "sampler": "square_root"}, False),
        ({"method": "balanced_softmax"}, False),
        ({"method": "cross_entropy", "sampler": "class_balanced"}, False),
        ({"method": "logit_adjustment", "sampler": "class_balanced", "method_tau": 0.0}, False),
        ({"method": "ldam_drw", "sampler": "deferred_square_root", "sampler_start": 1.0}, False),
    ],
)
def test_a_sampler_beside_a_corrected_loss_is_told(settings, told, caplog):
    caplog.set_level("WARNING", logger="absl")
    training.with_epochs(Config(epochs=1, **settings), images=100_000)
    assert ("favour them twice" in caplog.text) == told


@pytest.mark.parametrize("corrects", [True, False])
def test_a_plugins_method_says_whether_it_corrects(monkeypatch, caplog, corrects):
    def loss(logits, labels, counts):
        raise AssertionError((logits, labels, counts))

    loss.corrects_class_sizes = lambda settings: corrects and settings.method_tau == 0.5
    monkeypatch.setitem(METHODS._targets, "mine", loss)
    caplog.set_level("WARNING", logger="absl")
    config = Config(epochs=1, method="mine", sampler="class_balanced", method_tau=0.5)
    training.with_epochs(config, images=100_000)
    assert ("favour them twice" in caplog.text) == corrects
