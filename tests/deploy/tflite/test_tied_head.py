"""The tied classifier in the file: what is folded at the end of training is what was trained."""

import numpy as np
import tensorflow as tf

from candle_tf.deploy.tflite.converter import convert, run
from candle_tf.deploy.tflite.flatbuffer import operators
from candle_tf.methods.balance import FixedBalance, TotalLoss
from candle_tf.methods.distillation import DistillationTrainer, TiedHead
from candle_tf.methods.feature_losses import SquaredErrorLoss
from candle_tf.methods.parameter_groups import ParameterGroup
from tests.deploy.test_binarize import CLASSES, SIZE, photographs, randomize

FEATURES = 24


def test_the_converted_file_gives_the_logits_of_projector_and_teachers_classifier():
    # Not above: pytest imports all modules before the first test, and this one registers names.
    from tests.tiny_parts import tiny_student

    rng = np.random.default_rng(2)
    student = randomize(tiny_student((SIZE, SIZE, 3), CLASSES))
    free = student(photographs().astype(np.float32), training=False)["logits"].numpy()
    loss = SquaredErrorLoss(rng.normal(size=FEATURES), 3.0)
    projector = loss.build_projector(student)
    for weight in projector.weights:
        weight.assign(rng.normal(0, 0.3, weight.shape))
    kernel, bias = rng.normal(size=(FEATURES, CLASSES)), rng.normal(size=CLASSES)
    trainer = DistillationTrainer(
        student,
        CLASSES,
        [ParameterGroup(projector.trainable_variables, tf.keras.optimizers.SGD(0.1))],
        projector=projector,
        balancer=FixedBalance(0.5),
        feature_loss=loss,
        total_loss=TotalLoss(),
        temperature=2.0,
        head=TiedHead(kernel.astype(np.float32), bias.astype(np.float32)),
    )
    unfolded = trainer(photographs().astype(np.float32), training=False).numpy()
    trainer.fold_head()
    folded = student(photographs().astype(np.float32), training=False)["logits"].numpy()
    largest = np.abs(unfolded).max()
    np.testing.assert_allclose(folded, unfolded, atol=1e-5 * largest)
    assert np.abs(free - folded).max() > 0.1 * largest

    flatbuffer = convert(student)
    of_file = run(flatbuffer, photographs(), num_threads=2)
    assert np.median(np.abs(of_file - unfolded).max(axis=1)) < 1e-5 * largest
    # One dense layer, as of a student with a classifier of its own.
    assert [each.name for each in operators(flatbuffer)].count("FULLY_CONNECTED") == 1
