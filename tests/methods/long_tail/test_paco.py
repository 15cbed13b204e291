"""PaCo's loss against loops over examples and classes, and the signs of its gradients."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax

from candle_tf.methods.long_tail.paco import paco_loss
from candle_tf.methods.long_tail.settings import BaselineSettings
from candle_tf.methods.losses import balanced_softmax
from candle_tf.methods.registry import METHODS

COUNTS = np.array([80, 15, 5])
CLASSES, EXAMPLES, OTHERS = 3, 6, 11
OPTIONS = {"temperature": 0.2, "alpha": 0.05, "beta": 1.0}


def made_batch(seed: int = 0) -> dict[str, np.ndarray]:
    """The last three of the others count for no example, as places of an unfilled queue do not."""
    rng = np.random.default_rng(seed)
    counted = rng.uniform(size=(EXAMPLES, OTHERS)) < 0.8
    counted[:, -3:] = False
    return {
        "logits": rng.normal(0, 2, (EXAMPLES, CLASSES)).astype(np.float32),
        "labels": rng.integers(0, CLASSES, EXAMPLES).astype(np.int32),
        "cosines": rng.uniform(-1, 1, (EXAMPLES, OTHERS)).astype(np.float32),
        "other_labels": rng.integers(0, CLASSES, OTHERS).astype(np.int32),
        "counted": counted,
    }


def loss_of(batch, counts=COUNTS, **options):
    return paco_loss(**batch, counts=counts, **{**OPTIONS, **options})


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.07}, {"alpha": 0.5, "beta": 0.3}, {"alpha": 0.0}, {"beta": 2.0}],
)
def test_the_loss_is_that_of_loops(options):
    batch, chosen = made_batch(), {**OPTIONS, **options}
    for i, actual in enumerate(loss_of(batch, **options).numpy()):
        there = [j for j in range(OTHERS) if batch["counted"][i, j]]
        scores = [batch["logits"][i, c] + np.log(COUNTS[c] / 100) for c in range(CLASSES)]
        scores += [batch["cosines"][i, j] / chosen["temperature"] for j in there]
        weights = [chosen["beta"] * (c == batch["labels"][i]) for c in range(CLASSES)]
        weights += [
            chosen["alpha"] * (batch["other_labels"][j] == batch["labels"][i]) for j in there
        ]
        assert 0 < len(there) < OTHERS - 2
        log_p = log_softmax(np.array(scores, np.float64))
        assert actual == pytest.approx(-np.dot(weights, log_p) / np.sum(weights), rel=1e-5)


def test_what_does_not_count_changes_nothing():
    batch = made_batch()
    changed = {**batch, "cosines": np.where(batch["counted"], batch["cosines"], 1.0)}
    changed["other_labels"] = np.r_[batch["other_labels"][:-3], 0, 1, 2].astype(np.int32)
    np.testing.assert_array_equal(loss_of(batch), loss_of(changed))


def test_without_others_it_is_balanced_softmax():
    batch = made_batch()
    batch["counted"][:] = False
    expected = balanced_softmax(batch["logits"], batch["labels"], COUNTS)
    np.testing.assert_allclose(loss_of(batch), expected, rtol=1e-5)


def gradients(batch, counts=COUNTS, **options):
    logits, cosines = (tf.constant(batch[name]) for name in ("logits", "cosines"))
    with tf.GradientTape() as tape:
        tape.watch([logits, cosines])
        loss = tf.reduce_sum(
            loss_of({**batch, "logits": logits, "cosines": cosines}, counts, **options)
        )
    return [gradient.numpy() for gradient in tape.gradient(loss, [logits, cosines])]


def test_positives_pull_and_other_classes_push():
    """With all similarities alike, a positive has more of the weight than of the probability."""
    batch = made_batch()
    batch["logits"][:] = 0
    batch["cosines"][:] = 0
    of_logits, of_cosines = gradients(batch, np.ones(CLASSES), alpha=1.0)
    own_class = batch["labels"][:, np.newaxis] == np.arange(CLASSES)
    assert (of_logits[own_class] < 0).all()
    assert (of_logits[~own_class] > 0).all()
    same = batch["labels"][:, np.newaxis] == batch["other_labels"]
    counted = batch["counted"]
    assert (of_cosines[counted & same] < 0).all()
    assert (of_cosines[counted & ~same] > 0).all()
    assert (of_cosines[~counted] == 0).all()
    assert min((counted & same).sum(), (counted & ~same).sum()) > 5
    # With alpha = 0 every other pushes.
    assert (gradients(batch, alpha=0.0)[1][counted] > 0).all()


def test_the_prior_moves_the_centres_alone_and_asks_more_of_rare_classes():
    batch = made_batch()
    shifted = {**batch, "logits": batch["logits"] + np.log(COUNTS / 100 * 3).astype(np.float32)}
    np.testing.assert_allclose(loss_of(batch), loss_of(shifted, np.ones(3)), rtol=1e-5)
    batch["logits"][:] = 0
    batch["labels"] = np.array([0, 2] * 3, np.int32)
    batch["counted"][:] = False
    of_logits, _ = gradients(batch)
    of_equal, _ = gradients(batch, np.ones(3))
    assert (of_logits[1::2, 2] < of_equal[1::2, 2]).all()
    assert (of_logits[::2, 0] > of_equal[::2, 0]).all()
    assert (of_logits[::2, 0] < 0).all()


def test_the_settings_reach_the_loss_and_the_encoder():
    settings = BaselineSettings(
        paco_queue=7, paco_momentum=0.9, paco_temperature=0.5, paco_alpha=0.3, paco_beta=2.0
    )
    contrast = METHODS["paco"].build(settings, COUNTS)
    assert (contrast.queue_length, contrast.momentum) == (7, 0.9)
    batch = made_batch()
    expected = loss_of(batch, temperature=0.5, alpha=0.3, beta=2.0)
    np.testing.assert_array_equal(contrast.loss(*batch.values()), expected)
    default = METHODS["paco"].build(BaselineSettings(), COUNTS)
    assert (default.queue_length, default.momentum) == (8192, 0.999)
    np.testing.assert_array_equal(default.loss(*batch.values()), loss_of(batch))
