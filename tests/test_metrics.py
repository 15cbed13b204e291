"""Metrics against loops, scikit-learn and cases worked out by hand."""

import json
import math

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from candle_tf import metrics

NAMES = ["a", "b", "c", "d", "e"]
GROUPS = {"many": np.array([0, 1]), "medium": np.array([2, 3]), "few": np.array([4])}


def _random_case(seed=0, images=200, classes=5):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, images)
    logits = random.normal(size=(images, classes)) * 3
    logits[np.arange(images), labels] += random.uniform(0, 3, images)
    return logits, labels


def _with_confidence(confidence, classes=2):
    """Logits whose softmax gives class 0 exactly these probabilities."""
    confidence = np.asarray(confidence, float)
    rest = np.repeat(((1 - confidence) / (classes - 1))[:, None], classes - 1, axis=1)
    return np.log(np.concatenate([confidence[:, None], rest], axis=1))


def _loop_accuracies(logits, labels, classes):
    hits, seen = [0] * classes, [0] * classes
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        seen[label] += 1
        hits[label] += row.index(max(row)) == label
    return [h / s if s else None for h, s in zip(hits, seen, strict=True)]


def test_per_class_mean_and_groups_agree_with_a_loop():
    logits, labels = _random_case()
    result = metrics.evaluate_logits(logits, labels, GROUPS, NAMES)
    expected = _loop_accuracies(logits, labels, 5)
    assert result.per_class == pytest.approx(expected)
    assert result.groups["many"] == pytest.approx((expected[0] + expected[1]) / 2)
    assert result.groups["medium"] == pytest.approx((expected[2] + expected[3]) / 2)
    assert result.groups["few"] == pytest.approx(expected[4])
    assert result.group_classes == {"many": 2, "medium": 2, "few": 1}
    assert result.worst_accuracy == pytest.approx(min(expected))
    assert result.worst_class == NAMES[expected.index(min(expected))]
    assert result.images == 200


@pytest.mark.parametrize("seed", range(5))
def test_mean_and_overall_agree_with_scikit_learn(seed):
    logits, labels = _random_case(seed, images=97)
    result = metrics.evaluate_logits(logits, labels, GROUPS, NAMES)
    predicted = logits.argmax(1)
    assert result.mean == pytest.approx(sklearn_metrics.balanced_accuracy_score(labels, predicted))
    assert result.overall == pytest.approx(sklearn_metrics.accuracy_score(labels, predicted))


def test_mean_weighs_classes_and_overall_weighs_images():
    # Nine images of class 0, all right; one of class 1, wrong.
    result = metrics.evaluate_logits(np.tile([1.0, 0.0], (10, 1)), [0] * 9 + [1], {}, NAMES[:2])
    assert result.mean == pytest.approx(0.5)
    assert result.overall == pytest.approx(0.9)
    assert (result.worst_class, result.worst_accuracy) == ("b", 0.0)


def test_empty_group_is_absent():
    logits, labels = _random_case()
    groups = {"many": np.arange(5), "medium": np.array([], np.int64), "few": []}
    result = metrics.evaluate_logits(logits, labels, groups, NAMES)
    assert list(result.groups) == ["many"]
    assert list(result.group_classes) == ["many"]


def test_class_without_test_images_is_left_out_and_listed():
    logits, labels = _random_case()
    keep = (labels != 1) & (labels != 4)
    result = metrics.evaluate_logits(logits[keep], labels[keep], GROUPS, NAMES)
    expected = _loop_accuracies(logits[keep], labels[keep], 5)
    assert result.per_class[1] is None
    assert result.per_class[4] is None
    assert result.untested_classes == ("b", "e")
    assert result.mean == pytest.approx((expected[0] + expected[2] + expected[3]) / 3)
    assert result.groups["many"] == pytest.approx(expected[0])
    assert "few" not in result.groups
    assert result.worst_class not in ("b", "e")


