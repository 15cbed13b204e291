"""PaCo in the student's stage: resumed, with other options, through a whole run; and refused."""

import json

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.config import Config
from candle_tf.deploy.binarize import make_deployable
from candle_tf.errors import UserError
from candle_tf.methods.contrastive import DIMENSIONS, ContrastiveTrainer
from candle_tf.methods.training_phases import has_float_kernels
from candle_tf.run_folder import RunFolder, open_run_folder
from candle_tf.stages.disk_space import disk_needs
from candle_tf.stages.prepare import prepare
from candle_tf.stages.training_requirements import check_training_requirements
from candle_tf.students.layers.blocks import binary_layers
from tests.command import Command
from tests.stages.interrupt import interrupt
from tests.stages.test_train import _config, _train, one_block_student  # noqa: F401

EPOCHS, QUEUE = 4, 300


def configure(run_dir, **settings) -> Config:
    """Fewer training images than twice the queue, and views that differ."""
    given = {"augmentation": "pad_crop", "paco_queue": QUEUE, "paco_momentum": 0.9, **settings}
    return _config(run_dir).replace(method="paco", epochs=EPOCHS, **given)


def trainer_of(trained, epoch: int = EPOCHS) -> ContrastiveTrainer:
    trained.checkpoints.restore(epoch)
    return trained.checkpoints._checkpoint.trainer


def assert_same_state(one: ContrastiveTrainer, other: ContrastiveTrainer) -> None:
    """All that a next step depends on."""
    for part in ("network", "projector", "momentum_encoder", "queue", "optimizer"):
        values = [_variables(getattr(trainer, part)) for trainer in (one, other)]
        assert len(values[0]) == len(values[1]) > 0
        for first, second in zip(*values, strict=True):
            np.testing.assert_array_equal(first, second, err_msg=part)


def _variables(part) -> list[np.ndarray]:
    variables = part.variables
    return [v.numpy() for v in (variables() if callable(variables) else variables)]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"progressive_sizes": "12:0.5,16:0.75,20", "weight_average": 0.9},
        {"teacher_view": "same", "views": 2, "paco_queue": 100_000},
    ],
    ids=["plain", "sizes_and_averages", "precomputed_views_and_long_queue"],
)
def test_a_resumed_training_is_the_one_that_was_not_interrupted(tmp_path, settings):
    whole = trainer_of(_train(configure(tmp_path / "whole", **settings)))
    again = configure(tmp_path / "again", **settings)
    with interrupt(ContrastiveTrainer, "evaluate", call=3):
        _train(again)
    history = tmp_path / "again" / "student" / "checkpoints" / "progress.json"
    assert len(json.loads(history.read_text())["history"]) == 2
    resumed = trainer_of(_train(again))
    assert_same_state(whole, resumed)

    # The queue holds the labels of the latest images, and no others.
    data = prepare(again, open_run_folder(again))
    images = EPOCHS * (len(data.train) // 128) * 128
    filled = int(resumed.queue.filled)
    assert filled == min(images, settings.get("paco_queue", QUEUE))
    lengths = np.linalg.norm(resumed.queue.keys.numpy(), axis=1)
    np.testing.assert_allclose(lengths[-filled:], 1.0, rtol=1e-5)
    assert (lengths[:-filled] == 0).all()
    # The momentum encoder follows what was trained, not its average.
    encoder = resumed.momentum_encoder.network
    for own, trained in zip(encoder.weights, resumed.network.weights, strict=True):
        assert own.shape == trained.shape
    kernel = encoder.get_layer("logits").kernel.numpy()
    assert not np.array_equal(kernel, resumed.network.get_layer("logits").kernel.numpy())


def test_two_training_phases_have_a_momentum_encoder_each(tmp_path):
    seen = []
    init = ContrastiveTrainer.__init__

    def record(self, student, *args, **options):
        init(self, student, *args, **options)
        network = self.momentum_encoder.network
        seen.append((has_float_kernels(student), has_float_kernels(network)))
        for one, other in zip(student.weights, network.weights, strict=True):
            np.testing.assert_array_equal(one.numpy(), other.numpy())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ContrastiveTrainer, "__init__", record)
        config = configure(tmp_path, binary_steps=2, clip_latent_weights=False)
        trained = _train(config.replace(epochs=1))
    assert seen == [(True, True), (False, False)]
    assert trainer_of(trained, 1).network is trained.student
    assert len(binary_layers(trained.student)) == 3


