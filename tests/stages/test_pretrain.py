"""Pretraining as a whole, on few small images and one block of the student."""

import dataclasses
import hashlib
import io
import json
import re
import shutil
import zipfile
from pathlib import Path

import larq as lq
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from candle_tf.data.images.store import image_key
from candle_tf.deploy.exported_student import load_exported
from candle_tf.errors import UserError
from candle_tf.methods import training_loop
from candle_tf.methods.checkpoints import Checkpoints
from candle_tf.metrics import SCORE
from candle_tf.reporting.results import read_results
from candle_tf.stages import pretrain as pretrain_module
from candle_tf.stages.pretrain import pretrain
from candle_tf.stages.pretrain_data import _held_out, open_images
from candle_tf.stages.pretrain_record import keep_precision, read_beginning, write_beginning
from candle_tf.stages.pretrain_settings import Pretraining
from candle_tf.stages.student_weights import starting_weights
from candle_tf.students.architectures.bnext import annealed_conv
from candle_tf.students.architectures.reactnet import _block
from candle_tf.students.compute_policy import DTYPES, PLAIN, ComputePolicy
from candle_tf.students.layers.blocks import batch_norm
from candle_tf.students.layers.quantizers import SteSign
from candle_tf.students.settings import StudentSettings
from candle_tf.students.weights import spec
from candle_tf.students.weights.packed import describe
from candle_tf.teachers.registry import TEACHERS
from tests.data.sources.test_registry import write_old_zip
from tests.teachers.test_feature_parts import random_backbone

SIDE = 24


