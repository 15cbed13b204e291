import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow_serving.apis import prediction_log_pb2

from candle_tf.data.augment.evaluation import student_pixels
from candle_tf.data.images.decode import decode_image
from candle_tf.data.images.store import open_image_store
from candle_tf.data.pipeline import evaluation_batches
from candle_tf.data.sources.registry import open_source
from candle_tf.data.subset import Subset
from candle_tf.deploy.saved_model.writer import export_saved_model
from candle_tf.errors import UserError
from candle_tf.students.layers.blocks import binary_layers
from tests.deploy.preprocessing.test_preprocessing import encode, noise, photograph
from tests.deploy.test_binarize import CLASSES, SIZE, logits_of, photographs, small_student

NAMES = ["Félis catus", "*,\"'", *(f"class {number}" for number in range(2, CLASSES))]
SIDE = 48  # of the stored images, which are then resized to SIZE


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    directory = tmp_path_factory.mktemp("served")
    return export_saved_model(small_student(), directory, NAMES, image_side=SIDE)


@pytest.fixture(scope="module")
def signatures(folder):
    return tf.saved_model.load(str(folder)).signatures


def real_images() -> list[bytes]:
    """Photographs of several sizes and kinds, as they lie on disks."""
    lying = Image.Exif()
    lying[0x0112] = 6
    return [
        encode(photograph(120, 90, 0), "JPEG"),
        encode(photograph(33, 200, 1), "PNG"),
        encode(photograph(200, 150, 1), "JPEG", exif=lying),
        encode(Image.fromarray(photograph(64, 64, 0)).convert("L"), "JPEG", quality=60),
        encode(Image.fromarray(photograph(50, 70, 0)).quantize(16), "PNG"),
    ]


def _contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def scores_of(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def evaluate_files(encoded: list[bytes], tmp_path: Path) -> np.ndarray:
    """Scores of the Keras student for images that go the way of a test set's."""
    for number, content in enumerate(encoded):
        path = tmp_path / "test" / "a" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "x.png").write_bytes(encoded[0])
    ids = [f"test/a/{number}.png" for number in range(len(encoded))]
    with open_source("folder", str(tmp_path)) as source:
        images = open_image_store(source, ids, SIDE, tmp_path / "cache")
    rows = np.arange(len(ids))
    examples = Subset(images, rows, np.zeros(len(ids), np.int32))
    (batch,) = evaluation_batches(examples, image_size=SIZE)
    return scores_of(small_student()(batch["inputs"], training=False)["logits"].numpy())


def test_files_get_the_scores_of_evaluation(signatures, tmp_path):
    encoded = real_images()
    expected = evaluate_files(encoded, tmp_path)
    serve = signatures["serving_default"]
    for some in (encoded, encoded[:1]):
        outputs = {name: value.numpy() for name, value in serve(tf.constant(some)).items()}
        assert set(outputs) == {"class_names", "class_ids", "scores"}
        assert outputs["class_ids"].dtype == np.int64
        assert outputs["scores"].dtype == np.float32
        best = np.argsort(-expected[: len(some)], axis=1)[:, :5]
        np.testing.assert_array_equal(outputs["class_ids"], best)
        scores = np.take_along_axis(expected[: len(some)], best, axis=1)
        np.testing.assert_allclose(outputs["scores"], scores, atol=1e-5)
        names = [[name.decode() for name in row] for row in outputs["class_names"]]
        assert names == [[NAMES[number] for number in row] for row in best]
    # The images are not one like the other.
    assert len(np.unique(expected.round(3), axis=0)) == len(encoded)
    assert decode_image(encoded[2], "x").shape == (150, 200, 3)


def test_the_centre_is_cut_out_as_in_evaluation(tmp_path):
    folder = export_saved_model(
        small_student(), tmp_path, NAMES, image_side=SIDE, original_aspect=True
    )
    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    encoded = real_images()
    pixels = [
        student_pixels(decode_image(each, "x"), resize="crop", side=SIDE, image_size=SIZE)
        for each in encoded
    ]
    logits = small_student()(np.stack(pixels).astype(np.float32), training=False)["logits"]
    expected = -np.sort(-scores_of(logits.numpy()), axis=1)[:, :5]
    np.testing.assert_allclose(serve(tf.constant(encoded))["scores"], expected, atol=1e-5)


