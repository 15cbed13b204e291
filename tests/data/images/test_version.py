"""A change of stored images needs a new version, or old caches would be used."""

import numpy as np
import pytest
from PIL import Image

from candle_tf.data.images import scan as scan_module
from candle_tf.data.images import store as store_module
from candle_tf.data.images.scan import scan_images
from candle_tf.data.images.store import open_image_store
from candle_tf.data.sources.registry import open_source
from tests.data.images import fingerprint as fingerprint_module
from tests.data.images.fingerprint import CONSTANT, PATH, fingerprint, version
from tests.data.sources.test_registry import tree, write_folder
from tests.fingerprints import check, differences


def test_pixels_are_those_of_the_versions():
    check(PATH, version(), CONSTANT, fingerprint())


def test_a_change_of_the_code_is_noticed(monkeypatch):
    present = fingerprint()

    def nearest(image: np.ndarray, side: int) -> np.ndarray:
        return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST))

    monkeypatch.setattr(fingerprint_module, "stretch", nearest)
    assert "png" in differences(fingerprint(), present)
    with pytest.raises(AssertionError, match="raise STORE_VERSION"):
        check(PATH, version(), CONSTANT, fingerprint())


@pytest.mark.parametrize("constant", ["STORE_VERSION", "DECODE_VERSION"])
def test_another_version_is_decoded_again(tmp_path, monkeypatch, constant):
    names = ("a/0.png", "b/0.png")
    with open_source("folder", write_folder(tmp_path / "data", tree(*names))) as source:
        first, again = (open_image_store(source, names, 8, tmp_path / "cache") for _ in range(2))
        monkeypatch.setattr(store_module, constant, 99)
        other = open_image_store(source, names, 8, tmp_path / "cache")
    assert first.digest == again.digest != other.digest
    assert len(list((tmp_path / "cache").glob("images-*.npy"))) == 2


@pytest.mark.parametrize("constant", ["_VERSION", "DECODE_VERSION"])
def test_another_version_is_scanned_again(tmp_path, monkeypatch, constant):
    names = ("a/0.png", "b/0.png")
    with open_source("folder", write_folder(tmp_path / "data", tree(*names))) as source:
        for _ in range(2):
            scan_images(source, names, tmp_path / "cache")
        assert len(list((tmp_path / "cache").glob("*.npy"))) == 1
        monkeypatch.setattr(scan_module, constant, 99)
        scan_images(source, names, tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2
