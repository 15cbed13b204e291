"""Teachers by name: the right features, from the right weights, and frozen for good."""

import urllib.request

import numpy as np
import pytest

import candle_tf  # noqa: F401  (chooses Keras 2)

import tensorflow as tf  # isort: skip
import keras_cv

from candle_tf.errors import UserError
from candle_tf.teachers import backbones
from candle_tf.teachers.backbones import load_teacher
from candle_tf.teachers.efficientnet_lite import (
    VARIANTS,
    efficientnet_lite,
    normalise,
    package_weights,
)
from candle_tf.weight_files.checksums import fingerprint, sha256_of


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype("float32")


def randomise(model):
    """The same model with weights that no initialiser gives, so that all of them matter."""
    rng = np.random.default_rng(0)
    model.set_weights(
        [
            abs(rng.normal(1, 0.1, w.shape))
            if "variance" in w.name
            else w.numpy() + rng.normal(0, 0.05, w.shape)
            for w in model.weights
        ]
    )
    return model


def resnet18():
    return keras_cv.models.ResNetBackbone(
        stackwise_filters=[64, 128, 256, 512],
        stackwise_blocks=[2, 2, 2, 2],
        stackwise_strides=[1, 2, 2, 2],
        block_type="basic_block",
        include_rescaling=True,
    )


@pytest.fixture(scope="module")
def lite():
    return load_teacher("efficientnet_lite0")


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """A small teacher with dropout-free batch norm, and the file its weights came from."""
    path = tmp_path_factory.mktemp("weights") / "resnet18.weights.h5"
    source = randomise(resnet18())
    source.save_weights(path)
    return load_teacher("keras_cv:resnet18", str(path)), source, path


def test_the_offline_teacher_pools_the_ports_maps(lite):
    images = pixels(2, 64, 96, 3)
    expected = tf.reduce_mean(
        efficientnet_lite("efficientnet_lite0")(normalise(images), training=False), [1, 2]
    )
    assert lite.feature_size == 1280
    np.testing.assert_allclose(lite.features(images), expected, rtol=1e-4, atol=1e-4)


def test_one_teacher_takes_any_size_and_integer_pixels(lite):
    for size in (32, 50, 8):
        images = pixels(3, size, size, 3)
        features = lite.features(images.astype("uint8"))
        assert features.shape == (3, 1280)
        assert features.dtype == tf.float32
        np.testing.assert_allclose(features, lite.encoder(images), rtol=1e-4, atol=1e-4)


def test_the_offline_teacher_takes_a_file_of_the_same_layout(tmp_path, lite):
    path = tmp_path / "lite0.pth"
    path.write_bytes(package_weights("efficientnet_lite0"))
    again = load_teacher("efficientnet_lite0", str(path), VARIANTS["efficientnet_lite0"].sha256)
    assert again.fingerprint == lite.fingerprint == fingerprint(again.encoder)


@pytest.mark.parametrize("weights", ["", "lite0.pth"])
def test_the_offline_teachers_sha256_is_checked(tmp_path, weights):
    path = tmp_path / "lite0.pth"
    path.write_bytes(b"other")
    with pytest.raises(UserError, match="sha256"):
        load_teacher("efficientnet_lite0", weights and str(path), "0" * 64)


