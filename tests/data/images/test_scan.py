import dataclasses
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from candle_tf.data.images import scan as scan_module
from candle_tf.data.images.scan import first_lines, reason, scan_images
from candle_tf.data.sources.registry import Source, open_source
from candle_tf.errors import UserError
from tests.data.sources.test_registry import image, tree, write_folder, write_tar, write_zip

NAMES = tuple(f"{label}/{i}.png" for label in ("a", "b") for i in range(5))


@pytest.mark.parametrize("write", [write_folder, write_zip, write_tar])
def test_bad_images_are_all_found_and_good_ones_hashed(tmp_path, write):
    files = tree(*NAMES) | {"a/3.png": b"<html>", "b/1.png": b""}
    (tmp_path / "data").mkdir()
    with open_source("folder", write(tmp_path / "data", files)) as source:
        scan = scan_images(source, NAMES, tmp_path / "cache")
        assert scan.bad == ("a/3.png", "b/1.png")
        assert "a/3.png: not a readable image" in reason(source, "a/3.png")
    assert scan.ids == NAMES
    for name, row in zip(NAMES, scan.hashes, strict=True):
        expected = bytes(32) if name in scan.bad else hashlib.sha256(files[name]).digest()
        assert row.tobytes() == expected


def test_fifty_of_a_list_are_told_and_how_many_more_there_are():
    assert first_lines(["a", "b"]) == "\n  a\n  b"
    lines = first_lines([str(number) for number in range(53)]).split("\n  ")
    assert lines == ["", *map(str, range(50)), "and 3 more"]


def test_missing_images_are_bad_ones(tmp_path):
    with open_source("folder", write_folder(tmp_path / "data", tree(*NAMES))) as source:
        (tmp_path / "data" / "b" / "4.png").unlink()
        scan = scan_images(source, NAMES, tmp_path / "cache")
        assert scan.bad == ("b/4.png",)
        assert "b/4.png: cannot be read" in reason(source, "b/4.png")


def test_a_stopped_scan_resumes_and_a_finished_one_is_used_again(tmp_path, monkeypatch):
    monkeypatch.setattr(scan_module, "_BLOCK", 2)
    read_ids = []
    scan_image = scan_module._scan_image

    def counting(source, image_id):
        read_ids.append(image_id)
        if len(read_ids) == 7:
            raise KeyboardInterrupt
        return scan_image(source, image_id)

    monkeypatch.setattr(scan_module, "_scan_image", counting)
    root = Path(write_folder(tmp_path / "data", tree(*NAMES)))
    with open_source("folder", str(root)) as source:
        with pytest.raises(KeyboardInterrupt):
            scan_images(source, NAMES, tmp_path / "cache")
        before = len(read_ids)
        first = scan_images(source, NAMES, tmp_path / "cache")
        assert set(read_ids[before:]) == set(NAMES[6:])
        before = len(read_ids)
        again = scan_images(source, NAMES, tmp_path / "cache")
        assert len(read_ids) == before
        np.testing.assert_array_equal(again.hashes, first.hashes)
        # An image that changed is read again.
        (root / "a" / "0.png").write_bytes(b"no image any more")
        assert scan_images(source, NAMES, tmp_path / "cache").bad == ("a/0.png",)


def without_rights(source: Source, *unreadable: str) -> Source:
    """The same data set while some of its files cannot be read; their sizes and times are known."""

    def require(image_id: str) -> None:
        if image_id in unreadable:
            raise UserError(f"{image_id}: cannot be read (Permission denied).")

    def read_bytes(image_id: str) -> bytes:
        require(image_id)
        return source.read_bytes(image_id)

    def read_image(image_id: str) -> np.ndarray:
        require(image_id)
        return source.read_image(image_id)

    return dataclasses.replace(source, reader=read_image, encoded=read_bytes)


def test_data_sets_of_the_same_names_sizes_and_times_share_no_scan(tmp_path):
    folders, expected = [], []
    for number in (1, 2):
        files = {name: image(number) for name in NAMES}
        folders.append(Path(write_folder(tmp_path / str(number), files)))
        expected.append(hashlib.sha256(image(number)).digest())
        for name in NAMES:
            os.utime(folders[-1] / name, (315532800, 315532800))
    assert len(image(1)) == len(image(2))
    for _ in range(2):
        for folder, digest in zip(folders, expected, strict=True):
            with open_source("folder", str(folder)) as source:
                scan = scan_images(source, NAMES, tmp_path / "cache")
            assert {row.tobytes() for row in scan.hashes} == {digest}
    assert len(list((tmp_path / "cache").glob("scan-*.npy"))) == 2


@pytest.mark.parametrize("block", [2, 256])
def test_what_could_not_be_read_is_tried_again(tmp_path, monkeypatch, block):
    monkeypatch.setattr(scan_module, "_BLOCK", block)
    files = tree(*NAMES) | {"a/3.png": b"<html>"}
    with open_source("folder", write_folder(tmp_path / "data", files)) as source:
        first = scan_images(without_rights(source, "a/1.png", "b/2.png"), NAMES, tmp_path / "cache")
        assert first.bad == ("a/1.png", "a/3.png", "b/2.png")
        fewer = scan_images(without_rights(source, "b/2.png"), NAMES, tmp_path / "cache")
        assert fewer.bad == ("a/3.png", "b/2.png")
        scan = scan_images(source, NAMES, tmp_path / "cache")
    assert scan.bad == ("a/3.png",)
    for name, row in zip(NAMES, scan.hashes, strict=True):
        expected = bytes(32) if name in scan.bad else hashlib.sha256(files[name]).digest()
        assert row.tobytes() == expected


def test_what_can_be_read_again_is_in_the_cache_from_then_on(tmp_path):
    with open_source("folder", write_folder(tmp_path / "data", tree(*NAMES))) as source:
        scan_images(without_rights(source, *NAMES), NAMES, tmp_path / "cache")
        assert scan_images(source, NAMES, tmp_path / "cache").bad == ()
        # An image that a finished scan could read is not read again.
        assert scan_images(without_rights(source, *NAMES), NAMES, tmp_path / "cache").bad == ()
