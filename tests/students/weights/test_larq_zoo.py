"""larq-zoo's own networks and ours, with the same weights, through --student_weights=PATH."""

from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.errors import UserError
from candle_tf.students.layers.input_normalization import normalize
from candle_tf.students.weights import larq_zoo
from candle_tf.students.weights.larq_zoo import FILES, ZooFile, larq_zoo_file
from candle_tf.students.weights.loading import load_weights_file, start_from
from candle_tf.students.weights.spec import StudentSpec

# Bi-Real and Real-to-Binary pad maps below 3x3 otherwise (`binary_conv3x3`); 96 px end in 3x3.
SIZE = 96
# How far apart the features may be, over the largest one. Both networks get the same normalized
# pixels. What remains is the order of float sums: where it moves an activation over the threshold
# of its sign, a flip is left, which Real-to-Binary's gates multiply.
TOLERANCES = dict.fromkeys(FILES, 1e-5) | {"real_to_binary": 5e-3}


def zoo_network(student):
    """larq-zoo's network, with random weights; no network (of computers) is needed."""
    import larq_zoo as zoo

    builders = {
        "quicknet_small": zoo.sota.QuickNetSmall,
        "quicknet": zoo.sota.QuickNet,
        "quicknet_large": zoo.sota.QuickNetLarge,
        "birealnet18": zoo.literature.BiRealNet,
        "real_to_binary": zoo.literature.RealToBinaryNet,
    }
    # One draw for all runs: of some draws an activation lies at its threshold.
    tf.keras.utils.set_random_seed(0)
    network = builders[student](weights=None, input_shape=(SIZE, SIZE, 3))
    rng = np.random.default_rng(0)
    for variable in network.weights:
        # Fixed blurs are no weights to be learned.
        if "blur" in variable.name or variable.shape.rank == 4:
            continue
        value = 0.1 * rng.normal(size=variable.shape)
        if "variance" in variable.name or "gamma" in variable.name:
            value = 1.0 + np.abs(value)
        variable.assign(value)
    return network


def from_pixels():
    """Our normalization of pixels as a network."""
    pixels = tf.keras.Input((SIZE, SIZE, 3))
    return tf.keras.Model(pixels, normalize(pixels))


@pytest.mark.parametrize("name", FILES)
def test_both_compute_the_same_with_the_same_file(name, tmp_path):
    zoo = zoo_network(name)
    path = tmp_path / FILES[name].name
    zoo.save_weights(str(path))
    spec = StudentSpec(name, 1.0)
    start = load_weights_file(path, spec, SIZE)
    student = spec.build(SIZE, 5)
    before = student.get_layer("logits").get_weights()
    assert not start_from(start, student, list("abcde"))

    pixels = np.random.default_rng(1).uniform(0, 255, (2, SIZE, SIZE, 3)).astype(np.float32)
    inputs = from_pixels()(pixels)
    pooled = next(layer for layer in zoo.layers[::-1] if len(layer.output_shape) == 2
                  and layer.output_shape[-1] != 1000)  # fmt: skip
    theirs = tf.keras.Model(zoo.input, pooled.output)(inputs, training=False).numpy()
    ours = student(pixels, training=False)["features"].numpy()
    scale = np.abs(theirs).max()
    assert scale > 0
    np.testing.assert_allclose(ours / scale, theirs / scale, atol=TOLERANCES[name])
    # The classifier of ImageNet's classes is not that of five others.
    for old, new in zip(before, student.get_layer("logits").get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    # In the network of 1,000 classes it is larq-zoo's.
    probabilities = tf.nn.softmax(start.network(pixels, training=False)["logits"]).numpy()
    np.testing.assert_allclose(probabilities, zoo(inputs, training=False), atol=TOLERANCES[name])


def test_the_files_are_those_that_larq_zoo_asks_for(monkeypatch):
    import larq_zoo as zoo
    from larq_zoo.core import utils

    asked = []

    def note(model, version, file, file_hash, cache_dir=None):  # noqa: ARG001
        asked.append((model, version, file, file_hash))
        raise FileNotFoundError(file)

    monkeypatch.setattr(utils, "download_pretrained_model", note)
    for build in (
        zoo.sota.QuickNetSmall,
        zoo.sota.QuickNet,
        zoo.sota.QuickNetLarge,
        zoo.literature.BiRealNet,
        zoo.literature.RealToBinaryNet,
    ):
        with pytest.raises(FileNotFoundError):
            build(weights="imagenet")
    ours = [(f.model, f.version, f.name, f.sha256) for f in FILES.values()]
    assert ours == asked


@pytest.fixture
def release(monkeypatch, tmp_path):
    """A local server's release in place of larq-zoo's, and an empty cache: (ZooFile, folder)."""
    folder = tmp_path / "server"
    file = ZooFile("quicknet", "v1.0", "weights.h5", sha256(b"the weights").hexdigest())
    (folder / f"{file.model}-{file.version}").mkdir(parents=True)
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(larq_zoo, "_RELEASES", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setitem(larq_zoo.FILES, "quicknet", file)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        (tmp_path / "home" / ".keras").mkdir(parents=True)
        yield file, folder / f"{file.model}-{file.version}"
        server.shutdown()


def test_a_file_is_fetched_once(release):
    file, folder = release
    (folder / file.name).write_bytes(b"the weights")
    assert larq_zoo_file(StudentSpec("quicknet", 1.0)) == file.path
    (folder / file.name).unlink()
    assert larq_zoo_file(StudentSpec("quicknet", 1.0)).read_bytes() == b"the weights"


@pytest.mark.parametrize("content", [None, b"other weights"])
def test_without_the_file_the_message_says_what_to_put_where(release, content):
    file, folder = release
    if content is not None:
        (folder / file.name).write_bytes(content)
    with pytest.raises(UserError) as refusal:
        larq_zoo_file(StudentSpec("quicknet", 1.0))
    for part in (file.address, file.sha256, str(file.path)):
        assert part in str(refusal.value)


def test_without_a_network_the_message_says_what_to_put_where(release, monkeypatch):
    file, _ = release
    monkeypatch.setattr(larq_zoo, "_RELEASES", "http://host.invalid")
    with pytest.raises(UserError) as refusal:
        larq_zoo_file(StudentSpec("quicknet", 1.0))
    for part in (file.address, file.sha256, str(file.path)):
        assert part in str(refusal.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (StudentSpec("reactnet_a", 1.0), "no weights of reactnet_a"),
        (StudentSpec("quicknet", 0.5), "--width=0.5"),
    ],
)
def test_what_larq_zoo_has_not_is_refused(spec, message):
    with pytest.raises(UserError, match=message):
        larq_zoo_file(spec)
