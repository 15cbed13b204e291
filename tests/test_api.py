"""Training, loading and predicting from Python and with `candle_tf.predict`."""

import csv
import io
import json
import multiprocessing
import os
import pickle
import pydoc
import re
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import candle_tf
from candle_tf import api
from candle_tf.config import Config
from candle_tf.deploy.exported_student import find_saved_models, load_exported
from candle_tf.errors import UserError
from candle_tf.evaluate import class_rows, metrics_text
from candle_tf.metrics import evaluate_logits
from candle_tf.reporting.table import ABSENT
from candle_tf.run_folder import open_run_folder
from candle_tf.stages.check_images import check_split
from candle_tf.stages.split import open_data
from tests.command import start
from tests.data.sources.test_registry import write_folder
from tests.test_runtime_messages import NOISE

SETTINGS = {
    "dataset": "digits",
    "imbalance_factor": 2,
    "image_size": 16,
    "stem_stride": 1,
    "width": 0.25,
    "method": "balanced_softmax",
    "epochs": 2,
}
RUNTIMES = ("lce", "float", "saved_model")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run by the Python call, in a process of its own: it sets TensorFlow's seeds; its output."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    code = (
        "import absl.logging, candle_tf\n"
        "absl.logging.set_verbosity(absl.logging.INFO)\n"
        f"model = candle_tf.train(run_dir={str(folder)!r}, **{SETTINGS!r})\n"
        "absl.logging.set_verbosity(absl.logging.WARNING)\n"
        f"again = candle_tf.train(config={str(folder / 'config.json')!r})\n"
        "assert again.results == model.results\n"
        "print(len(model.labels), model.results.metrics['tflite'].images)"
    )
    root = Path(candle_tf.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    classes, tested = map(int, done.stdout.split()[-2:])
    assert classes == 10
    assert tested > 100
    return folder, done


@pytest.fixture(scope="module")
def run_dir(trained):
    """The run of `trained`."""
    return trained[0]


@pytest.fixture(scope="module")
def scans():
    """uint8 [N, 8, 8, 3]."""
    grey = np.rint(load_digits().images[:40] * 255 / 16).astype(np.uint8)
    return np.repeat(grey[..., np.newaxis], 3, axis=-1)


@pytest.fixture
def photos(tmp_path, scans):
    """A folder of five scans, a text file, a damaged image; and a ZIP of two more scans."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        Image.fromarray(scans[number]).save(folder / f"{number}.png")
    (folder / "notes.txt").write_text("no image")
    (folder / "bad.png").write_bytes((folder / "0.png").read_bytes()[:60])
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        for number in (5, 6):
            encoded = io.BytesIO()
            Image.fromarray(scans[number]).save(encoded, "PNG")
            archive.writestr(f"inner/{number}.png", encoded.getvalue())
    return folder, tmp_path / "more.zip"


def test_a_training_tells_its_stages_and_nothing_of_the_runtime(trained):
    _, done = trained
    for stage in ("1/6 data", "3/6 train the student", "6/6 report"):
        assert done.stderr.count(f"--- {stage}") == 1
    assert not NOISE.search(done.stderr), done.stderr
    assert "unsaved custom gradients" not in done.stderr
    assert len(done.stdout.splitlines()) == 1


def test_a_model_says_what_it_is_in_a_line(run_dir):
    model = candle_tf.load(run_dir)
    source, mean = run_dir / "export" / "student.lce.tflite", model.results.metrics["tflite"].mean
    told = f"Model({source}, runtime lce, 10 classes, mean accuracy {100 * mean:.1f} %)"
    assert repr(model) == told
    floats = candle_tf.load(run_dir / "export", "float")
    assert repr(floats).endswith("student.float.tflite, runtime float, 10 classes)")


def classes_of(model, image):
    """In another process."""
    return model.predict(image)[0].classes


def test_a_loaded_model_is_sent_to_another_process(run_dir, scans, tmp_path, monkeypatch):
    (tmp_path / "run").symlink_to(run_dir)
    monkeypatch.chdir(tmp_path)
    model = candle_tf.load("run", "float")
    spawn = multiprocessing.get_context("spawn")
    monkeypatch.chdir(Path(candle_tf.__file__).parents[1])
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        assert pool.submit(classes_of, model, scans[0]).result() == classes_of(model, scans[0])
    again = pickle.loads(pickle.dumps(model))
    assert again.student.runtime == "float"
    assert again.results == model.results
    bare = candle_tf.Model(_Brightness())
    assert pickle.loads(pickle.dumps(bare)).labels == bare.labels


def test_numbers_of_numpy_are_settings():
    """They are read, as what is refused behind them tells."""
    with pytest.raises(UserError, match="leaves nothing"):
        candle_tf.train(
            dataset="digits", export_student="off", epochs=np.int64(2), width=np.float32(0.25),
            center_features=np.bool_(True), calibration_resolutions=(np.int32(32), 64),
        )  # fmt: skip
    with pytest.raises(UserError, match=r"epochs=2\.5, which is no int"):
        candle_tf.train(dataset="digits", epochs=np.float64(2.5))
    with pytest.raises(UserError, match="--calibration_resolutions=8 is out of range"):
        candle_tf.train(dataset="digits", calibration_resolutions=np.array([32, 8]))


def test_a_call_of_train_without_any_setting_or_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for call in (candle_tf.train, api.train):
        with pytest.raises(UserError, match="was given no setting: give dataset="):
            call()
    with pytest.raises(UserError, match=r"given 'digits' without .* train\(dataset=\"digits\"\)"):
        candle_tf.train("digits")
    with pytest.raises(UserError, match="given 'digits' without the name"):
        candle_tf.train("digits", epochs=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"dataset": 3}, "dataset=3 is neither text nor a path"),
        ({"data_dir": None}, "data_dir=None is neither"),
        ({"dataset": "list", "data_dir": "x", "test_list": None}, "test_list=None is neither"),
    ],
)
def test_data_to_evaluate_on_that_are_no_text_are_refused(given, told):
    with pytest.raises(UserError, match=told):
        candle_tf.Model(_Brightness()).evaluate(**given)


def test_images_without_the_name_of_a_data_set_are_a_folder(tmp_path):
    with pytest.raises(UserError, match=r"--data_dir=.*nothing does not exist"):
        candle_tf.train(data_dir=tmp_path / "nothing")


def test_a_settings_file_that_is_missing_is_told(tmp_path):
    with pytest.raises(UserError, match="There is no settings file"):
        candle_tf.train(config=tmp_path / "config.json", epochs=3)


def test_the_package_names_what_it_has_without_tensorflow():
    code = (
        "import sys, inspect, candle_tf\n"
        "assert {'load', 'train', 'Model', 'UserError'} <= set(dir(candle_tf))\n"
        "assert all(f'candle_tf.{name}' in candle_tf.__doc__ for name in"
        " ('load', 'train', 'Model', 'UserError'))\n"
        "from candle_tf.config import Config\n"
        "from candle_tf.errors import UserError\n"
        "assert candle_tf.UserError is UserError\n"
        "named = inspect.signature(candle_tf.train).parameters\n"
        "assert list(named) == ['config', *Config.fields()]\n"
        "assert all(named[k].default == v.default for k, v in Config.fields().items())\n"
        "assert 'tensorflow' not in sys.modules"
    )
    root = Path(candle_tf.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_help_of_the_training_is_that_of_the_call():
    shown = pydoc.plain(pydoc.render_doc(candle_tf.train))
    for line in filter(None, map(str.strip, candle_tf.api.train.__doc__.splitlines())):
        assert line in shown


def test_files_arrays_and_archives_give_the_same(run_dir, photos, scans):
    model = candle_tf.load(run_dir)
    by_file = model.predict(photos)
    names = [Path(each.name).name for each in by_file]
    assert names == ["0.png", "1.png", "2.png", "3.png", "4.png", "bad.png", "5.png", "6.png"]
    good = [each for each in by_file if not each.error]
    by_array = model.predict(scans[:7])
    assert [each.classes for each in good] == [each.classes for each in by_array]
    assert [each.scores for each in good] == [each.scores for each in by_array]
    (bad,) = (each for each in by_file if each.error)
    assert bad.name.endswith("bad.png")
    assert "bad.png" in bad.error
    assert (bad.classes, bad.image) == ((), None)
    by_image = model.predict([Image.open(photos[0] / f"{number}.png") for number in range(5)])
    assert by_image == by_array[:5]
    assert len(set(by_image + by_array)) == len(by_array)


def test_scores_are_a_softmax_the_best_first(run_dir, scans):
    every = candle_tf.load(run_dir).predict(scans[:5], top=99)
    for each in every:
        assert sorted(each.classes) == [str(digit) for digit in range(10)]
        assert sum(each.scores) == pytest.approx(1, abs=1e-5)
        assert list(each.scores) == sorted(each.scores, reverse=True)
    two = candle_tf.load(run_dir).predict(scans[:5], top=2)
    assert [each.classes for each in two] == [each.classes[:2] for each in every]


def test_runtimes_agree(run_dir, scans):
    scores = [candle_tf.load(run_dir, runtime).student.scores(list(scans)) for runtime in RUNTIMES]
    for other in scores[1:]:
        np.testing.assert_allclose(other, scores[0], atol=0.02)


def test_every_path_to_an_export_loads(run_dir, scans):
    export = run_dir / "export"
    paths = {
        run_dir: "lce",
        export: "lce",
        export / "student.lce.tflite": "lce",
        export / "student.float.tflite": "float",
        export / "saved_model": "saved_model",
        export / "saved_model" / "1": "saved_model",
    }
    for path, runtime in paths.items():
        model = candle_tf.load(path)
        assert model.student.runtime == runtime
        assert len(model.predict(scans[:1])) == 1
    assert candle_tf.load(run_dir).results.metrics["tflite"].images > 0
    assert candle_tf.load(export).results is None


def test_the_report_is_measured_again(run_dir):
    """On the data set's images evaluate() counts what NumPy counts from the predictions."""
    model = candle_tf.load(run_dir)
    metrics = model.evaluate("digits")
    digits = load_digits()
    grey = np.rint(digits.images * 255 / 16).astype(np.uint8)
    predicted = model.predict(np.repeat(grey[..., np.newaxis], 3, axis=-1), top=1)
    right = np.array([int(p.classes[0]) for p in predicted]) == digits.target
    per_class = [right[digits.target == digit].mean() for digit in range(10)]
    assert metrics.images == len(right)
    assert metrics.mean == pytest.approx(np.mean(per_class))
    assert set(metrics.groups) == set(model.results.split["groups"])


@pytest.fixture
def labelled(tmp_path, scans):
    """Forty scans by class, one of them cut off, and a list of them; the labels in its order."""
    folder, labels = tmp_path / "labelled", load_digits().target[:40]
    lines = []
    for number, (scan, label) in enumerate(zip(scans, labels, strict=True)):
        path = folder / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scan).save(path)
        lines.append(f"{label}/{number}.png,{label}")
    path.write_bytes(path.read_bytes()[:60])
    (tmp_path / "labelled.csv").write_text("path,label\n" + "\n".join(lines))
    return folder, tmp_path / "labelled.csv", labels


