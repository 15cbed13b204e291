"""Weights files are checked before they are used, and fingerprints follow every weight."""

import hashlib
from pathlib import Path

import h5py
import numpy as np
import pytest

import candle_tf  # noqa: F401  (chooses Keras 2)

import tensorflow as tf  # isort: skip

from candle_tf.errors import UserError
from candle_tf.weight_files.checksums import fingerprint, sha256_of, verified_bytes, verify
from candle_tf.weight_files.keras_h5 import load_h5

CONTENT = b"weights" * 1000


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(CONTENT)
    return path


def model(channels=4, seed=0):
    net = tf.keras.Sequential(
        [
            tf.keras.layers.Conv2D(channels, 3, input_shape=(None, None, 3)),
            tf.keras.layers.BatchNormalization(),
            tf.keras.layers.Conv2D(5, 1),
        ]
    )
    rng = np.random.default_rng(seed)
    net.set_weights([rng.normal(size=w.shape) for w in net.weights])
    return net


def test_reads_the_bytes_and_accepts_their_sha256(file):
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    assert verified_bytes(file) == CONTENT
    assert verified_bytes(str(file), sha256.upper()) == CONTENT
    assert sha256_of(file) == sha256
    verify(file, sha256)


@pytest.mark.parametrize("check", [verified_bytes, verify])
def test_another_sha256_is_refused_with_both(file, check):
    with pytest.raises(UserError) as refusal:
        check(file, "0" * 64)
    assert "0" * 64 in str(refusal.value)
    assert hashlib.sha256(CONTENT).hexdigest() in str(refusal.value)
    assert str(file) in str(refusal.value)


@pytest.mark.parametrize("check", [verified_bytes, sha256_of])
def test_missing_files_and_directories_are_refused(tmp_path, check):
    with pytest.raises(UserError, match=r"none\.bin.*No such file"):
        check(tmp_path / "none.bin")
    with pytest.raises(UserError, match="directory"):
        check(tmp_path)


def test_the_fingerprint_depends_on_the_weights_alone():
    net = model()
    first = fingerprint(net)
    net.trainable = False
    assert fingerprint(net) == first
    # Built later, so Keras numbers its layers otherwise.
    assert fingerprint(model()) == first


def test_the_fingerprint_notices_the_least_change_of_any_weight():
    net = model()
    seen = {fingerprint(net)}
    for weight in net.weights:
        value = weight.numpy()
        value.flat[-1] = np.nextafter(value.flat[-1], np.float32(9e9), dtype=np.float32)
        weight.assign(value)
        seen.add(fingerprint(net))
    assert len(seen) == 1 + len(net.weights)


def test_the_fingerprint_notices_a_shape():
    nets = []
    for shape in ((2, 3), (3, 2)):
        net = tf.keras.Sequential([tf.keras.layers.Dense(shape[1], use_bias=False)])
        net.build((None, shape[0]))
        net.set_weights([np.ones(shape)])
        nets.append(fingerprint(net))
    assert nets[0] != nets[1]


@pytest.mark.parametrize("name", ["net.h5", "net.weights.h5"])
def test_both_layouts_of_keras_are_loaded(tmp_path, name):
    path = tmp_path / name
    model(seed=1).save_weights(path)
    net = model(seed=2)
    load_h5(net, path, "net")
    assert fingerprint(net) == fingerprint(model(seed=1))


@pytest.mark.parametrize("name", ["net.h5", "net.weights.h5"])
def test_weights_of_another_architecture_are_refused(tmp_path, name):
    path = tmp_path / name
    model(channels=6).save_weights(path)
    with pytest.raises(UserError, match="my net") as refusal:
        load_h5(model(channels=4), path, "my net")
    message = str(refusal.value)
    assert str(path) in message
    assert "(3, 3, 3, 4)" in message
    assert "6" in message.split("assigned value shape")[1]


@pytest.mark.parametrize("name", ["net.h5", "net.weights.h5"])
def test_weights_of_a_deeper_network_are_refused(tmp_path, name):
    deeper = tf.keras.Sequential([*model().layers, tf.keras.layers.Conv2D(2, 1)])
    path = tmp_path / name
    deeper.save_weights(path)
    with pytest.raises(UserError, match="does not hold the weights of net"):
        load_h5(model(), path, "net")


def test_a_file_whose_name_belies_its_layout_is_refused(tmp_path):
    model().save_weights(tmp_path / "a.h5")
    model().save_weights(tmp_path / "b.weights.h5")
    (tmp_path / "a.h5").rename(tmp_path / "a.weights.h5")
    (tmp_path / "b.weights.h5").rename(tmp_path / "b.h5")
    for name in ("a.weights.h5", "b.h5"):
        with pytest.raises(UserError, match="rename it"):
            load_h5(model(), tmp_path / name, "net")


def test_files_that_are_no_weights_are_refused(file, tmp_path):
    with pytest.raises(UserError, match=r"weights\.bin.*signature"):
        load_h5(model(), file, "net")
    with pytest.raises(UserError, match="No such file"):
        load_h5(model(), tmp_path / "none.h5", "net")
    with h5py.File(tmp_path / "empty.weights.h5", "w"):
        pass
    with pytest.raises(UserError, match="empty"):
        load_h5(model(), tmp_path / "empty.weights.h5", "net")


def test_only_the_weights_of_a_whole_model_file_are_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # A Lambda's Python code lies in such a file; loading the model would run it.
    touch = tf.keras.layers.Lambda(lambda x: (open("ran", "w").close(), x)[1])
    whole = tf.keras.Sequential([touch, *model(seed=3).layers])
    whole.build((None, 8, 8, 3))
    with pytest.warns(UserWarning, match="HDF5"):
        whole.save("whole.h5")
    Path("ran").unlink()
    net = model()
    load_h5(net, tmp_path / "whole.h5", "net")
    assert fingerprint(net) == fingerprint(model(seed=3))
    assert not Path("ran").exists()


def test_the_layout_of_keras_3_is_loaded(tmp_path):
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(3, 3, 3, 4)), rng.normal(size=4)
    path = tmp_path / "hub.weights.h5"
    with h5py.File(path, "w") as hub:
        hub.create_group("vars")
        hub.create_dataset("layers/conv2d/vars/0", data=kernel.astype("float32"))
        hub.create_dataset("layers/conv2d/vars/1", data=bias.astype("float32"))
        hub.create_dataset("layers/dropout/seed_generator/vars/0", data=np.zeros(2, "uint32"))
    net = tf.keras.Model(i := tf.keras.Input((8, 8, 3)), tf.keras.layers.Conv2D(4, 3)(i))
    load_h5(net, path, "net")
    np.testing.assert_array_equal(net.get_weights()[0], kernel.astype("float32"))
    np.testing.assert_array_equal(net.get_weights()[1], bias.astype("float32"))
