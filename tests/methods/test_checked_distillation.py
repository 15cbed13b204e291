"""Losses and balances of a distillation that cannot be used are refused, with the part's name."""

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.config import Config
from candle_tf.errors import UserError
from candle_tf.methods.balance import TotalLoss
from candle_tf.methods.checked_distillation import refuse_distillation_arguments, try_distillation
from candle_tf.methods.feature_losses import CosineLoss
from candle_tf.methods.logit_losses import KullbackLeibler
from candle_tf.methods.registry import BALANCES, FEATURE_LOSSES, LOGIT_LOSSES
from candle_tf.methods.settings import BalanceSettings
from candle_tf.stages.training_requirements import check_training_requirements

COUNTS = np.array([50, 20, 3])
REGISTRIES = {"balance": BALANCES, "feature_loss": FEATURE_LOSSES, "logit_loss": LOGIT_LOSSES}


class Scalar(KullbackLeibler):
    def __call__(self, teacher_logits, student_logits, temperature):
        return tf.reduce_mean(super().__call__(teacher_logits, student_logits, temperature))


class NoMean(KullbackLeibler):
    of_mean = None


class NeedsAll(KullbackLeibler):
    needs_all_logits = True


class Infinite(KullbackLeibler):
    def of_uniform(self, teacher_logits, temperature):
        del teacher_logits, temperature
        return np.inf


class Column(CosineLoss):
    def __call__(self, projected, teacher_features):
        return super().__call__(projected, teacher_features)[:, tf.newaxis]


class NoReference(CosineLoss):
    reference = None


class NoLambda(TotalLoss):
    def balance(self, balancer, kl, fs, labels, step, labelled=None):
        logs = super().balance(balancer, kl, fs, labels, step, labelled)
        return {name: value for name, value in logs.items() if name != "lambda"}


@pytest.fixture
def register():
    """Registers a part as "mine" for the time of a test."""
    given = []

    def add(kind: str, part: object) -> BalanceSettings:
        REGISTRIES[kind].register("mine", part)
        given.append(kind)
        return BalanceSettings(**{kind: "mine"})

    yield add
    for kind in given:
        del REGISTRIES[kind]._targets["mine"], REGISTRIES[kind]._texts["mine"]


def half(counts, done):
    return 0 * counts + done


# What is wrong without computing anything.
ARGUMENTS = [
    ("logit_loss", half, r"'mine' \(.*:half\) has no method of_uniform, which an object"),
    ("logit_loss", KullbackLeibler, r"'mine' \(.*\): `of_uniform` is called with \(blocks, temp"),
    ("logit_loss", NoMean(), "'mine': `of_mean` is of type NoneType, which cannot be called"),
    ("logit_loss", NeedsAll(), "'mine': `needs_all_logits` is True; asked is a text"),
    ("feature_loss", lambda settings: settings, r"is called with \(settings, teacher\) and takes "),
    ("feature_loss", 3, "'mine' is of type int, which cannot be called"),
    ("balance", lambda settings: settings, r"is called with \(settings, inputs\) and takes "),
]  # fmt: skip
# What is known when it is computed.
VALUES = [
    ("logit_loss", Scalar(), r"'mine' gave float32 \(\) for logits \(5, 3\); asked is one loss"),
    ("logit_loss", Infinite(), "'mine': `of_uniform` is inf; asked is one finite number"),
    ("feature_loss", half, r"'mine' \(.*:half\) raised TypeError for a few made-up examples: "),
    ("feature_loss", lambda *_: np.add, r"gave ufunc, which has no reference, of_mean, build_proj"),
    ("feature_loss", lambda *_: Column(np.zeros(8)), r"gave float32 \(5, 1\) for"),
    ("feature_loss", lambda *_: NoReference(np.zeros(8)), "`reference` is None; asked is one fin"),
    ("balance", half, r"'mine' \(.*:half\) raised TypeError for a few made-up examples: "),
    ("balance", lambda *_: 3, "gave int; asked is a candle_tf.methods.balance.TotalLoss"),
    ("balance", lambda *_: NoLambda(), "`balance` gave .*; asked are scalars 'objective', 'kl', "),
    ("balance", lambda *_: TotalLoss(entropy_weight=np.nan), "'objective' of `balance` is nan"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "part", "words"), ARGUMENTS)
def test_what_cannot_be_called_as_it_will_be_is_refused_before_any_work(
    register, kind, part, words
):
    settings = register(kind, part)
    with pytest.raises(UserError, match=words):
        refuse_distillation_arguments(settings)
    for method in ("candle", "candle_crt"):
        with pytest.raises(UserError, match=words):
            check_training_requirements(Config(method=method, **{kind: "mine"}), replicas=1)


@pytest.mark.parametrize(("kind", "part", "words"), [*ARGUMENTS, *VALUES])
def test_what_gives_something_else_is_refused_by_a_few_examples(register, kind, part, words):
    settings = register(kind, part)
    with pytest.raises(UserError, match=words) as caught:
        try_distillation(settings, COUNTS)
    assert str(caught.value).startswith(f"{kind.replace('_', ' ')} 'mine'")


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, names in REGISTRIES.items() for name in names]
)
def test_all_parts_of_the_package_pass(kind, name):
    settings = BalanceSettings(**{kind: name})
    refuse_distillation_arguments(settings)
    try_distillation(settings, COUNTS)
