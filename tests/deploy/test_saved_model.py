import numpy as np
import pytest
import tensorflow as tf

from candle_tf.deploy.saved_model import export_saved_model
from candle_tf.errors import UserError
from candle_tf.students.catalog import binary_layers
from tests.deploy.test_binarize import CLASSES, logits_of, photographs, small_student

NAMES = ["Félis catus", "*,\"'", *(f"class {number}" for number in range(2, CLASSES))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return export_saved_model(small_student(), tmp_path_factory.mktemp("served"), NAMES)


def _contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_signature_gives_scores_and_classes_for_any_batch(folder):
    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    expected = logits_of(small_student()).astype(np.float64)
    expected = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
    for count in (1, len(photographs())):
        outputs = serve(pixels=tf.constant(photographs()[:count]))
        assert set(outputs) == {"scores", "classes"}
        assert outputs["scores"].dtype == tf.float32
        assert outputs["classes"].dtype == tf.int64
        differences = np.abs(outputs["scores"].numpy() - expected[:count]).max(axis=1)
        assert np.median(differences) < 1e-5
        np.testing.assert_array_equal(outputs["classes"], outputs["scores"].numpy().argmax(axis=1))
    (spec,) = serve.structured_input_signature[1].values()
    assert spec.dtype == tf.uint8
    assert spec.shape.as_list() == [None, 32, 32, 3]


def test_labels_are_an_asset(folder):
    assert (folder / "assets" / "labels.txt").read_text(encoding="utf-8").split("\n") == [
        *NAMES,
        "",
    ]


def test_variables_hold_binary_kernels_and_no_latent_weights(folder):
    variables = str(folder / "variables" / "variables")
    stored = [
        tf.train.load_variable(variables, name)
        for name, shape in tf.train.list_variables(variables)
        if len(shape) == 4
    ]
    for layer in binary_layers(small_student()):
        latent = layer.kernel.numpy()
        same_shape = [values for values in stored if values.shape == latent.shape]
        assert not any(np.array_equal(values, latent) for values in same_shape)
        shipped = [v for v in same_shape if np.array_equal(v > 0, latent >= 0)]
        assert len(shipped) == 1
        for channel in range(latent.shape[-1]):
            values = np.unique(shipped[0][..., channel])
            assert len(values) == 2
            assert values[0] == -values[1]


def test_nothing_refers_to_keras(folder):
    assert not list(folder.rglob("keras_metadata.pb"))
    assert b"_tf_keras_" not in (folder / "saved_model.pb").read_bytes()


def test_next_number_leaves_earlier_ones_untouched(folder):
    before = _contents(folder)
    (folder.parent / "notes").mkdir()
    (folder.parent / "7").mkdir()
    following = export_saved_model(small_student(), folder.parent, NAMES)
    assert folder.name == "1"
    assert following.name == "8"
    assert _contents(folder) == before
    assert {entry.name for entry in folder.parent.iterdir()} == {"1", "7", "8", "notes"}


@pytest.mark.parametrize("name", ["two\nlines", "end\r", "", "bytes \udcff"])
def test_names_that_are_not_one_line_are_refused(tmp_path, name):
    with pytest.raises(UserError, match="not one line of text"):
        export_saved_model(small_student(), tmp_path, [name, *NAMES[1:]])
    assert not list(tmp_path.iterdir())


def test_wrong_number_of_names_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"9 class names.*10 classes"):
        export_saved_model(small_student(), tmp_path, NAMES[1:])