def test_the_student_alone_is_exported(tmp_path):
    trained = _train(configure(tmp_path).replace(epochs=1))
    trained.checkpoints.restore(1)
    exported = make_deployable(trained.student)
    fresh = configure(tmp_path).student.build(10)
    assert [w.shape for w in trained.student.weights] == [w.shape for w in fresh.weights]
    outside = {DIMENSIONS, QUEUE}
    assert not outside & {size for weight in exported.weights for size in weight.shape}
    pixels = np.random.default_rng(0).uniform(0, 255, (4, 16, 16, 3)).astype(np.float32)
    expected = trained.student(pixels, training=False)["logits"]
    np.testing.assert_allclose(exported(pixels), expected, rtol=1e-4, atol=1e-4)


def test_several_devices_are_refused_before_anything_is_computed(tmp_path):
    config = configure(tmp_path / "run")
    with pytest.raises(UserError, match="--method=paco is for one device: give --strategy=one"):
        check_training_requirements(config, replicas=2)
    check_training_requirements(config, replicas=1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"mix": "mixup"}, ["--mix=mixup", "images of one class", "--mix=none"]),
        ({"recipe": "patient"}, ["--mix=mixup"]),
        ({"optimizer": "bop"}, ["--optimizer=bop", "latent weights", "--optimizer=adam"]),
        ({"teacher_view": "same", "views": 1}, ["--views=1", "two views", "--views=2"]),
    ],
)
def test_what_leaves_no_two_views_is_refused_before_anything_is_computed(tmp_path, settings, parts):
    config = Config(method="paco", run_dir=str(tmp_path / "run"), **settings)
    with pytest.raises(UserError) as error:
        check_training_requirements(config, replicas=1)
    for part in ["--method=paco", *parts]:
        assert part in str(error.value)


def test_a_whole_run_from_the_command_line(tmp_path):
    """A student with native operators where there are some, exported and measured."""
    flags = {
        "method": "paco", "dataset": "digits", "imbalance_factor": 5, "image_size": 16,
        "stem_stride": 1, "plugin": "tests.tiny_parts", "student": "tiny_student",
        "augmentation": "pad_crop", "batch_size": 64, "epochs": 3, "select_epoch": "last",
        "paco_queue": 256, "run_dir": tmp_path / "run", "kernels": "auto",
    }  # fmt: skip
    done = Command("candle_tf.train", *(f"--{k}={v}" for k, v in flags.items())).result()
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    means = {name: metrics["mean"] for name, metrics in report["metrics"].items()}
    assert means["student"] > 0.25
    assert means["tflite"] == pytest.approx(means["student"], abs=0.02)
    steps = (tmp_path / "run" / "student" / "steps.csv").read_text().splitlines()
    assert steps[0].split(",") == ["epoch", "step", "objective"]
    saved = tmp_path / "run" / "export" / "saved_model" / "1" / "variables" / "variables"
    exported = tf.train.load_checkpoint(str(saved)).get_variable_to_shape_map()
    assert not any("queue" in name or "momentum_encoder" in name for name in exported)

    # What was asked for on the disk was enough. A run's plugin is imported by whoever reads it.
    import tests.tiny_parts  # noqa: F401

    config = Config.from_json(tmp_path / "run" / "config.json")
    needs = disk_needs(config, config.student.build(10), RunFolder(tmp_path / "new"))
    written = (tmp_path / "run").glob("student/checkpoints/epoch-0003*")
    assert needs.parts["checkpoints"] >= 3 * sum(path.stat().st_size for path in written)