def test_images_that_cannot_be_read_are_refused_or_left_out(run_dir, labelled, scans, caplog):
    folder, table, labels = labelled
    model = candle_tf.load(run_dir)
    with pytest.raises(UserError, match=r"39\.png"):
        model.evaluate("folder", str(folder))
    with pytest.raises(UserError, match="on_bad_image=ignore is not known"):
        model.evaluate("folder", str(folder), on_bad_image="ignore")
    by_folder = model.evaluate("folder", str(folder), on_bad_image="skip")
    assert "1 images were left out" in caplog.text
    names = folder.with_name("names.txt")
    names.write_text("\n".join(map(str, range(10))))
    by_list = model.evaluate(
        "list", str(folder), on_bad_image="skip", test_list=str(table), class_names=str(names)
    )
    right = np.array([p.classes[0] for p in model.predict(scans[:39])]) == labels[:39].astype(str)
    for metrics in (by_folder, by_list):
        assert metrics.images == 39
        assert metrics.overall == pytest.approx(right.mean())


class _Brightness:
    """A student that tells dark images from bright ones."""

    labels = ("dark", "bright")
    source = "brightness"
    shot_groups: ClassVar[dict[str, tuple[str, ...]]] = {}

    def scores(self, images):
        bright = np.array([image.mean() > 127 for image in images], np.float32)
        return np.stack([1 - bright, bright], axis=1)