def test_a_keras_cv_preset_takes_a_weights_file(resnet):
    teacher, source, _ = resnet
    images = pixels(2, 64, 48, 3)
    expected = tf.reduce_mean(source(images, training=False), [1, 2])
    assert teacher.feature_size == 512
    assert teacher.fingerprint == fingerprint(source)
    np.testing.assert_allclose(teacher.features(images), expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("name", ["MobileNetV2", "MobileNetV3Small"])
def test_a_keras_application_takes_a_weights_file_and_its_own_preprocessing(tmp_path, name):
    settings = {"include_top": False, "pooling": "avg", "input_shape": (None, None, 3)}
    source = randomise(getattr(tf.keras.applications, name)(weights=None, **settings))
    path = tmp_path / "app.h5"
    source.save_weights(path)
    teacher = load_teacher(f"keras_applications:{name}", str(path), sha256_of(path))

    images = pixels(2, 64, 64, 3)
    # MobileNetV2 takes -1..1; MobileNetV3 takes 0..255 and scales within.
    prepared = images / 127.5 - 1 if name == "MobileNetV2" else images
    expected = source(prepared, training=False).numpy()
    assert teacher.fingerprint == fingerprint(source)
    assert teacher.feature_size == expected.shape[1]
    scale = abs(expected).max()
    np.testing.assert_allclose(teacher.features(images) / scale, expected / scale, atol=1e-4)


def test_every_keras_application_but_nasnet_is_offered():
    offered = set(backbones._application_families())
    models = {
        name
        for name, value in vars(tf.keras.applications).items()
        if name[0].isupper() and callable(value)
    }
    assert models - offered == {"NASNetLarge", "NASNetMobile"}
    assert offered <= models


@pytest.mark.parametrize(
    "preset", ["resnet18", "resnet18_v2", "resnet50_imagenet", "efficientnetv2_s"]
)
def test_built_in_architectures_have_the_published_parameters(preset):
    presets, _ = backbones._keras_cv_presets()
    model = backbones._known_architecture(preset)
    assert model.count_params() == presets[preset]["metadata"]["params"]


def test_unscaled_kerascv_backbones_are_given_what_they_expect():
    class Unscaled:
        include_rescaling = False

    assert float(backbones._rescaling(Unscaled())(tf.constant(255.0))) == 1.0


# ---- what is refused


@pytest.mark.parametrize(
    "name", ["", "resnet50", "keras_cv:", "keras_cv", "keras_hub:resnet", "EfficientNet_Lite0"]
)
def test_unknown_names_are_refused_with_the_allowed_names(name):
    with pytest.raises(UserError, match=r"keras_cv:<name>.*keras_applications:<name>") as refusal:
        load_teacher(name)
    assert repr(name) in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("keras_cv:resnet51", "resnet50_imagenet"),
        ("keras_cv:gs://bucket/preset", "resnet50_imagenet"),
        ("keras_applications:ResNet153", "ResNet152"),
        ("keras_applications:NASNetLarge", "ResNet152"),
    ],
)
def test_unknown_models_are_refused_with_the_list(name, listed):
    with pytest.raises(UserError, match=listed):
        load_teacher(name)


def test_a_preset_without_weights_is_no_teacher():
    with pytest.raises(UserError, match="no pretrained weights"):
        load_teacher("keras_cv:resnet18")


@pytest.mark.parametrize("name", ["keras_cv:resnet34", "keras_applications:VGG16"])
def test_weights_of_another_architecture_are_refused(name, resnet, tmp_path):
    path = resnet[2]
    if name.startswith("keras_applications"):
        path = tmp_path / "app.h5"
        tf.keras.Sequential([tf.keras.layers.Dense(2, input_shape=(3,))]).save_weights(path)
    with pytest.raises(UserError, match=r"expected|shape") as refusal:
        load_teacher(name, str(path))
    assert str(path) in str(refusal.value)
    assert name in str(refusal.value)


def test_a_weights_file_is_checked_before_it_is_used(tmp_path, resnet):
    with pytest.raises(UserError, match="No such file"):
        load_teacher("keras_cv:resnet18", str(tmp_path / "none.weights.h5"))
    with pytest.raises(UserError, match="sha256"):
        load_teacher("keras_cv:resnet18", str(resnet[2]), "0" * 64)
    with pytest.raises(UserError, match="without a weights file"):
        load_teacher("keras_cv:resnet50_imagenet", weights_sha256="0" * 64)


def test_a_file_for_a_keras_model_that_scales_by_origin_is_refused(resnet):
    with pytest.raises(UserError, match="EfficientNetV2"):
        load_teacher("keras_applications:EfficientNetB0", str(resnet[2]))