def test_ten_classes_without_test_images_are_named_and_the_rest_counted():
    assert metrics.untested_sentence([]) == ""
    said = metrics.untested_sentence([f"class {c}" for c in range(1012)])
    assert said.startswith("1,012 classes have no test images and are not in the means: class 0, ")
    assert said.endswith(", class 9 and 1,002 more")


def test_a_mean_of_zero_is_reported_as_zero_not_as_absent():
    result = metrics.evaluate_logits([[0.0, 1.0]], [0], {"many": [0], "few": [1]}, NAMES[:2])
    assert result.groups == {"many": 0.0}
    assert result.mean == 0.0


def test_calibration_error_is_zero_when_every_bin_is_as_right_as_it_is_sure():
    # Four images at .75, three of them right; five at .6, three of them right.
    logits = _with_confidence([0.75] * 4 + [0.6] * 5)
    labels = [0, 0, 0, 1, 0, 0, 0, 1, 1]
    result = metrics.evaluate_logits(logits, labels, {}, NAMES[:2])
    assert result.expected_calibration_error == pytest.approx(0, abs=1e-12)


def test_calibration_error_of_an_overconfident_classifier_by_hand():
    # .95: one of four right, gap .7; .55: three of six right, gap .05.
    logits = _with_confidence([0.95] * 4 + [0.55] * 6)
    labels = [0, 1, 1, 1, 0, 0, 0, 1, 1, 1]
    result = metrics.evaluate_logits(logits, labels, {}, NAMES[:2])
    assert result.expected_calibration_error == pytest.approx(0.4 * 0.7 + 0.6 * 0.05)


def test_calibration_error_nets_out_only_within_a_bin():
    # Both in the bin (14/15, 1]: gaps of opposite sign cancel there.
    logits = _with_confidence([0.95, 0.97])
    together = metrics.evaluate_logits(logits, [0, 1], {}, NAMES[:2])
    assert together.expected_calibration_error == pytest.approx(abs(0.5 - 0.96))
    # In two bins they do not.
    apart = metrics.evaluate_logits(_with_confidence([0.6, 0.97]), [0, 1], {}, NAMES[:2])
    assert apart.expected_calibration_error == pytest.approx((0.4 + 0.97) / 2)


def test_calibration_error_agrees_with_a_loop_over_bins():
    logits, labels = _random_case(3, images=500)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    error = 0.0
    for b in range(15):
        rows = [
            (max(p), p.index(max(p)) == label)
            for p, label in zip(probabilities.tolist(), labels.tolist(), strict=True)
            if b / 15 < max(p) <= (b + 1) / 15
        ]
        if rows:
            confidence = sum(r[0] for r in rows) / len(rows)
            accuracy = sum(r[1] for r in rows) / len(rows)
            error += len(rows) / 500 * abs(accuracy - confidence)
    result = metrics.evaluate_logits(logits, labels, {}, NAMES)
    assert result.expected_calibration_error == pytest.approx(error)


def test_reliability_closes_bins_on_the_right_and_marks_empty_ones():
    probabilities = np.array([[0.5, 0.5], [0.25, 0.75], [0.0, 1.0]])
    diagram = metrics.reliability(probabilities, [0, 0, 1], bins=4)
    assert diagram.counts.tolist() == [0, 1, 1, 1]
    assert np.isnan(diagram.accuracy[0])
    assert np.isnan(diagram.confidence[0])
    assert diagram.accuracy[1:].tolist() == [1, 0, 1]
    assert diagram.confidence[1:].tolist() == [0.5, 0.75, 1.0]
    assert diagram.edges.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert diagram.expected_calibration_error == pytest.approx((0.5 + 0.75 + 0) / 3)


def test_reliability_refuses_logits():
    with pytest.raises(ValueError, match=r"outside 0 to 1.*softmax"):
        metrics.reliability([[2.0, -1.0]], [0])


