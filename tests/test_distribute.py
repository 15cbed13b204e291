"""Who trains together, and which replica computes which examples of a batch."""

import json

import numpy as np
import pytest

from candle_tf.distribute import ALONE, BatchShare, _read_tf_config, open_workers
from candle_tf.errors import UserError


def _tf_config(cluster, task="worker", index=0) -> str:
    return json.dumps({"cluster": cluster, "task": {"type": task, "index": index}})


@pytest.mark.parametrize("pipelines", [1, 2, 4])
def test_the_shares_of_all_replicas_are_the_batch_in_its_order(pipelines):
    each = 4 // pipelines
    shares = [BatchShare(range(i * each, (i + 1) * each), 4) for i in range(pipelines)]
    places = [np.arange(20)[part] for share in shares for part in share.slices(20)]
    assert [len(part) for part in places] == [5] * 4
    np.testing.assert_array_equal(np.concatenate(places), np.arange(20))
    assert ALONE.slices(7) == [slice(0, 7)]


def test_a_batch_that_cannot_be_divided_equally_is_refused():
    with pytest.raises(UserError, match="batch of 20 examples cannot be divided among 3 replicas"):
        BatchShare(range(1), 3).slices(20)


@pytest.mark.parametrize(("count", "largest"), [(100, 128), (128, 128), (129, 128), (300, 64)])
def test_evaluation_takes_every_example_once_and_no_empty_share(count, largest):
    shares = [BatchShare(range(i, i + 1), 3) for i in range(3)]
    by_replica = [
        [np.arange(count)[places] for places in share.parts(count, largest)] for share in shares
    ]
    assert {len(batches) for batches in by_replica} == {shares[0].steps(count, largest)}
    batches = [np.concatenate(parts) for parts in zip(*by_replica, strict=True)]
    np.testing.assert_array_equal(np.concatenate(batches), np.arange(count))
    assert max(map(len, batches)) <= largest
    lengths = [len(part) for parts in by_replica for part in parts]
    assert min(lengths) > 0
    assert max(lengths) - min(lengths) <= 1


def test_one_replica_evaluates_full_batches_and_the_rest():
    assert list(ALONE.parts(5, 2)) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert list(ALONE.parts(0, 2)) == []


def test_workers_are_numbered_after_the_chief():
    workers = ["b:1", "c:2"]
    assert _read_tf_config("") == (0, ())
    assert _read_tf_config(_tf_config({"worker": workers}, index=1)) == (1, ("b:1", "c:2"))
    cluster = {"chief": ["a:0"], "worker": workers}
    assert _read_tf_config(_tf_config(cluster, "chief")) == (0, ("a:0", "b:1", "c:2"))
    assert _read_tf_config(_tf_config(cluster, index=1)) == (2, ("a:0", "b:1", "c:2"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not what TensorFlow documents"),
        ("[]", "is not what TensorFlow documents"),
        ('{"cluster": {"worker": ["a:1"]}}', "is not what TensorFlow documents"),
        (_tf_config({"worker": ["a:1"]}, index=1), "there is no worker 1"),
        (_tf_config({"worker": ["a"]}), "'a' is not host:port"),
        (_tf_config({"worker": ["a:1"], "ps": ["b:1"]}), "the task 'ps'"),
        (_tf_config({"worker": ["a:1"]}, "evaluator"), "the task 'evaluator'"),
    ],
)
def test_a_tf_config_that_cannot_be_used_is_one_message(text, words):
    with pytest.raises(UserError, match=words):
        _read_tf_config(text)


def test_a_strategy_that_contradicts_tf_config_is_refused(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert open_workers("auto").replicas == 1
    assert open_workers("one").is_chief
    with pytest.raises(UserError, match="--strategy=multi_worker needs"):
        open_workers("multi_worker")
    monkeypatch.setenv("TF_CONFIG", _tf_config({"worker": ["a:1", "b:1"]}))
    for strategy in ("one", "mirrored"):
        with pytest.raises(UserError, match=f"--strategy={strategy} contradicts TF_CONFIG"):
            open_workers(strategy)
    # The only worker trains as if there were none to join.
    monkeypatch.setenv("TF_CONFIG", _tf_config({"worker": ["a:1"]}))
    assert open_workers("auto").count == open_workers("multi_worker").count == 1
