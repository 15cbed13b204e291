"""--progressive_sizes and --weight_average in the student's stage."""

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.data.pipeline import training_batches
from candle_tf.deploy.binarize import make_deployable
from candle_tf.errors import UserError
from candle_tf.methods.annealing import Annealing, find_annealed_quantizers
from candle_tf.methods.baselines import SupervisedTrainer
from candle_tf.run_folder import open_run_folder
from candle_tf.stages import student_weights
from candle_tf.stages import train as training
from candle_tf.stages.prepare import prepare
from candle_tf.stages.student_views import student_augmentation
from candle_tf.stages.training_requirements import check_training_requirements
from candle_tf.students.architectures.registry import STUDENTS
from candle_tf.students.compute_policy import resolve_compute_policy
from candle_tf.students.layers.annealed_sign import BNextKernelSign
from candle_tf.students.layers.binary_conv import BinaryConv2D
from candle_tf.students.layers.blocks import binary_layers
from candle_tf.students.settings import StudentSettings
from tests.stages.interrupt import interrupt
from tests.stages.test_candle_options import _teacher
from tests.stages.test_train import _config, _train, one_block_student  # noqa: F401

SIZES = {"progressive_sizes": "12:0.5,16:0.75,20", "weight_average": 0.9}
EPOCHS = 4


