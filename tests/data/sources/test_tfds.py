"""TensorFlow Datasets: prepared data sets of both file formats, and the library's own mocks."""

import io
import struct

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from candle_tf.data.sources.registry import open_source
from candle_tf.errors import UserError

SIZES = {"train": 20, "test": 4, "validation": 3}


class StripedSquares(tfds.core.GeneratorBasedBuilder):
    """Twenty images whose red says their number."""

    VERSION = tfds.core.Version("1.0.0")
    unlabelled_test = False

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "mask": tfds.features.Image(shape=(None, None, 1)),
            "label": tfds.features.ClassLabel(names=["plain", "striped"]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        del dl_manager
        return {subset: self._generate_examples(subset) for subset in SIZES}

    def _generate_examples(self, subset="train"):
        for i in range(SIZES[subset]):
            pixels = np.full((3, 4, 3), [i, SIZES[subset], 0], np.uint8)
            label = -1 if subset == "test" and self.unlabelled_test else i % 2
            yield i, {"image": pixels, "mask": pixels[..., :1], "label": label}


class TestWithoutLabels(StripedSquares):
    __test__ = False
    unlabelled_test = True


class MoreNames(StripedSquares):
    """Declares three classes that no subset has."""

    names = ("none", "plain", "other", "striped", "last")
    subset_of_last = ""

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=self.names),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _generate_examples(self, subset="train"):
        for i in range(SIZES[subset]):
            is_last = subset == self.subset_of_last and i == 0
            label = "last" if is_last else ("plain", "striped")[i % 2]
            yield i, {"image": np.full((3, 4, 3), i, np.uint8), "label": label}


class ClassOfTestImages(MoreNames):
    subset_of_last = "test"


@pytest.fixture(scope="module", params=["tfrecord", "array_record"])
def prepared(request, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp(request.param))
    for builder in (StripedSquares, TestWithoutLabels):
        builder(data_dir=folder, file_format=request.param).download_and_prepare()
    return folder


def test_a_prepared_data_set(prepared):
    with open_source("tfds:striped_squares", prepared) as source:
        assert source.name == "tfds:striped_squares"
        assert source.class_names == ("plain", "striped")
        assert source.train.ids == tuple(f"train/{i:06d}" for i in range(20))
        assert source.test is not None
        assert source.validation is not None
        assert [len(p.ids) for p in (source.train, source.test, source.validation)] == [20, 4, 3]
        images = [source.read_image(i) for i in source.train.ids]
        # TFDS shuffles when it prepares; each image keeps its label, and none is lost.
        assert sorted(image[0, 0, 0] for image in images) == list(range(20))
        assert [int(image[0, 0, 0]) % 2 for image in images] == source.train.labels.tolist()
        assert {tuple(source.read_image(i)[2, 3, 1:]) for i in source.test.ids} == {(4, 0)}
        # In any order of reading.
        again = [source.read_image(i) for i in reversed(source.train.ids)]
        np.testing.assert_array_equal(again[::-1], images)
        encoded = Image.open(io.BytesIO(source.read_bytes("train/000007")))
        np.testing.assert_array_equal(np.asarray(encoded), images[7])
        for unknown in ("train/000020", "other/000000", "train/-1"):
            with pytest.raises(KeyError):
                source.read_image(unknown)
        before = source.content_hash(source.train.ids)
    with open_source("tfds:striped_squares:1.0.0", prepared) as source:
        assert source.content_hash(source.train.ids) == before


def test_an_unlabelled_test_subset_is_skipped_and_validation_tested_on(prepared, caplog):
    with open_source("tfds:test_without_labels", prepared) as source:
        assert source.validation is None
        assert source.test is not None
        assert source.test.ids == ("validation/000000", "validation/000001", "validation/000002")
    assert "the subset 'test' has no labels" in caplog.text


def test_classes_that_no_subset_has_are_left_out(tmp_path, caplog):
    MoreNames(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    with open_source("tfds:more_names", str(tmp_path)) as source:
        assert source.class_names == ("plain", "striped")
        for subset in (source.train, source.test, source.validation):
            reds = [int(source.read_image(i)[0, 0, 0]) for i in subset.ids]
            assert [red % 2 for red in reds] == subset.labels.tolist()
    assert "declares 5 classes; of the class 'last', 'none', 'other' no subset" in caplog.text


def test_a_class_that_is_only_tested_on_is_refused_but_for_a_measurement(tmp_path):
    ClassOfTestImages(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    with pytest.raises(UserError, match="no training images of the class 'last'"):
        open_source("tfds:class_of_test_images", str(tmp_path))
    known = ("last", "plain", "striped")
    with open_source("tfds:class_of_test_images", str(tmp_path), known_classes=known) as source:
        tested = [source.class_names[label] for label in source.test.labels]
        assert sorted(tested) == ["last", "plain", "striped", "striped"]


def test_a_damaged_tfrecord_is_named(tmp_path):
    StripedSquares(data_dir=str(tmp_path), file_format="tfrecord").download_and_prepare()
    (path,) = tmp_path.rglob("*train.tfrecord*")
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.raises(UserError, match=r"train\.tfrecord.*not a whole TFRecord file"):
        open_source("tfds:striped_squares", str(tmp_path))
    path.write_bytes(struct.pack("<Q", 2**63) + whole[8:])
    with pytest.raises(UserError, match="not a whole TFRecord file"):
        open_source("tfds:striped_squares", str(tmp_path))


def test_what_is_not_there_is_not_fetched(tmp_path):
    with pytest.raises(UserError, match=rf"tfds:caltech101 is not in {tmp_path}.*tfds build calt"):
        open_source("tfds:caltech101", str(tmp_path))
    with pytest.raises(UserError, match=r"First, by hand: .*ILSVRC2012"):
        open_source("tfds:imagenet2012", str(tmp_path))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_set", "knows no data set 'no_such_set'"),
        ("caltech101:0.0.7", "tfds:caltech101:0.0.7 cannot be opened"),
        ("glue/cola", "has no image with one class label: its features are"),
    ],
)
def test_unusable_names_are_refused(tmp_path, name, message):
    with pytest.raises(UserError, match=message):
        open_source(f"tfds:{name}", str(tmp_path))


def test_the_librarys_mocks():
    with tfds.testing.mock_data(num_examples=60):
        with open_source("tfds:fashion_mnist") as source:
            assert len(source.class_names) == 10
            assert len(source.train.ids) == 60
            image = source.read_image(source.train.ids[3])
            assert image.shape == (28, 28, 3)
            assert np.ptp(image, axis=-1).max() == 0
        # The mocks have 60 images of 102 classes.
        with open_source("tfds:caltech101") as source:
            assert 1 < len(source.class_names) <= 60
            assert np.bincount(source.train.labels, minlength=len(source.class_names)).all()