def png(seed):
    """Some coloured squares: teachers see no difference between images of noise."""
    squares = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), np.uint8)
    pixels = squares.repeat(SIDE // 3, axis=0).repeat(SIDE // 3, axis=1)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """60 images in no folders of classes, and decoded images and features for all tests."""
    folder = tmp_path_factory.mktemp("images")
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for number in range(60):
            archive.writestr(f"some/where/{number}.png" if number % 2 else f"{number}.png",
                             png(number))  # fmt: skip
        archive.writestr("readme.txt", "no image")
    return folder


@pytest.fixture(autouse=True)
def one_block_student(monkeypatch):
    """The first block of ReActNet for the whole of it, whose graph takes long to build."""

    def build(name, input_shape, classes, **options):  # noqa: ARG001
        pixels = tf.keras.Input(input_shape, name="pixels")
        x = tf.keras.layers.Rescaling(1 / 127.5, offset=-1.0, name="rescale")(pixels)
        x = tf.keras.layers.Conv2D(8, 3, 2, padding="same", name="stem_conv")(x)
        x = _block(batch_norm(x, "stem_bn"), 16, 2, "block01")
        features = tf.keras.layers.GlobalAveragePooling2D(name="features")(x)
        logits = tf.keras.layers.Dense(classes, name="logits")(features)
        return tf.keras.Model(pixels, {"features": features, "logits": logits}, name=name)

    monkeypatch.setattr(spec, "build_student", build)


def settings_for(images, run_dir, **changes):
    values = {
        "data_dir": str(images / "images.zip"), "cache_dir": str(images / "cache"),
        "run_dir": str(run_dir), "image_size": 16, "teacher_size": 32, "views": 2, "epochs": 4,
        "decay_fraction": 0.5, "warmup_steps": 2, "batch_size": 16, "heldout_fraction": 0.2,
        "learning_rate": 0.02,
    }  # fmt: skip
    return Pretraining(**{**values, **changes})


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """An uninterrupted pretraining; also what others are compared with."""
    patch = pytest.MonkeyPatch()
    one_block_student.__wrapped__(patch)
    settings = settings_for(images, tmp_path_factory.mktemp("whole") / "run")
    done = pretrain(settings)
    patch.undo()
    return settings, done


@pytest.fixture
def tiny_plugin():
    import tests.tiny_parts  # noqa: F401


def interrupt(*_, **__):
    raise KeyboardInterrupt


def config(settings):
    with open(f"{settings.run_dir}/config.json") as file:
        return json.load(file)


def write_folder(settings, epochs):
    """The folder of a pretraining after so many epochs, without a network."""
    folder = Path(settings.run_dir) / "student" / "checkpoints"
    checkpoints = Checkpoints(folder, tf.Module(), [settings.constant_epochs])
    for epoch in range(1, epochs + 1):
        checkpoints.save({"epoch": epoch, "seconds": 1.0, SCORE: 0.1 * epoch})
    values = json.dumps(dataclasses.asdict(settings))
    (Path(settings.run_dir) / "config.json").write_text(values)


def history(settings):
    path = f"{settings.run_dir}/student/checkpoints/progress.json"
    with open(path) as file:
        return json.load(file)["history"]


def test_where_a_run_is_asked_for_its_folder_is_told_as_what_it_is(whole):
    settings, done = whole
    told = f"{settings.run_dir} is the folder of a pretraining.*--student_weights={done.weights},"
    with pytest.raises(UserError, match=told):
        load_exported(settings.run_dir)
    with pytest.raises(UserError, match=told):
        read_results(Path(settings.run_dir) / "report.json")


def test_weights_and_card_are_written(whole):
    settings, done = whole
    data, card = done.weights.read_bytes(), json.loads(done.card.read_text())
    found, class_names, facts = describe(data, "test")
    assert (found.name, found.width) == (settings.student, settings.width)
    assert class_names is None
    assert facts == {"teacher": "efficientnet_lite0"}
    assert card["sha256"] == hashlib.sha256(data).hexdigest()
    assert card["data"]["images"] == 60
    assert card["epoch"] == done.epoch
    assert "--epochs=4" in card["command"]
    assert settings.data_dir not in json.dumps(card)


def test_several_teachers_teach_the_classes_of_the_one_that_has_some(
    images, tmp_path, monkeypatch, caplog
):
    monkeypatch.setitem(TEACHERS._targets, "small", lambda *_: random_backbone(5, 1))
    settings = settings_for(
        images, tmp_path / "run", teacher="small+efficientnet_lite0", epochs=1, views=1,
        warmup_steps=500,
    )  # fmt: skip
    with caplog.at_level("WARNING", logger="absl"):
        done = pretrain(settings)
    assert re.search(r"--warmup_steps=500 is more than the \d steps", caplog.text)
    card = json.loads(done.card.read_text())
    assert card["teacher"]["name"] == "small+efficientnet_lite0"
    assert np.isfinite(list(card["figures"].values())).all()
    with pytest.raises(UserError, match="gives 1 for the 2 teachers"):
        settings_for(images, tmp_path, teacher=settings.teacher, teacher_weights="a.h5")


def test_held_out_images_are_not_learned_from(whole):
    settings, _ = whole
    data = open_images(settings)
    assert not set(data.train.rows) & set(data.heldout.rows)
    assert len(data.train) + len(data.heldout) == 60
    assert 2 <= len(data.heldout) <= 30
    # No image is stored larger than it is, though the teacher's input is.
    assert data.train.images.array.shape[1:3] == (SIDE, SIDE)


def test_images_that_replicas_cannot_share_are_refused(whole):
    settings, _ = whole
    data = open_images(settings)
    learned, held = len(data.train), len(data.heldout)
    everything = dataclasses.replace(settings, batch_size=1000)
    with pytest.raises(UserError, match=f"has {learned} images in a step, which are all that"):
        open_images(everything, replicas=learned - 1)
    few = dataclasses.replace(settings, batch_size=held + 1)
    with pytest.raises(UserError, match=f"{held} held-out images for {held + 1} replicas: .*_frac"):
        open_images(few, replicas=held + 1)
    open_images(dataclasses.replace(settings, batch_size=held), replicas=held)


def test_an_interrupted_training_ends_as_the_uninterrupted_one(
    images, whole, tmp_path, monkeypatch
):
    settings = settings_for(images, tmp_path / "run")

    class Stop(tf.keras.callbacks.Callback):
        def __init__(self, *_, **__):
            super().__init__()

        def on_epoch_begin(self, epoch, logs=None):  # noqa: ARG002
            if epoch == 2:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training_loop, "ProgressLog", Stop)
        with pytest.raises(KeyboardInterrupt):
            pretrain(settings)
    assert len(history(settings)) == 2
    # As a folder of an older version, which has no record; it has one from here on.
    record = Path(settings.run_dir) / "student" / "begun_with.json"
    record.unlink()
    assert pretrain(settings).weights.read_bytes() == whole[1].weights.read_bytes()
    of_whole = Path(whole[0].run_dir) / "student" / "begun_with.json"
    assert record.read_bytes() == of_whole.read_bytes()