def test_a_training_across_sizes_resumes_and_holds_averages(tmp_path):
    traced = []
    losses = SupervisedTrainer.compute_losses

    def record(self, batch, training):
        traced.append(batch["inputs"].shape.as_list())
        return losses(self, batch, training)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SupervisedTrainer, "compute_losses", record)
        config = _config(tmp_path / "whole").replace(epochs=EPOCHS, **SIZES)
        whole = _train(config)
    assert traced == [[128, side, side, 3] for side in (12, 16, 20)]

    again = config.replace(run_dir=str(tmp_path / "resumed"))
    with interrupt(SupervisedTrainer, "evaluate", call=2):
        _train(again)
    resumed = _train(again)
    for run in (whole, resumed):
        run.checkpoints.restore(EPOCHS)
    trainers = [run.checkpoints._checkpoint.trainer for run in (whole, resumed)]
    assert len(trainers[0].weights) == len(trainers[1].weights)
    for one, other in zip(trainers[0].weights, trainers[1].weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=one.name)

    _check_statistics(config, whole.student)
    _check_export(whole.student, trainers[0])
    counts = prepare(config, open_run_folder(config)).validation_counts
    whole.checkpoints.restore_selected(config.training.select_epoch, counts)
    start = student_weights.starting_weights(
        StudentSettings(student_weights=str(tmp_path / "whole"), image_size=16)
    )
    for one, other in zip(start.network.weights, whole.student.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def _check_statistics(config, student) -> None:
    """Those of the averaged stem's outputs for the last epoch's views of 16 pixels."""
    data = prepare(config, open_run_folder(config))
    batches = training_batches(
        data.train, image_size=16, augmentation=student_augmentation(config), batch_size=128,
        seed=config.run.seed, first_epoch=EPOCHS - 1, epochs=EPOCHS,
    )  # fmt: skip
    stem, norm = student.get_layer("stem_conv"), student.get_layer("stem_bn")
    values = np.concatenate([stem(b["inputs"] / 127.5 - 1.0).numpy() for b in batches])
    values = values.astype(np.float64)
    mean, variance = values.mean(axis=(0, 1, 2)), values.var(axis=(0, 1, 2))
    np.testing.assert_allclose(norm.moving_mean.numpy(), mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm.moving_variance.numpy(), variance, rtol=1e-4, atol=1e-6)


def _check_export(student, trainer) -> None:
    """What is exported has the averages' signs and floats, and not those of the last step."""
    exported = make_deployable(student)
    trained = {v.ref(): a.numpy() for v, a in zip(
        trainer._minimizing_variables, trainer.weight_average.values, strict=True
    )}  # fmt: skip
    for layer in binary_layers(student):
        kernel = exported.get_layer(layer.name).kernel.numpy()
        np.testing.assert_array_equal(kernel > 0, layer.kernel.numpy() >= 0)
    kernel = exported.get_layer("logits").kernel.numpy()
    np.testing.assert_array_equal(kernel, student.get_layer("logits").kernel.numpy())
    assert not np.allclose(kernel, trained[student.get_layer("logits").kernel.ref()], atol=1e-4)
    pixels = np.random.default_rng(0).uniform(0, 255, (4, 16, 16, 3)).astype(np.float32)
    np.testing.assert_allclose(
        exported(pixels), student(pixels, training=False)["logits"], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("settings", "epochs"),
    [
        ({}, None),
        ({"progressive_sizes": "12:0.5,16:0.75,20"}, {0, 1, 3}),
        ({"weight_average": 0.9}, {0, 1, 2, 3}),
        ({"reestimate_batch_norm": True}, {0, 1, 2, 3}),
    ],
)
def test_statistics_are_estimated_where_those_of_training_do_not_serve(tmp_path, settings, epochs):
    config = _config(tmp_path).replace(epochs=EPOCHS, **settings)
    student = config.student.build(10)
    found = training._reestimation(config, None, student, Annealing([], EPOCHS, 0.8), steps=3)
    assert [each._epochs for each in found] == ([] if epochs is None else [epochs])


@pytest.mark.parametrize("nested", [False, True])
def test_statistics_of_signs_are_estimated_while_kernels_are_annealed(tmp_path, caplog, nested):
    """Where they can be: a student that was trained before is not refused for them."""
    pixels = tf.keras.Input([8, 8, 3])
    x = BinaryConv2D(4, 3, kernel_quantizer=BNextKernelSign())(pixels)
    norm = tf.keras.layers.BatchNormalization(name="inner_bn")
    student = tf.keras.Model(pixels, tf.keras.Sequential([norm])(x) if nested else norm(x))
    annealing = Annealing(find_annealed_quantizers(student), EPOCHS, 0.5)
    config = _config(tmp_path).replace(epochs=EPOCHS, progressive_sizes="")
    found = training._reestimation(config, None, student, annealing, steps=3)
    assert [each._epochs for each in found] == ([] if nested else [{0, 1}])
    said = "cannot be estimated (the batch norm inner_bn is inside of another layer)"
    assert (said in caplog.text) == nested


def test_a_second_stage_keeps_the_averages_of_the_first(tmp_path):
    settings = {"weight_average": 0.9, "progressive_sizes": "12:0.5,16", "classifier_epochs": 1}
    trained = _train(_config(tmp_path, **settings).replace(method="crt"))
    trained.checkpoints.restore_selected("last")
    classes = trained.student.output["logits"].shape[-1]
    first = StudentSettings(image_size=16).build(classes)
    reader = tf.Module()
    reader.network = first
    stage1 = training.Checkpoints(tmp_path / "student_stage1" / "checkpoints", reader)
    stage1.read_network(2)
    for one, other in zip(first.layers, trained.student.layers, strict=True):
        pairs = zip(one.get_weights(), other.get_weights(), strict=True)
        same = all(np.array_equal(before, after) for before, after in pairs)
        assert same == (one.name != "logits"), one.name


def test_a_tied_classifier_is_folded_from_the_averaged_projector(tmp_path):
    """With the teacher's views, whose side is its own."""
    config = _config(tmp_path).replace(
        method="candle", teacher_view="same", feature_loss="r2", student_head="tied",
        label_weight="0.5", weight_average=0.9, progressive_sizes="12:0.5,16", prior_correction="0",
    )  # fmt: skip
    folder = open_run_folder(config)
    data = prepare(config, folder)
    teacher = _teacher(data)
    policy = resolve_compute_policy(config.compute.precision, config.compute.xla)
    trained = training.train_student(
        config, data, teacher.targets, folder.path / "student", policy, teacher
    )
    trained.checkpoints.restore_selected("last")
    trainer = trained.checkpoints._checkpoint.trainer
    pixels = np.random.default_rng(0).uniform(0, 255, (4, 16, 16, 3)).astype(np.float32)
    logits = trained.student(pixels, training=False)["logits"].numpy()
    np.testing.assert_allclose(logits, trainer(pixels).numpy(), rtol=1e-3, atol=1e-3)
    trainer.exchange_average()
    assert not np.allclose(logits, trainer(pixels).numpy(), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("settings", "replicas", "said"),
    [
        ({"weight_average": 0.9}, 2, "--weight_average=0.9 is for one device"),
        ({"reestimate_batch_norm": True}, 2, "--reestimate_batch_norm is for one device"),
        (
            {"progressive_sizes": "12:0.5,16", "student": "flat"},
            1,
            "--progressive_sizes=12:0.5,16: --student=flat of 16 pixels cannot be trained on "
            "images of 12",
        ),
        (
            {"progressive_sizes": "20:0.5,40", "student": "quicknet_small", "image_size": 32},
            1,
            "cannot be trained on images of 20: --image_size=20 is too small for quicknet_small",
        ),
        (
            {"weight_average": 0.9, "student": "nested"},
            1,
            "cannot estimate the statistics of --student=nested: the batch norm inner_bn is inside",
        ),
    ],
)
def test_what_cannot_be_trained_so_is_refused(tmp_path, monkeypatch, settings, replicas, said):
    def flat(input_shape, classes, **_):
        pixels = tf.keras.Input(input_shape)
        features = tf.keras.layers.Flatten()(pixels)
        logits = tf.keras.layers.Dense(classes, name="logits")(features)
        return tf.keras.Model(pixels, {"features": features, "logits": logits})

    def inner_model(input_shape, classes, **_):
        pixels = tf.keras.Input(input_shape)
        inner = tf.keras.Sequential([tf.keras.layers.BatchNormalization(name="inner_bn")])
        features = tf.keras.layers.GlobalAveragePooling2D()(inner(pixels))
        logits = tf.keras.layers.Dense(classes, name="logits")(features)
        return tf.keras.Model(pixels, {"features": features, "logits": logits})

    monkeypatch.setitem(STUDENTS._targets, "flat", flat)
    monkeypatch.setitem(STUDENTS._targets, "nested", inner_model)
    config = _config(tmp_path / "run").replace(**settings)
    with pytest.raises(UserError) as caught:
        check_training_requirements(config, replicas)
    assert said in str(caught.value)
    assert not (tmp_path / "run").exists()
