"""HDF5 files that point elsewhere, state what they do not hold, or crash the library."""

import h5py
import numpy as np
import pytest

import candle_tf  # noqa: F401  (chooses Keras 2)

import tensorflow as tf  # isort: skip

from candle_tf.errors import UserError
from candle_tf.weight_files import hdf5_check
from candle_tf.weight_files.hdf5_check import check_hdf5
from candle_tf.weight_files.keras_h5 import load_h5


def network() -> tf.keras.Model:
    layers = tf.keras.layers
    return tf.keras.Sequential([layers.Input((4,)), layers.Dense(3, name="a")])


@pytest.fixture(params=[".h5", ".weights.h5"])
def path(request, tmp_path):
    path = tmp_path / f"w{request.param}"
    network().save_weights(path)
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x"] = np.ones((4, 3), np.float32)
    return path


def replace_kernel(path, make):
    """Puts another array in place of the kernel; `make` gets its group and name."""
    with h5py.File(path, "a") as file:
        arrays = []
        file.visititems(lambda name, item: arrays.append(name) if hasattr(item, "shape") else None)
        (name,) = [name for name in arrays if file[name].shape == (4, 3)]
        folder, _, key = name.rpartition("/")
        del file[name]
        make(file[folder], key)


def virtual_of(path):
    layout = h5py.VirtualLayout(shape=(4, 3), dtype="f4")
    layout[:] = h5py.VirtualSource(str(path), "x", shape=(4, 3))
    return layout


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("external", "in another file"),
        ("virtual", "in another file"),
        ("link", "a link to another file"),
        ("sparse", "states more numbers"),
        ("texts", "no real numbers"),
        ("NaN", "holds NaN or infinity"),
    ],
)
def test_hostile_arrays_are_refused(path, tmp_path, kind, words):
    other = tmp_path / "other.h5"

    def make(group, key):
        if kind == "external":
            group.create_dataset(key, (4, 3), "f4", external=[(str(other), 0, 48)])
        elif kind == "virtual":
            group.create_virtual_dataset(key, virtual_of(other))
        elif kind == "link":
            group[key] = h5py.ExternalLink(str(other), "/x")
        elif kind == "sparse":  # 36 TiB
            group.create_dataset(key, (3 * 2**40, 3), "f4", chunks=(2**16, 3))
        elif kind == "texts":
            group[key] = np.full((4, 3), b"1")
        else:
            group[key] = np.full((4, 3), np.nan, np.float32)

    replace_kernel(path, make)
    with pytest.raises(UserError, match=words):
        load_h5(network(), path, "network")


def test_links_in_circles_end(path):
    with h5py.File(path, "a") as file:
        file["round"] = file["/"]
    check_hdf5(path)


def test_a_crash_of_the_library_is_told(tmp_path, monkeypatch):
    """Where the checking process dies by a signal, whatever the library does today."""
    program = tmp_path / "program.py"
    program.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setattr(hdf5_check, "_PROGRAM", program)
    with pytest.raises(ValueError, match="crashes"):
        check_hdf5(program)
