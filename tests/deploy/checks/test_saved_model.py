import shutil

import numpy as np
import pytest

from candle_tf.deploy.checks import saved_model
from candle_tf.deploy.checks.errors import ExportError
from candle_tf.deploy.checks.saved_model import check_saved_model
from candle_tf.deploy.saved_model.writer import export_saved_model
from tests.deploy.test_binarize import (
    CLASSES,
    SIZE,
    changed_student,
    logits_of,
    one_hot,
    photographs,
    small_student,
)


def test_saved_model_runs_where_neither_larq_nor_this_package_is_imported(tmp_path):
    names = [str(number) for number in range(CLASSES)]
    folder = export_saved_model(small_student(), tmp_path, names, image_side=SIZE)
    logits = logits_of(small_student())
    agreement = check_saved_model(folder, photographs(), logits, photographs())
    assert agreement.images == len(photographs())
    assert agreement.argmax_agreement == 1.0
    assert agreement.untouched_difference < 1e-5

    with pytest.raises(ExportError, match="other scores than as pixels"):
        check_saved_model(folder, photographs(), logits, photographs()[::-1])
    shutil.rmtree(folder / "variables")
    with pytest.raises(ExportError, match="does not run in stock TensorFlow"):
        check_saved_model(folder, photographs(), logits, photographs())


def test_a_saved_model_of_other_weights_is_refused_where_scores_are_all_but_one_hot(tmp_path):
    other = changed_student("block01_spatial_conv", "kernel", np.negative)
    for student in (other, sure := changed_student("logits", "bias", lambda bias: bias)):
        student.get_layer("logits").bias.assign_add(40.0 * one_hot((CLASSES,)))
    logits = logits_of(sure)
    assert (logits[:, 0] - np.partition(logits, -2)[:, -2] > 20).all()
    names = [str(number) for number in range(CLASSES)]
    folder = export_saved_model(other, tmp_path, names, image_side=SIZE)
    with pytest.raises(ExportError, match="does not compute"):
        check_saved_model(folder, photographs(), logits, photographs())


def test_best_classes_of_files_are_those_of_their_pixels_by_name(tmp_path):
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "labels.txt").write_text("cat\ndog\nelk\n")
    outputs = {
        "all_scores": np.array([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3]]),
        "class_names": np.array([["dog", "elk"], ["cat", "elk"]], "S"),
        "class_ids": np.array([[1, 2], [0, 2]]),
        "scores": np.array([[0.7, 0.2], [0.5, 0.3]]),
    }
    saved_model._refuse_other_best(tmp_path, outputs, "model")
    for name, wrong, message in [
        ("class_names", np.array([["dog", "elk"], ["cat", "dog"]], "S"), "class names"),
        ("class_ids", np.array([[1, 2], [0, 1]]), "of 2 images given as files, 1 get other"),
        ("scores", np.array([[0.7, 0.1], [0.5, 0.1]]), "2 get other scores"),
        ("scores", np.array([[0.7, np.nan], [0.5, 0.3]]), "1 get other scores"),
    ]:
        with pytest.raises(ExportError, match=message):
            saved_model._refuse_other_best(tmp_path, {**outputs, name: wrong}, "model")