def test_a_longer_training_continues_from_before_the_rate_fell(
    images, whole, tmp_path, monkeypatch
):
    short = settings_for(images, tmp_path / "run", epochs=3)
    pretrain(short)
    first = history(short)
    longer = dataclasses.replace(short, epochs=4)
    with monkeypatch.context() as patch:
        patch.setattr(pretrain_module, "open_images", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pretrain(longer)
    # Interrupted before it went back to that epoch, the same call does all the same.
    assert pretrain(longer).weights.read_bytes() == whole[1].weights.read_bytes()
    kept = short.constant_epochs
    assert kept == 1
    assert [row["seconds"] for row in history(longer)[:kept]] == [
        row["seconds"] for row in first[:kept]
    ]
    with pytest.raises(UserError, match=r"--epochs=2 lowers.*but 2 epochs"):
        pretrain(dataclasses.replace(short, epochs=2))
    # What is refused changes nothing.
    assert config(longer)["epochs"] == 4
    assert len(history(longer)) == 4


@pytest.mark.usefixtures("tiny_plugin")
def test_without_an_epoch_at_the_full_rate_nothing_can_be_continued(images, tmp_path):
    settings = settings_for(images, tmp_path / "run", decay_fraction=1.0, teacher="tiny_teacher")
    write_folder(settings, epochs=4)
    for _ in range(2):
        with pytest.raises(UserError, match=r"nothing in .* can be continued.*new --run_dir"):
            pretrain(dataclasses.replace(settings, epochs=8))
    assert config(settings)["epochs"] == 4
    assert len(history(settings)) == 4


@pytest.mark.usefixtures("tiny_plugin")
def test_a_number_of_epochs_that_an_older_version_wrote_by_mistake_is_told(images, tmp_path):
    settings = settings_for(images, tmp_path / "run", teacher="tiny_teacher")
    write_folder(dataclasses.replace(settings, epochs=2), epochs=4)
    with pytest.raises(UserError, match=r"4 epochs are done .*config\.json says --epochs=2"):
        pretrain(settings)
    assert len(history(settings)) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "bfloat16", "kernels": "plain"}, "only the native operators compute"),
        ({"teacher": "keras_applications:NoSuchNet"}, "NoSuchNet"),
        ({"student": "birealnet18"}, "would not keep layer conv of student binary"),
        ({"student": "bnext_t"}, "--student=bnext_t cannot be pretrained.*annealed"),
    ],
)
@pytest.mark.usefixtures("tiny_plugin")
def test_what_cannot_be_used_is_refused_before_anything_is_read(
    images, tmp_path, monkeypatch, changes, message
):
    def build_unsuitable(name, *_, **__):
        pixels = tf.keras.Input((16, 16, 3))
        conv = lq.layers.QuantConv2D(4, 3, kernel_quantizer="ste_sign", name="conv")
        x = conv(pixels)
        if name == "bnext_t":
            x = annealed_conv(SteSign()(pixels), 4, 3, 1, "conv")
        features = tf.keras.layers.GlobalAveragePooling2D(name="features")(x)
        logits = tf.keras.layers.Dense(2, name="logits")(features)
        outputs = {"features": features, "logits": logits}
        return tf.keras.Model(pixels, outputs, name="student")

    if "student" in changes:
        monkeypatch.setattr(spec, "build_student", build_unsuitable)
    given = {"teacher": "tiny_teacher", "cache_dir": str(tmp_path / "cache"), **changes}
    with pytest.raises(UserError, match=message):
        pretrain(settings_for(images, tmp_path / "run", **given))
    assert list(tmp_path.iterdir()) == []


def test_other_settings_in_the_same_folder_are_refused(whole):
    with pytest.raises(UserError, match=r"--learning_rate was 0\.02 and is now 0.1"):
        pretrain(dataclasses.replace(whole[0], learning_rate=0.1))


def copy_of(settings, folder):
    shutil.copytree(settings.run_dir, folder)
    return dataclasses.replace(settings, run_dir=str(folder))


def unpack_images(images, folder):
    with zipfile.ZipFile(images / "images.zip") as archive:
        archive.extractall(folder)
    return folder