def test_softmax_is_stable_and_agrees_with_the_definition():
    logits = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    direct = [[math.exp(z) / sum(map(math.exp, row)) for z in row] for row in logits.tolist()]
    np.testing.assert_allclose(metrics.softmax(logits), direct)
    np.testing.assert_allclose(metrics.softmax(logits + 5000), direct)
    np.testing.assert_allclose(metrics.softmax(np.float16([[60000, -60000]])), [[1, 0]])
    assert metrics.softmax([[1, 1]]).tolist() == [[0.5, 0.5]]


def test_large_logits_give_a_finite_calibration_error():
    result = metrics.evaluate_logits([[1e4, -1e4], [1e4, 0]], [0, 1], {}, NAMES[:2])
    assert result.expected_calibration_error == pytest.approx(0.5)


def test_json_round_trip_keeps_every_value():
    logits, labels = _random_case()
    keep = labels != 2
    result = metrics.evaluate_logits(logits[keep], labels[keep], GROUPS, NAMES)
    text = json.dumps(result.to_json(), allow_nan=False)
    assert metrics.Metrics.from_json(json.loads(text)) == result


def _loop_scores(predicted, labels, classes):
    """Precision and F1 of each class by counting, None where they are not defined."""
    precision, f1 = [], []
    for c in range(classes):
        hits = sum(p == t == c for p, t in zip(predicted, labels, strict=True))
        of_class, as_class = sum(t == c for t in labels), sum(p == c for p in predicted)
        precision.append(hits / as_class if of_class and as_class else None)
        recall = hits / of_class if of_class else None
        if hits:
            f1.append(2 * precision[c] * recall / (precision[c] + recall))
        else:
            f1.append(0.0 if of_class else None)
    return precision, f1


@pytest.mark.parametrize("seed", range(3))
def test_precision_and_f1_agree_with_a_loop(seed):
    logits, labels = _random_case(seed, images=60, classes=12)
    # Nothing is predicted as class 3; class 5 has no image; of class 7 none is right.
    logits[:, 3], logits[labels == 7, 7] = -50, -40
    keep = labels != 5
    result = metrics.evaluate_logits(
        logits[keep], labels[keep], {}, [f"class {c}" for c in range(12)]
    )
    predicted = logits[keep].argmax(1).tolist()
    precision, f1 = _loop_scores(predicted, labels[keep].tolist(), 12)
    assert result.per_class_precision == pytest.approx(precision)
    assert result.per_class_f1 == pytest.approx(f1)
    assert result.per_class_precision[3] is result.per_class_f1[5] is None
    assert (result.per_class_f1[3], result.per_class_f1[7]) == (0, 0)
    assert (result.per_class_precision[5], result.per_class[5]) == (None, None)


@pytest.mark.parametrize("images", [40, 2500])
def test_top_5_agrees_with_sorted_logits(images):
    logits, labels = _random_case(4, images=images, classes=30)
    keep = labels != 6
    logits, labels = logits[keep], labels[keep]
    result = metrics.evaluate_logits(logits, labels, {}, list(map(str, range(30))))
    best = np.argsort(-logits, axis=1)[:, :5]
    hits = [label in row for label, row in zip(labels, best, strict=True)]
    expected = np.mean([np.mean(np.array(hits)[labels == c]) for c in np.unique(labels)])
    assert result.top_5 == pytest.approx(expected)
    assert result.mean < result.top_5 < 1


def test_top_5_of_equal_logits_are_the_first_classes_as_of_argmax():
    labels = np.arange(12)
    result = metrics.evaluate_logits(np.zeros((12, 12)), labels, {}, list(map(str, labels)))
    assert result.top_5 == pytest.approx(5 / 12)
    assert result.mean == pytest.approx(1 / 12)
    first = metrics.evaluate_logits(np.zeros((5, 12)), labels[:5], {}, list(map(str, labels)))
    assert first.top_5 == 1


@pytest.mark.parametrize(("classes", "has_top_5"), [(10, False), (11, True)])
def test_top_5_is_told_of_more_than_ten_classes(classes, has_top_5):
    logits, labels = _random_case(classes=classes)
    result = metrics.evaluate_logits(logits, labels, {}, list(map(str, range(classes))))
    assert (result.top_5 is not None) == has_top_5