@pytest.mark.parametrize(
    ("name", "with_file", "told"),
    [
        ("keras_cv:mobilenet_v3_small_imagenet", False, "--teacher_weights"),
        ("keras_cv:mobilenet_v3_small_imagenet", True, "resnet152"),
        ("keras_applications:MobileNetV2", False, "--teacher_weights"),
    ],
)
def test_a_failed_fetch_says_what_to_do(tmp_path, monkeypatch, resnet, name, with_file, told):
    # Nothing listens on this port, so the real fetch fails at once, network or not; and what an
    # earlier fetch may have left in the caches is out of sight.
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    # urllib reads the proxies once a process: not an earlier test's, nor this one's for later ones.
    monkeypatch.setattr(urllib.request, "_opener", None)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kagglehub"))
    with pytest.raises(UserError, match="Could not fetch") as refusal:
        load_teacher(name, str(resnet[2]) if with_file else "")
    message = str(refusal.value)
    assert repr(name) in message
    assert told in message
    assert "efficientnet_lite0" in message


# ---- frozen


@pytest.fixture(params=["lite", "resnet"])
def teacher(request):
    value = request.getfixturevalue(request.param)
    return value[0] if isinstance(value, tuple) else value


def values(teacher):
    return [weight.numpy().copy() for weight in teacher.encoder.weights]


def assert_unmoved(teacher, before):
    assert len(before) >= 100
    for old, weight in zip(before, teacher.encoder.weights, strict=True):
        assert old.tobytes() == weight.numpy().tobytes(), weight.name
    assert fingerprint(teacher.encoder) == teacher.fingerprint


def test_asking_for_features_moves_nothing(teacher):
    before = values(teacher)
    for seed in range(3):
        teacher.features(pixels(4, 32, 32, 3, seed=seed))
        teacher.encoder(pixels(4, 32, 32, 3, seed=seed), training=True)
    assert_unmoved(teacher, before)


def test_training_true_changes_no_feature(teacher):
    images = pixels(4, 32, 32, 3)
    inference = teacher.encoder(images, training=False).numpy()
    for _ in range(2):  # dropout would differ from call to call
        training = teacher.encoder(images, training=True).numpy()
        np.testing.assert_array_equal(training, inference)


def test_an_images_features_do_not_depend_on_its_batch(teacher):
    images = pixels(4, 32, 32, 3)
    together = teacher.features(images).numpy()
    alone = np.concatenate([teacher.features(images[i : i + 1]) for i in range(4)])
    np.testing.assert_allclose(together, alone, rtol=1e-3, atol=1e-4)


def test_no_weight_has_a_gradient(teacher):
    head = tf.Variable(tf.random.normal([teacher.feature_size, 3], seed=1))
    with tf.GradientTape() as tape:
        tape.watch(teacher.encoder.weights)
        loss = tf.reduce_sum(teacher.encoder(pixels(2, 32, 32, 3), training=True) @ head)
    assert teacher.encoder.trainable_weights == []
    gradients = tape.gradient(loss, [head, *teacher.encoder.weights])
    assert gradients[0] is not None
    assert all(gradient is None for gradient in gradients[1:])


@pytest.mark.parametrize("unfreeze", [False, True])
def test_fit_around_the_encoder_moves_the_head_alone(teacher, unfreeze):
    before = values(teacher)
    head = tf.keras.layers.Dense(3)
    model = tf.keras.Sequential([teacher.encoder, head])
    model.build((None, 32, 32, 3))
    model.trainable = unfreeze or model.trainable  # Keras sets it on every layer inside
    kernel = head.kernel.numpy()
    model.compile(
        tf.keras.optimizers.SGD(0.1, weight_decay=0.1),
        tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(pixels(8, 32, 32, 3), np.arange(8) % 3, batch_size=4, epochs=1, verbose=0)

    assert [w.name for w in model.trainable_weights] == [head.kernel.name, head.bias.name]
    assert not np.array_equal(kernel, head.kernel.numpy())
    assert_unmoved(teacher, before)