def test_other_images_or_another_teacher_cannot_continue_a_training(
    images, whole, tmp_path, monkeypatch
):
    settings = copy_of(whole[0], tmp_path / "run")
    other = unpack_images(images, tmp_path / "other")
    (other / "2.png").write_bytes(png(1000))
    with pytest.raises(UserError, match=r"images are not those .*run was begun: 60 then and 60"):
        pretrain(dataclasses.replace(settings, data_dir=str(other)))
    backbone = random_backbone(5, 1)
    monkeypatch.setitem(TEACHERS._targets, "efficientnet_lite0", lambda *_: backbone)
    with pytest.raises(UserError, match=r"--teacher=efficientnet_lite0 has other weights than"):
        pretrain(settings)


def test_copies_of_the_images_are_the_same_images(images, whole, tmp_path):
    settings = copy_of(whole[0], tmp_path / "run")
    begun = read_beginning(settings)
    copies = unpack_images(images, tmp_path / "copies")
    moved = dataclasses.replace(settings, data_dir=str(copies), cache_dir=str(tmp_path / "cache"))
    found = open_images(moved, begun).contents
    assert found.tokens != begun.contents.tokens
    assert found.sha256 == begun.contents.sha256


@pytest.mark.parametrize("kept", DTYPES)
def test_a_pretraining_that_has_begun_keeps_its_precision(whole, tmp_path, kept):
    settings = copy_of(whole[0], tmp_path / "run")
    begun = dataclasses.replace(read_beginning(settings), precision=kept)
    write_beginning(settings, begun)
    assert read_beginning(settings) == begun
    named = dataclasses.replace(settings, precision="float32")
    policies = {dtype: ComputePolicy(native=True, dtype=dtype) for dtype in DTYPES}
    for policy in policies.values():
        assert keep_precision(settings, policy, begun) == policies[kept]
        assert keep_precision(settings, policy, None) == policy
        assert keep_precision(named, policy, begun) == policy
    assert keep_precision(settings, PLAIN, begun) == PLAIN


@pytest.mark.parametrize("text", ["{", "{}", '{"images": 1}'])
def test_a_damaged_record_of_the_beginning_is_told(whole, tmp_path, text):
    settings = copy_of(whole[0], tmp_path / "run")
    (tmp_path / "run" / "student" / "begun_with.json").write_text(text)
    with pytest.raises(UserError, match=r"begun_with\.json is damaged"):
        read_beginning(settings)


@pytest.mark.parametrize("fraction", [0.03, 0.4, 0.7])
def test_the_fraction_that_is_asked_for_is_held_out(tmp_path, fraction):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(400):
        (folder / f"{number}.png").write_bytes(png(0))
    settings = settings_for(tmp_path, tmp_path / "run", data_dir=str(folder))
    data = open_images(dataclasses.replace(settings, heldout_fraction=fraction))
    # Three standard errors of a draw.
    error = 3 * np.sqrt(fraction * (1 - fraction) / 400)
    assert len(data.heldout) / 400 == pytest.approx(fraction, abs=error)


@pytest.mark.parametrize("parts", [2, 10, 20, 50, 100])
def test_of_one_over_n_the_same_images_are_held_out_as_ever(parts):
    ids = [f"{number}.png" for number in range(1000)]
    held = _held_out(ids, Pretraining(heldout_fraction=1 / parts))
    assert held.tolist() == [image_key(name) % parts == 0 for name in ids]


@pytest.mark.usefixtures("tiny_plugin")
def test_a_folder_whose_held_out_images_were_others_is_refused(images, tmp_path):
    settings = settings_for(images, tmp_path / "run", heldout_fraction=0.4, teacher="tiny_teacher")
    write_folder(settings, epochs=2)
    with pytest.raises(UserError, match=r"older version.*--heldout_fraction=0\.4"):
        pretrain(settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"xla": "on", "precision": "bfloat16"}, "contradicts --xla=on"),
        ({"train_list": "a.csv"}, "--train_list=a.csv contradicts --dataset=folder"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        Pretraining(**changes)


def test_images_of_a_test_set_are_refused(images, tmp_path):
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "another.png").write_bytes(png(1000))
    settings = settings_for(images, tmp_path / "run", test_data_dir=str(tests))
    open_images(settings)
    (tests / "renamed.png").write_bytes(png(7))
    with pytest.raises(UserError, match=r"1 of the images are also in.*some/where/7\.png"):
        open_images(settings)


