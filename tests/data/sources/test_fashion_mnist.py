import gzip
import struct

import numpy as np
import pytest

from candle_tf.data.sources import fashion_mnist
from candle_tf.data.sources.registry import open_source
from candle_tf.errors import UserError

LABELS = {"train": np.arange(12, dtype=np.uint8) % 10, "t10k": np.array([3, 9], np.uint8)}
PIXELS = {
    subset: np.random.default_rng(len(labels)).integers(0, 256, (len(labels), 28, 28), np.uint8)
    for subset, labels in LABELS.items()
}


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


def write(folder, packed=False, **changes):
    folder.mkdir(exist_ok=True)
    for subset in LABELS:
        for name, array in (("images-idx3", PIXELS[subset]), ("labels-idx1", LABELS[subset])):
            key = f"{subset}_{name[:6]}"
            data = changes.get(key, idx(array))
            path = folder / f"{subset}-{name}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(data) if packed else data)
    return str(folder)


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files(tmp_path, packed):
    with open_source("fashion_mnist", write(tmp_path, packed)) as source:
        assert source.class_names[9] == "Ankle boot"
        assert source.train.ids[11] == "train/000011"
        np.testing.assert_array_equal(source.train.labels, LABELS["train"])
        assert source.test is not None
        np.testing.assert_array_equal(source.test.labels, [3, 9])
        image = source.read_image("test/000001")
        np.testing.assert_array_equal(image, np.stack([PIXELS["t10k"][1]] * 3, axis=-1))
        assert source.content_hash(["test/000000"]) != source.content_hash(["test/000001"])
        for unknown in ("test/000002", "x/1", "test/-1", "test/"):
            with pytest.raises(KeyError):
                source.read_image(unknown)


@pytest.mark.parametrize("folder", fashion_mnist.DEBIAN)
def test_debians_package(folder):
    if not folder.exists():
        pytest.skip(f"{folder} is not installed")
    with open_source("fashion_mnist", str(folder)) as source:
        assert np.bincount(source.train.labels).tolist() == [6000] * 10
        assert source.test is not None
        assert np.bincount(source.test.labels).tolist() == [1000] * 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": idx(PIXELS["train"])[:-1]}, "train-images.*less data than it says"),
        ({"train_images": idx(PIXELS["train"]) + b"x"}, "train-images.*more data than it says"),
        ({"train_images": b"\x89PNG" + bytes(99)}, "train-images.*not the header"),
        ({"train_images": idx(PIXELS["train"][:, :9])}, r"of shape \(12, 9, 28\)"),
        ({"train_images": struct.pack(">4I", 0x803, 2**31, 28, 28)}, r"of shape \(2147483648"),
        ({"t10k_labels": idx(np.array([3, 10], np.uint8))}, "label 10 of image 1 is not from 0"),
        ({"t10k_labels": idx(np.array([3], np.uint8))}, "2 test images, but 1 labels"),
        ({"train_labels": idx(np.arange(12, dtype=np.uint8) % 9)}, r"no training.*'Ankle boot'"),
    ],
)
def test_damaged_files_are_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        open_source("fashion_mnist", write(tmp_path, **changes))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no IDX files of Fashion-MNIST.*train-images"):
        open_source("fashion_mnist", str(tmp_path))
    write(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(UserError, match="t10k-labels-idx1-ubyte is missing"):
        open_source("fashion_mnist", str(tmp_path))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(b"\x1f\x8b" + bytes(20))
    with pytest.raises(UserError, match=r"labels-idx1-ubyte\.gz: not a whole IDX file"):
        open_source("fashion_mnist", str(tmp_path))


def test_without_idx_files_tensorflow_datasets_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "DEBIAN", ())
    (tmp_path / "fashion_mnist").mkdir()
    with pytest.raises(UserError, match=r"tfds:fashion_mnist is not in.*tfds build fashion_mnist"):
        open_source("fashion_mnist", str(tmp_path))