@pytest.fixture
def two_images(tmp_path):
    """A dark and a bright image, by class, listed and annotated; both are told right."""
    for category, label in enumerate(_Brightness.labels):
        path = tmp_path / "images" / label / "0.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(np.full((4, 4, 3), 255 * category, np.uint8)).save(path)
    files = [f"{label}/0.png" for label in _Brightness.labels]
    content = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(files)],
        "categories": [{"id": c, "name": name} for c, name in enumerate(_Brightness.labels)],
        "annotations": [{"image_id": number, "category_id": number} for number in range(2)],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    rows = zip(files, _Brightness.labels, strict=True)
    (tmp_path / "list.csv").write_text("path,label\n" + "\n".join(map(",".join, rows)))
    return tmp_path


@pytest.mark.parametrize(
    ("dataset", "test_list"),
    [("coco", "coco.json"), ("list", "list.csv"), ("places_lt", "list.csv"),
     ("cub200", "list.csv"), ("fgvc_aircraft", "")],
)  # fmt: skip
def test_data_sets_are_named_as_for_training(two_images, dataset, test_list):
    given = str(two_images / test_list) if test_list else ""
    model = candle_tf.Model(_Brightness())
    metrics = model.evaluate(dataset, str(two_images / "images"), test_list=given)
    assert (metrics.images, metrics.mean) == (2, 1.0)