def test_names_of_images_and_test_images_are_read_in_the_given_encoding(images, tmp_path):
    packed = write_old_zip(tmp_path, tuple(f"表/{i}.png" for i in range(20)), "cp932")
    with pytest.raises(UserError, match=r"unknown encoding.*Give --archive_encoding"):
        open_images(settings_for(images, tmp_path / "run", data_dir=packed))
    changes = {"data_dir": packed, "archive_encoding": "cp932"}
    data = open_images(settings_for(images, tmp_path / "run", **changes))
    assert len(data.train) + len(data.heldout) == 20
    with pytest.raises(UserError, match=f"20 of the images are also in --test_data_dir={packed}"):
        open_images(settings_for(images, tmp_path / "run", test_data_dir=packed, **changes))
    with pytest.raises(UserError, match="--archive_encoding=cp0 is not known"):
        settings_for(images, tmp_path / "run", archive_encoding="cp0")


def test_a_test_set_that_is_not_there_is_told_before_images_are_read(images, tmp_path):
    settings = settings_for(
        images, tmp_path / "run", test_data_dir=str(tmp_path / "none"), on_bad_image="skip",
        cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    with pytest.raises(UserError, match=r"--test_data_dir=.*none"):
        open_images(settings)
    assert not list(tmp_path.rglob("*.npy"))


def test_images_that_cannot_be_read_are_all_listed_or_skipped(tmp_path, caplog):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number}.png").write_bytes(png(number))
    for number in range(52):
        (folder / f"broken{number:02}.png").write_bytes(b"<html>" if number else png(0)[:50])
    settings = Pretraining(data_dir=str(folder), run_dir=str(tmp_path / "run"), image_size=16,
                           heldout_fraction=0.3)  # fmt: skip
    with pytest.raises(UserError) as caught:
        open_images(settings)
    first, *listed, more, advice = str(caught.value).splitlines()
    assert first == "52 images cannot be read:"
    assert [re.findall(r"broken(\d+)\.png: not a readable image", line) for line in listed] == [
        [f"{number:02}"] for number in range(50)
    ]
    assert more == "  and 2 more"
    assert advice == "Fix or remove them, or leave them out with --on_bad_image=skip."
    assert not list((tmp_path / "run" / "cache").glob("images-*"))
    data = open_images(dataclasses.replace(settings, on_bad_image="skip"))
    assert len(data.train) + len(data.heldout) == 20
    (told,) = [each.getMessage() for each in caplog.records if "broken" in each.getMessage()]
    assert told.splitlines() == [first, *listed, more, "They are left out of 72 images"]


def test_where_no_image_can_be_read_that_is_told(tmp_path):
    for number in range(9):
        (tmp_path / f"{number}.png").write_bytes(b"<html>")
    settings = Pretraining(data_dir=str(tmp_path), run_dir=str(tmp_path / "run"), image_size=16,
                           heldout_fraction=0.5, on_bad_image="skip")  # fmt: skip
    with pytest.raises(UserError, match=r"9 images cannot be read:(?s:.*)These are all images of"):
        open_images(settings)


def test_too_few_images_to_hold_any_out_are_refused(tmp_path):
    (tmp_path / "0.png").write_bytes(png(0))
    settings = Pretraining(data_dir=str(tmp_path), run_dir=str(tmp_path / "run"), image_size=16)
    with pytest.raises(UserError, match="of 1 images leaves none"):
        open_images(settings)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_student_starts_from_the_weights_or_from_the_folder(whole, kind):
    settings, done = whole
    given = done.weights if kind == "file" else settings.run_dir
    start, from_folder = (
        starting_weights(StudentSettings(student_weights=str(path), image_size=16))
        for path in (given, settings.run_dir)
    )
    assert start.class_names is None
    for ours, theirs in zip(
        start.network.get_layer("block01_spatial_bn").get_weights(),
        from_folder.network.get_layer("block01_spatial_bn").get_weights(),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0.5}, "is a run of reactnet_a at width 1"),
        ({"student_weights_sha256": "0" * 64}, "is the folder of a run"),
    ],
)
def test_the_folder_of_another_student_is_refused(whole, changes, message):
    with pytest.raises(UserError, match=message):
        starting_weights(
            StudentSettings(student_weights=whole[0].run_dir, image_size=16, **changes)
        )


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="is no folder of a run"):
        starting_weights(StudentSettings(student_weights=str(tmp_path)))