def test_values_of_older_versions_are_read():
    logits, labels = _random_case(classes=11)
    result = metrics.evaluate_logits(logits, labels, {}, list(map(str, range(11))))
    values = result.to_json()
    for name in ("top_5", "per_class_precision", "per_class_f1"):
        del values[name]
    read = metrics.Metrics.from_json(json.loads(json.dumps(values)))
    assert (read.top_5, read.per_class_precision, read.per_class_f1) == (None, (), ())
    assert read.per_class == result.per_class


@pytest.mark.parametrize(
    ("name", "value"),
    [("top_5", 1.5), ("top_5", "0.5"), ("per_class_f1", [0.5]), ("per_class_precision", 0.5),
     ("per_class_f1", [2.0] * 5)],
)  # fmt: skip
def test_scores_that_are_none_are_refused_by_name(name, value):
    values = metrics.evaluate_logits(*_random_case(), GROUPS, NAMES).to_json()
    with pytest.raises(ValueError, match=f"{name} is not what it should be"):
        metrics.Metrics.from_json({**values, name: value})


def test_from_json_names_missing_and_unknown_fields():
    logits, labels = _random_case()
    values = metrics.evaluate_logits(logits, labels, GROUPS, NAMES).to_json()
    values["median"] = values.pop("mean")
    with pytest.raises(ValueError, match=r"missing \['mean'\], unknown \['median'\]"):
        metrics.Metrics.from_json(values)


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (np.zeros((3, 2)), np.zeros(4, int)),
        (np.zeros((3, 2)), np.zeros((3, 1), int)),
        (np.zeros(3), np.zeros(3, int)),
        (np.zeros((0, 2)), np.zeros(0, int)),
    ],
)
def test_shapes_that_do_not_fit_are_quoted(logits, labels):
    with pytest.raises(ValueError, match="shape") as caught:
        metrics.evaluate_logits(logits, labels, {}, NAMES[:2])
    assert str(logits.shape) in str(caught.value)
    assert str(labels.shape) in str(caught.value)


def test_logits_that_are_not_finite_are_counted_by_row():
    logits = np.zeros((4, 2))
    logits[0] = np.nan
    logits[2, 1] = np.inf
    with pytest.raises(ValueError, match="2 of 4 rows"):
        metrics.evaluate_logits(logits, [0, 0, 1, 1], {}, NAMES[:2])


def test_values_out_of_range_are_refused():
    logits = np.zeros((2, 2))
    with pytest.raises(ValueError, match=r"labels range from 0 to 2.* 2 classes"):
        metrics.evaluate_logits(logits, [0, 2], {}, NAMES[:2])
    with pytest.raises(ValueError, match="labels range from -1"):
        metrics.evaluate_logits(logits, [0, -1], {}, NAMES[:2])
    with pytest.raises(ValueError, match="integers, not float64"):
        metrics.evaluate_logits(logits, [0.0, 1.0], {}, NAMES[:2])
    with pytest.raises(ValueError, match="group 'few' range from 7 to 7"):
        metrics.evaluate_logits(logits, [0, 1], {"few": [7]}, NAMES[:2])
    with pytest.raises(ValueError, match="3 class names"):
        metrics.evaluate_logits(logits, [0, 1], {}, NAMES[:3])


def test_confusion_matrix_agrees_with_scikit_learn():
    logits, labels = _random_case(1)
    predicted = logits.argmax(1)
    matrix = metrics.confusion_matrix(labels, predicted, 6)
    expected = sklearn_metrics.confusion_matrix(labels, predicted, labels=range(6))
    np.testing.assert_array_equal(matrix, expected)


def test_confusion_refuses_unequal_lengths():
    with pytest.raises(ValueError, match=r"\(2,\).*\(1,\)"):
        metrics.confusion_matrix([0, 1], [0], 2)