@pytest.mark.parametrize("dataset", ["coco", "list", "places_lt"])
def test_a_list_that_is_missing_is_told_by_the_flag_that_evaluation_has(two_images, dataset):
    with pytest.raises(UserError, match=f"{dataset}.* needs --test_list"):
        candle_tf.Model(_Brightness()).evaluate(dataset, str(two_images / "images"))


class _Levels(_Brightness):
    """The same with a class between them, as a student that was trained on a list."""

    labels = ("0", "1", "2")

    def scores(self, images):
        return np.eye(3, dtype=np.float32)[[int(image.mean()) // 86 for image in images]]


@pytest.mark.parametrize(
    ("model", "text", "accuracies"),
    [
        (_Levels, "path,label\ndark/0.png,0\nbright/0.png,2\n", (1, None, 1)),
        (_Levels, "path,label\nbright/0.png,1\n", (None, 0, None)),
        (_Levels, "path,label,split\nbright/0.png,2,test\n", (None, None, 1)),
        (_Brightness, "path,label\nbright/0.png,1\n", (None, 1)),
        (_Brightness, "path,label\nbright/0.png,bright\n", (None, 1)),
    ],
)
def test_a_list_may_lack_classes(two_images, model, text, accuracies):
    (two_images / "new.csv").write_text(text)
    metrics = candle_tf.Model(model()).evaluate(
        "list", str(two_images / "images"), test_list=str(two_images / "new.csv")
    )
    assert metrics.per_class == accuracies
    untested = [name for name, a in zip(model.labels, accuracies, strict=True) if a is None]
    assert metrics.untested_classes == tuple(untested)


def test_a_path_may_be_one_and_an_unknown_flag_of_data_is_told(two_images):
    model, folder = candle_tf.Model(_Brightness()), two_images / "images"
    metrics = model.evaluate("list", folder, test_list=two_images / "list.csv")
    assert (metrics.images, metrics.mean) == (2, 1.0)
    with pytest.raises(UserError, match=r"foo='x' is no option of a data set.*train_list, test_l"):
        model.evaluate("folder", folder, foo="x")


def test_a_folder_may_lack_classes(two_images):
    shutil.rmtree(two_images / "images" / "dark")
    metrics = candle_tf.Model(_Brightness()).evaluate("folder", str(two_images / "images"))
    assert metrics.per_class == (None, 1)
    (two_images / "images" / "bright").rename(two_images / "images" / "brown")
    with pytest.raises(UserError, match="the class 'brown', which brightness does not know"):
        candle_tf.Model(_Brightness()).evaluate("folder", str(two_images / "images"))


def test_images_that_the_run_learned_from_are_told(two_images, tmp_path, caplog):
    source = write_folder(
        tmp_path / "data",
        {f"{label}/{i}.png": (two_images / "images" / label / "0.png").read_bytes() + bytes([i])
         for label in _Brightness.labels for i in range(10)},
    )  # fmt: skip
    config = Config(dataset="folder", data_dir=source, run_dir=str(tmp_path / "run"))
    with open_data(config) as data:
        split, _ = check_split(config, open_run_folder(config), data)
    learned = 20 - len(split.test.ids)
    model = candle_tf.Model(_Brightness(), run_dir=tmp_path / "run")
    assert model.evaluate("folder", source).images == 20
    assert f"{learned} of the 20 images to be measured are training or validation" in caplog.text
    caplog.clear()
    model.evaluate("folder", str(two_images / "images"))
    assert not caplog.records


@pytest.mark.parametrize("given", ["export", "export/student.lce.tflite", "export/saved_model/1"])
def test_an_export_tells_of_images_that_its_run_learned_from(run_dir, given, tmp_path, caplog):
    model = candle_tf.load(run_dir / given)
    model.evaluate("digits")
    assert "images to be measured are training or validation images of" in caplog.text
    assert model.results is None
    assert model.run_dir == run_dir.resolve()
    copy = shutil.copytree(run_dir / "export", tmp_path / "export")
    assert candle_tf.load(copy).run_dir is None


def test_the_command_prints_and_writes_what_is_measured(run_dir, labelled, tmp_path):
    folder, _, _ = labelled
    done = start(
        "candle_tf.evaluate", str(run_dir), f"--data_dir={folder}", "--on_bad_image=skip",
        f"--csv={tmp_path / 'classes.csv'}", f"--json={tmp_path / 'figures.json'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    metrics = candle_tf.load(run_dir).evaluate("folder", str(folder), on_bad_image="skip")
    assert json.loads((tmp_path / "figures.json").read_text()) == metrics.to_json()
    rows = list(csv.DictReader((tmp_path / "classes.csv").open()))
    assert len(rows) == 10
    assert [float(row["%"]) for row in rows] == sorted(float(row["%"]) for row in rows)
    for row in rows:
        assert float(row["%"]) == pytest.approx(100 * metrics.per_class[int(row["class"])], abs=0.1)
        assert row["shots"] in metrics.groups
        for column, scores in (
            ("precision %", metrics.per_class_precision),
            ("F1 %", metrics.per_class_f1),
        ):
            score = scores[int(row["class"])]
            told = row[column] and float(row[column])
            assert told == ("" if score is None else pytest.approx(100 * score, abs=0.1))
    assert "top-5" not in done.stdout
    assert f"{100 * metrics.mean:.1f}" in done.stdout
    assert "39 images of 10 classes" in done.stdout
    for label in "37":
        shutil.rmtree(folder / label)
    done = start("candle_tf.evaluate", str(run_dir), f"--data_dir={folder}", "--on_bad_image=skip")
    assert "2 classes have no test images and are not in the means: 3, 7" in done.stdout
    none = start("candle_tf.evaluate", str(run_dir), str(folder))
    assert none.returncode == 2
    assert "Give one run's folder or its export" in none.stderr


def test_the_command_measures_on_a_source_of_a_plugin(run_dir, labelled, tmp_path):
    folder, _, _ = labelled
    (tmp_path / "my_source.py").write_text(
        "from candle_tf.data.sources.registry import SOURCES\n"
        "SOURCES.register('mine', 'candle_tf.data.sources.folder:open_folder')"
    )
    given = (str(run_dir), "--dataset=mine", f"--data_dir={folder}", "--on_bad_image=skip")
    done = start("candle_tf.evaluate", *given, "--plugin=my_source", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "39 images of 10 classes" in done.stdout
    without = start("candle_tf.evaluate", *given, cwd=tmp_path)
    assert without.returncode == 2
    assert "Unknown data set 'mine': choose one of digits, folder" in without.stderr
    assert "(or --plugin)" in without.stderr


def test_of_more_than_ten_classes_the_command_tells_top_5():
    names = [f"class {c}" for c in range(11)]
    # Each image's own class is the fourth; nothing is predicted as the class 0.
    logits = np.stack([np.roll(np.arange(11.0), c + 4) for c in range(11)])
    logits[:, 0] -= 11
    figures = evaluate_logits(logits, np.arange(11), {}, names)
    model = SimpleNamespace(shot_groups={}, labels=names, student=SimpleNamespace(source="s"))
    text = metrics_text(model, figures)
    best = np.argsort(-logits, axis=1)[:, :5]
    right = np.mean([label in row for label, row in enumerate(best)])
    assert 0.5 < right < 1
    assert f"; top-5 {100 * right:.1f} %, mean over classes. Least accurate:" in text
    (line,) = [line for line in text.splitlines() if line.startswith("class 0 ")]
    assert line.split()[2:] == ["0.0", ABSENT, "0.0"]
    (row,) = [row for row in class_rows(model, figures) if row["class"] == "class 0"]
    assert "precision %" not in row


@pytest.mark.parametrize(
    ("path", "runtime", "words"),
    [
        ("absent", "auto", "does not exist"),
        ("empty", "auto", "holds no export"),
        ("run/export/student.lce.tflite", "float", "contradicts"),
        ("run/export/export.json", "auto", "is no student.lce.tflite"),
        ("run", "onnx", "one of auto, lce"),
        ("x" * 5000, "auto", "xx... cannot be used"),
    ],
)
def test_what_is_no_export_is_refused(run_dir, tmp_path, path, runtime, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "run").symlink_to(run_dir)
    with pytest.raises(UserError, match=words):
        candle_tf.load(tmp_path / path, runtime)


def test_an_empty_path_is_not_the_current_folder(run_dir, photos, monkeypatch):
    model = candle_tf.load(run_dir)
    monkeypatch.chdir(photos[0])
    with pytest.raises(UserError, match="A path is empty"):
        model.predict("")
    monkeypatch.chdir(run_dir)
    for load in (candle_tf.load, load_exported, find_saved_models):
        with pytest.raises(UserError, match="A path is empty"):
            load("")
    assert candle_tf.load(".").labels == model.labels


def test_a_changed_file_is_refused(run_dir, tmp_path):
    export = tmp_path / "export"
    shutil.copytree(run_dir / "export", export)
    file = export / "student.lce.tflite"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match="SHA-256"):
        candle_tf.load(export)


def test_an_export_has_the_shot_groups_of_its_run(run_dir, tmp_path, labelled):
    whole, (folder, *_) = candle_tf.load(run_dir), labelled
    known = {group: tuple(names) for group, names in whole.results.split["groups"].items()}
    assert sum(map(len, known.values())) == 10
    inside = shutil.copytree(run_dir, tmp_path / "run") / "export"
    alone = shutil.copytree(inside, tmp_path / "alone")
    figures = whole.evaluate("folder", folder, on_bad_image="skip")
    assert figures.groups
    for export in (inside, alone):
        model = candle_tf.load(export)
        assert model.results is None
        assert model.shot_groups == known
        again = model.evaluate("folder", folder, on_bad_image="skip")
        assert again == figures
        assert class_rows(model, again) == class_rows(whole, figures)
        metadata = json.loads((export / "student.json").read_text())
        del metadata["shot_groups"]
        (export / "student.json").write_text(json.dumps(metadata))
    # Exports of older versions have none, but their runs may be there.
    assert {k: tuple(v) for k, v in candle_tf.load(inside).shot_groups.items()} == known
    old = candle_tf.load(alone)
    assert old.evaluate("folder", folder, on_bad_image="skip").groups == {}
    assert {row["shots"] for row in class_rows(old, figures)} == {""}


@pytest.mark.parametrize(
    "groups", [[], {"few": 1}, {"few": ["1"]}, {"few": [10]}, {"few": [-1]}, {"few": [True]}]
)
def test_shot_groups_that_are_not_as_written_are_refused(run_dir, tmp_path, groups):
    export = shutil.copytree(run_dir / "export", tmp_path / "export")
    metadata = json.loads((export / "student.json").read_text())
    (export / "student.json").write_text(json.dumps({**metadata, "shot_groups": groups}))
    with pytest.raises(UserError, match=r"student\.json is damaged"):
        candle_tf.load(export)


@pytest.mark.parametrize("split", [None, {}, {"groups": []}, {"groups": {"few": [["0"]]}}])
def test_a_damaged_report_has_no_shot_groups(run_dir, tmp_path, split):
    run = shutil.copytree(run_dir, tmp_path / "run")
    report, student = run / "report.json", run / "export" / "student.json"
    report.write_text(json.dumps({**json.loads(report.read_text()), "split": split}))
    metadata = json.loads(student.read_text())
    del metadata["shot_groups"]
    student.write_text(json.dumps(metadata))
    with pytest.raises(UserError, match=r"report\.json is damaged"):
        candle_tf.load(run / "export").shot_groups  # noqa: B018


def test_an_export_of_before_says_how_images_are_resized_in_its_run(run_dir, tmp_path, scans):
    old = tmp_path / "run"
    shutil.copytree(run_dir, old)
    metadata = json.loads((old / "export" / "student.json").read_text())
    del metadata["input"]["resizing"]
    (old / "export" / "student.json").write_text(json.dumps(metadata))
    before, now = candle_tf.load(old), candle_tf.load(run_dir)
    assert [p.scores for p in before.predict(scans)] == [p.scores for p in now.predict(scans)]
    (old / "config.json").unlink()
    with pytest.raises(UserError, match="export the run again"):
        candle_tf.load(old)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
def test_arrays_that_are_no_image_are_refused(run_dir, image):
    with pytest.raises(UserError, match="give uint8"):
        candle_tf.load(run_dir).predict([image])


@pytest.mark.parametrize("shape", [(40, 48), (48,), (40, 48, 4)])
def test_an_array_of_up_to_three_dimensions_is_one_image(run_dir, shape):
    with pytest.raises(UserError, match=re.escape(f"An image is uint8 {list(shape)}; give uint8")):
        candle_tf.load(run_dir).predict(np.zeros(shape, np.uint8))


def test_images_of_pillow_that_have_no_pixels_are_refused(run_dir):
    model = candle_tf.load(run_dir)
    with pytest.raises(UserError, match="image 1: mode F"):
        model.predict([Image.new("L", (4, 4)), Image.new("F", (4, 4))])
    with pytest.raises(UserError, match="Image, str"):
        model.predict([Image.new("L", (4, 4)), "a.png"])
    assert len(model.predict(Image.new("L", (4, 4)))) == 1


@pytest.mark.parametrize(
    ("images", "kinds"),
    [
        (b"\x89PNG", "bytes"),
        ([b"\x89PNG"], "bytes"),
        (["a.png", np.zeros((4, 4, 3), np.uint8)], "ndarray, str"),
        (3, "int"),
        ([None], "NoneType"),
    ],
)
def test_what_is_neither_path_nor_array_is_refused(run_dir, images, kinds):
    with pytest.raises(UserError, match=f"predict.. was given {kinds}: give paths"):
        candle_tf.load(run_dir).predict(images)


def test_how_images_and_classes_are_asked_for(run_dir, photos, scans):
    model = candle_tf.load(run_dir)
    folder, _ = photos
    paths = [folder / "0.png", str(folder / "1.png")]
    found = [model.predict(given) for given in (paths, (path for path in paths))]
    assert [p.scores for p in found[0]] == [p.scores for p in found[1]]
    assert len(found[0]) == 2
    assert len(model.predict(scan for scan in scans[:3])) == 3
    assert model.predict([]) == []
    (one,) = model.predict(scans[0])
    assert one.classes == model.predict(scans[:1])[0].classes
    assert "array" not in repr(one)
    for top in (0, -1):
        with pytest.raises(UserError, match=f"top={top} is less than 1"):
            model.predict(scans[:1], top=top)
    for top in (1.5, "2", None):
        with pytest.raises(UserError, match=re.escape(f"top={top!r} is no whole number")):
            model.predict(scans[:1], top=top)
    assert len(model.predict(scans[:1], top=np.int64(2))[0].classes) == 2
    by_array = model.predict(np.array([str(path) for path in paths]))
    assert [p.scores for p in by_array] == [p.scores for p in found[0]]
    assert model.predict(np.array([])) == []


def test_a_version_of_the_saved_model_is_the_one_that_is_named(run_dir, tmp_path, monkeypatch):
    export = tmp_path / "export"
    shutil.copytree(run_dir / "export", export)
    shutil.copytree(export / "saved_model" / "1", export / "saved_model" / "2")
    for name in ("1", "2"):
        version = export / "saved_model" / name
        assert candle_tf.load(version).student.source == str(version)
        monkeypatch.chdir(version)
        assert candle_tf.load(".").student.runtime == "saved_model"
    assert candle_tf.load(export, "saved_model").student.source.endswith("saved_model/2")
    (export / "saved_model" / "3").mkdir()
    with pytest.raises(UserError, match="3 holds no SavedModel"):
        candle_tf.load(export / "saved_model" / "3")
    (export / "notes").mkdir()
    with pytest.raises(UserError, match="holds no export"):
        candle_tf.load(export / "notes")


def test_predict_prints_csv_and_the_bad_file_with_its_reason(run_dir, photos):
    done = start("candle_tf.predict", str(run_dir), *map(str, photos), "--top=2")
    assert done.returncode == 1
    assert "1 of 8 images could not be classified" in done.stderr
    assert "images/s" in done.stderr
    assert "Traceback" not in done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert len(rows) == 8
    wanted = candle_tf.load(run_dir).predict(photos, top=2)
    assert [row["class_1"] for row in rows] == [(*p.classes, "")[0] for p in wanted]
    assert [bool(row["error"]) for row in rows] == [bool(p.error) for p in wanted]


def test_predict_writes_all_three_files(run_dir, photos, tmp_path):
    files = {kind: tmp_path / f"out.{kind}" for kind in ("csv", "jsonl", "html")}
    options = [f"--{kind}={path}" for kind, path in files.items()]
    done = start("candle_tf.predict", str(run_dir), str(photos[1]), *options)
    assert (done.returncode, done.stdout) == (0, "")
    lines = [json.loads(line) for line in files["jsonl"].read_text().splitlines()]
    rows = list(csv.DictReader(files["csv"].open()))
    assert [line["classes"][0] for line in lines] == [row["class_1"] for row in rows]
    assert files["html"].read_text().count("<img") == 2


def test_predict_classifies_names_of_any_bytes(run_dir, photos, tmp_path):
    folder, good = tmp_path / "odd", photos[0] / "1.png"
    folder.mkdir()
    name = os.fsdecode(b"caf\xe9.png")
    shutil.copy(good, folder / name)
    (folder / os.fsdecode(b"\xe9.png")).write_bytes(b"no image")
    files = {kind: tmp_path / f"out.{kind}" for kind in ("csv", "jsonl", "html")}
    options = [f"--{kind}={path}" for kind, path in files.items()]
    done = start("candle_tf.predict", str(run_dir), str(folder), *options)
    assert done.returncode == 1
    assert "1 of 2 images could not be classified" in done.stderr
    assert "Traceback" not in done.stderr
    printed = start("candle_tf.predict", str(run_dir), str(folder))
    assert printed.stdout == files["csv"].read_text("utf-8")
    (wanted,) = candle_tf.load(run_dir).predict([good])
    rows = list(csv.DictReader(io.StringIO(printed.stdout)))
    assert [row["image"] for row in rows] == [f"{folder}/caf\\udce9.png", f"{folder}/\\udce9.png"]
    assert [row["class_1"] for row in rows] == [wanted.classes[0], ""]
    assert "not a readable image" in rows[1]["error"]
    lines = [json.loads(line) for line in files["jsonl"].read_text("utf-8").splitlines()]
    assert lines[0]["image"] == f"{folder}/{name}"
    assert lines[0]["classes"] == list(wanted.classes)
    assert "caf\\udce9.png" in files["html"].read_text("utf-8")


def test_predict_writes_the_other_files_where_one_cannot_be_written(run_dir, photos, tmp_path):
    # Before the work, x could be a folder as well as a file.
    files = {"csv": tmp_path / "x" / "out.csv", "jsonl": tmp_path / "x", "html": tmp_path / "page"}
    options = [f"--{kind}={path}" for kind, path in files.items()]
    done = start("candle_tf.predict", str(run_dir), str(photos[1]), *options)
    assert done.returncode == 2
    assert f"{tmp_path / 'x'} cannot be written" in done.stderr
    assert len(files["csv"].read_text().splitlines()) == 3
    assert files["html"].read_text().count("<img") == 2


def test_predict_refuses_outputs_that_would_replace_something(run_dir, photos, tmp_path):
    image, export = tmp_path / "1.png", run_dir / "export"
    shutil.copy(photos[0] / "1.png", image)
    (tmp_path / "link").symlink_to(export)
    before = image.read_bytes(), sorted(path.name for path in export.iterdir())
    for options, words in (
        ([f"--csv={image}"], "would replace it"),
        ([f"--csv={tmp_path}/x", f"--jsonl={tmp_path}/x"], "--csv and --jsonl are both"),
        ([f"--html={tmp_path}/link/labels.txt"], "the folder of the exported student"),
    ):
        done = start("candle_tf.predict", str(run_dir), str(image), *options)
        assert done.returncode == 2
        assert words in done.stderr
    assert (image.read_bytes(), sorted(path.name for path in export.iterdir())) == before
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "words"), [([], "Give a run's folder"), (["/nowhere", "x.png"], "does not exist")]
)
def test_predict_refuses_with_one_message(arguments, words):
    done = start("candle_tf.predict", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_the_keras_model_is_the_exported_student(run_dir, scans):
    model = candle_tf.load(run_dir, "saved_model")
    pixels = np.stack([model.student.preprocess(scan) for scan in scans])
    logits = model.keras_model(pixels.astype(np.float32))["logits"].numpy()
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores = model.student.scores_of(pixels)
    np.testing.assert_allclose(odds / odds.sum(axis=1, keepdims=True), scores, atol=1e-3)
    with pytest.raises(UserError, match="without its run"):
        candle_tf.load(run_dir / "export").keras_model  # noqa: B018


@pytest.mark.parametrize("used", [False, True])
def test_tensorflow_may_be_imported_before(used):
    """As long as its Keras was not used."""
    code = (
        "import tensorflow as tf\n"
        f"{'tf.keras.layers' if used else 'tf.constant(1)'}\n"
        "import candle_tf\n"
        "from tensorflow.keras import layers\n"
        "assert layers.Dense is tf.keras.layers.Dense\n"
        "print(tf.keras.Model.__module__, layers.Dense.__module__)"
    )
    environment = {name: v for name, v in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    root = Path(candle_tf.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if used:
        assert "import candle_tf first" in done.stderr.splitlines()[-1]
    else:
        assert done.returncode == 0, done.stderr
        assert all(name.startswith("tf_keras.") for name in done.stdout.split())


def test_the_example_notebook_runs(run_dir, tmp_path):
    """With the run of its settings in place, so that it is not trained again."""
    root = Path(candle_tf.__file__).parents[1]
    shutil.copytree(run_dir, tmp_path / "runs" / "notebook")
    command = [sys.executable, "-m", "tools.run_notebook",
               str(root / "examples/quickstart.ipynb"), "--out=executed.ipynb"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    cells = json.loads((tmp_path / "executed.ipynb").read_text())["cells"]
    outputs = [cell["outputs"] for cell in cells if cell["cell_type"] == "code"]
    assert all(outputs)
    assert outputs[-1][0]["data"]["text/plain"] == ["True"]


def test_no_image_at_all_is_refused(run_dir, tmp_path):
    with pytest.raises(UserError, match="no image"):
        candle_tf.load(run_dir).predict(tmp_path)


def test_the_example_in_the_readme_runs(run_dir, tmp_path, scans):
    root = Path(candle_tf.__file__).parents[1]
    code, *others = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(), re.S)
    assert not others
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "quickstart").symlink_to(run_dir)
    Image.fromarray(scans[0]).save(tmp_path / "image.png")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    name, score = done.stdout.split()
    (wanted,) = candle_tf.load(run_dir).predict(scans[:1])
    assert (name, float(score)) == (wanted.classes[0], pytest.approx(wanted.scores[0]))