def test_pixels_get_the_scores_of_the_student(signatures):
    serve = signatures["pixels"]
    expected = scores_of(logits_of(small_student()))
    for count in (1, len(photographs())):
        outputs = serve(pixels=tf.constant(photographs()[:count]))
        assert set(outputs) == {"scores"}
        assert outputs["scores"].dtype == tf.float32
        differences = np.abs(outputs["scores"].numpy() - expected[:count]).max(axis=1)
        assert np.median(differences) < 1e-5
    (spec,) = serve.structured_input_signature[1].values()
    assert spec.dtype == tf.uint8
    assert spec.shape.as_list() == [None, 32, 32, 3]


@pytest.mark.parametrize("bad", [b"", b"GIF89a", encode(noise(40, 40, 3), "JPEG")[:-300]])
def test_a_bad_image_fails_its_request_and_no_other(signatures, bad):
    serve = signatures["serving_default"]
    good = real_images()[0]
    before = serve(tf.constant([good]))["scores"].numpy()
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"is no JPEG or PNG|JPEG"):
        serve(tf.constant([good, bad]))
    np.testing.assert_array_equal(serve(tf.constant([good]))["scores"].numpy(), before)


def test_every_warm_up_record_is_a_valid_request(folder, signatures):
    path = folder / "assets.extra" / "tf_serving_warmup_requests"
    called = []
    for record in tf.data.TFRecordDataset(str(path)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        assert log.WhichOneof("log_type") == "predict_log"
        known = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        known.DiscardUnknownFields()
        assert known.SerializeToString() == log.SerializeToString()
        request = log.predict_log.request
        serve = signatures[request.model_spec.signature_name]
        inputs = {
            name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()
        }
        assert set(inputs) == set(serve.structured_input_signature[1])
        scores = serve(**inputs)["scores"].numpy()
        assert np.isfinite(scores).all()
        called.append((request.model_spec.signature_name, len(scores)))
    assert called == [("serving_default", 1), ("serving_default", 1), ("pixels", 1)]


def _saved_model_cli(*arguments: str) -> str:
    """TensorFlow's own command, in a process without this package."""
    command = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli", *arguments]
    environment = {name: os.environ[name] for name in os.environ if name != "TF_USE_LEGACY_KERAS"}
    done = subprocess.run(
        command, cwd="/", env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_saved_model_cli_shows_scans_and_runs_it(folder, tmp_path):
    shown = _saved_model_cli("show", "--dir", str(folder), "--all")
    for words in ("serving_default", "image_bytes", "class_names", "DT_STRING", "DT_UINT8",
                  "(-1, 32, 32, 3)", "(-1, 5)", "(-1, 10)"):  # fmt: skip
        assert words in shown
    scanned = _saved_model_cli("scan", "--dir", str(folder), "--tag_set", "serve")
    assert "does not contain the default denylisted ops" in scanned
    np.save(tmp_path / "pixels.npy", photographs()[:2])
    _saved_model_cli(
        "run", "--dir", str(folder), "--tag_set", "serve", "--signature_def", "pixels",
        "--inputs", f"pixels={tmp_path / 'pixels.npy'}", "--outdir", str(tmp_path),
    )  # fmt: skip
    scores = np.load(tmp_path / "scores.npy")
    np.testing.assert_allclose(scores, scores_of(logits_of(small_student()))[:2], atol=1e-5)


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
    following = export_saved_model(small_student(), folder.parent, NAMES, image_side=SIDE)
    assert folder.name == "1"
    assert following.name == "8"
    assert _contents(folder) == before
    assert {entry.name for entry in folder.parent.iterdir()} == {"1", "7", "8", "notes"}


@pytest.mark.parametrize("name", ["two\nlines", "end\r", "", "bytes \udcff"])
def test_names_that_are_not_one_line_are_refused(tmp_path, name):
    with pytest.raises(UserError, match="not one line of text"):
        export_saved_model(small_student(), tmp_path, [name, *NAMES[1:]], image_side=SIDE)
    assert not list(tmp_path.iterdir())


def test_wrong_number_of_names_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"9 class names.*10 classes"):
        export_saved_model(small_student(), tmp_path, NAMES[1:], image_side=SIDE)
