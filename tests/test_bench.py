"""The benchmarks' main on a small student; no figure is asserted, only what is made of it."""

import json

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.students.compute_policy import PLAIN, ComputePolicyLayer
from tests.command import start
from tools.bench import ROWS, TARGETS, table_of
from tools.benchmarks import step
from tools.benchmarks.step_profile import profile_operators, shares_by_kind
from tools.benchmarks.workload import Workload, cross_entropy, plain_cross_entropy

SMALL = Workload(width=0.125, image_size=32, batch_size=4, classes=3, steps=1)


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("--rows=stpe", "--rows=stpe"),
        ("--rows=", ", ".join(ROWS)),
        ("--repeats=0", "repeats"),
    ],
)
def test_mistakes_are_told_without_a_traceback(argument, told):
    done = start("tools.bench", argument)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_the_step_row_holds_what_is_asked_for():
    figures = step.step_ratios(SMALL, (4,), repeats=2)
    figure = figures["step_ratio_b4"]
    assert figure["min"] <= figure["median"] <= figure["max"]
    assert set(figure["images_per_s"]) == set(figure["profile"]) == {"ours", "plain"}
    quotients = np.divide(figure["seconds"]["plain"], figure["seconds"]["ours"])
    np.testing.assert_allclose(figure["median"], np.median(quotients))
    for profile in figure["profile"].values():
        np.testing.assert_allclose(sum(profile.values()), 1)
        assert profile["convolutions"] > 0
    outside = {side: 1 - profile["convolutions"] for side, profile in figure["profile"].items()}
    assert figure["outside_products"] == outside
    json.dumps(figures)


def test_kernels_are_compared_with_the_flags_plain_ones():
    figure = step.kernels_ratio(SMALL, repeats=1)
    assert figure["student"]["kernels"] == "auto"
    assert set(figure["seconds"]) == {"ours", "plain"}


def test_precisions_are_compared_with_the_same_operators():
    figure = step.precision_ratio(SMALL, repeats=1)
    assert figure["student"]["kernels"] == "auto"
    assert figure["precision"] == SMALL.compute_policy.dtype
    assert set(figure["seconds"]) == {"ours", "plain"}


def test_every_batch_size_is_timed_on_as_many_images():
    figures = step.step_ratios(SMALL, (2, 4), repeats=1)
    for figure in figures.values():
        assert figure["student"]["batch_size"] * figure["student"]["steps"] == 4
        told = 4 / figure["seconds"]["ours"][0]
        np.testing.assert_allclose(figure["images_per_s"]["ours"], told)


def test_the_plain_side_is_kerass_adam_on_the_plain_composition():
    plain, ours = plain_cross_entropy(SMALL), cross_entropy(SMALL)
    assert type(plain.optimizer) is tf.keras.optimizers.Adam
    assert type(ours.optimizer) is not tf.keras.optimizers.Adam
    policies = [
        {
            layer.compute_policy
            for layer in trainer.network.layers
            if isinstance(layer, ComputePolicyLayer)
        }
        for trainer in (plain, ours)
    ]
    assert policies[0] == {PLAIN}
    assert policies[1] == {SMALL.compute_policy}


def test_a_profile_names_the_operators_that_ran():
    x = tf.ones([64, 64])
    work = tf.function(lambda: tf.reduce_sum(tf.matmul(x, x)))
    work()
    milliseconds = profile_operators(lambda: work().numpy())
    assert any("MatMul" in name for name in milliseconds)
    assert not any("inference" in name for name in milliseconds)
    assert list(milliseconds.values()) == sorted(milliseconds.values(), reverse=True)


def test_shares_are_by_kind():
    milliseconds = {
        "_MklNativeConv2DBackpropFilter": 2.0,
        "DepthwiseConv2dNative": 1.0,
        "_MklMatMul": 1.0,
        "ResourceApplyAdam": 2.0,
        "Cast": 1.0,
        "_MklNativeFusedBatchNormV3": 1.0,
    }
    assert shares_by_kind(milliseconds) == {
        "convolutions": 0.5,
        "weight update": 0.25,
        "element-wise": 0.125,
        "batch norm": 0.125,
    }


def test_the_table_says_what_is_asked_beside_what_was_measured():
    figure = {"median": 2.0, "min": 1.9, "max": 2.12, "images_per_s": {"ours": 50.0, "plain": 25.0}}
    text = table_of({"step_ratio_b32": {**figure, "profile": {"ours": {"convolutions": 0.75}}}})
    told = ("2.00", "1.90", "2.12", TARGETS["step_ratio_b32"], "ours 50.0", "convolutions 75%")
    assert [part for part in told if part not in text] == []


def test_the_table_tells_growth_and_memory():
    sizes = {"10": {"median": 1.0}, "8142": {"median": 1.23}}
    memory = {"peak": [2999.6, 3000.2], "growth": 1.5}
    text = table_of({"step_growth": {"by_classes": sizes}, "memory_plain": memory})
    assert "step_growth by classes: 10: 1.00, 8142: 1.23" in text
    assert "--kernels=plain: peak 3,000, 3,000; growth 2" in text
