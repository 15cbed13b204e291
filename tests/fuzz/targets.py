"""What is read from files of others: of each kind a sound file, and how it is read.

for target in record_targets(folder): outcomes(target, inputs=100)
"""

import dataclasses
import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from candle_tf.config import Config, settings_of_older_runs
from candle_tf.data.cached_arrays import array_path, stored_array
from candle_tf.data.sources.registry import open_source
from candle_tf.data.splits.class_counts import read_class_counts
from candle_tf.data.splits.split import load_split, save_split
from candle_tf.deploy.exported_student import load_exported
from candle_tf.errors import UserError
from candle_tf.methods.checkpoints import Checkpoints
from candle_tf.methods.classifier_file import read_classifier, write_classifier
from candle_tf.methods.method import Classifier
from candle_tf.metrics import evaluate_logits
from candle_tf.reporting.analysis import analyze, read_run, sections_text
from candle_tf.reporting.comparison import TOLD_SETTINGS, compare
from candle_tf.reporting.results import Results, read_results, write_results
from candle_tf.reporting.table import method_table
from candle_tf.reporting.whole_results import read_whole_results
from candle_tf.run_folder import RunFolder, open_run_folder
from candle_tf.stages.check_images import read_data_check
from candle_tf.stages.earlier_run import EarlierRun
from candle_tf.stages.pretrain_record import (
    Beginning,
    Contents,
    read_beginning,
    write_beginning,
)
from candle_tf.stages.pretrain_settings import Pretraining, open_pretraining, write_pretraining
from candle_tf.students.weights.packed import describe, pack, unpack
from candle_tf.weight_files.keras_h5 import load_h5
from candle_tf.weight_files.torch_pickle import read_state_dict
from tests.data.sources.test_coco import IMAGES, annotations
from tests.data.sources.test_registry import BOTH_SUBSETS, tree, write_folder, write_tar, write_zip
from tests.data.splits.test_split import source_of, split_of, subset
from tests.fuzz.damage import damaged_bytes, damaged_json
from tests.reporting.made_run import draw_run
from tests.students.weights.test_packed import SPEC, random_student
from tests.weight_files.test_torch_pickle import Storage, file_of, tensor, zip_of

READ, REFUSED, HEALED = "read", "refused with a sentence", "computed again"
_ROWS = np.arange(24, dtype=np.float32).reshape(8, 3)


@dataclasses.dataclass(frozen=True)
class Target:
    """A file, and what reads it.

    Attributes:
        name: for the table.
        path: where the damaged file is put.
        sound: its undamaged bytes.
        read: reads `path`; raises UserError, or AssertionError where damage was believed.
        is_json: whether values are damaged too.
        success: what it is called if `read` returns.
    """

    name: str
    path: Path
    sound: bytes
    read: Callable[[], Any]
    is_json: bool = False
    success: str = READ


def outcomes(target: Target, inputs: int, seed: int = 0) -> Counter[str]:
    """Counts what happens to damaged files; anything but `UserError` is raised.

    The sound file has to be read, so that a refusal of the damaged ones means something.
    """
    target.path.parent.mkdir(parents=True, exist_ok=True)
    target.path.write_bytes(target.sound)
    target.read()
    damage = damaged_json if target.is_json else damaged_bytes
    counts: Counter[str] = Counter()
    for number, data in enumerate(damage(target.sound, inputs, seed)):
        target.path.write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                target.read()
            counts[target.success] += 1
        except UserError as error:
            refusal = str(error).strip()
            if not refusal.endswith("."):
                raise AssertionError(f"{target.name}: no sentence: {refusal}") from error
            counts[REFUSED] += 1
        except Exception as error:
            told = f"{target.name}, input {number} of seed {seed}: {error!r}"
            raise AssertionError(told) from error
    target.path.write_bytes(target.sound)
    return counts


def record_targets(folder: Path) -> Iterator[Target]:
    """What runs write beside their results, and caches."""
    yield _json_target(folder, "config.json", lambda path: Config(epochs=3).to_json(path),
                       lambda path: open_run_folder_again(path.parent))  # fmt: skip
    pretraining = folder / "pretraining"
    open_pretraining(Pretraining(run_dir=str(pretraining)))
    write_pretraining(Pretraining(run_dir=str(pretraining)))
    yield _target("config.json of a pretraining", pretraining / "config.json",
                  lambda path: open_pretraining(Pretraining(run_dir=str(path.parent))))  # fmt: skip
    yield _target("begun_with.json of a pretraining", _write_beginning(pretraining),
                  lambda _: read_beginning(Pretraining(run_dir=str(pretraining))))  # fmt: skip
    yield _target("config.json of starting weights", pretraining / "config.json",
                  lambda path: EarlierRun(path.parent, "--student_weights").spec)  # fmt: skip
    yield _json_target(folder, "report.json", _write_report,
                       lambda path: method_table(read_results(path).rows()))  # fmt: skip
    yield _compared_report_target(folder / "compared")
    split = split_of(source_of(subset("train", 40, 20, 10), subset("test", 3, 3, 3)))

    def read_split(path: Path) -> None:
        assert load_split(path).hash == split.hash, "a changed split was believed"

    yield _json_target(folder, "split.json", lambda path: save_split(split, path), read_split)
    yield _json_target(folder, "data_check.json", _write_data_check, read_data_check)
    yield _json_target(folder, "manifest.json", _write_manifest, _read_manifest)
    yield _progress_target(folder)
    classifier = folder / "classifier.safetensors"
    write_classifier(classifier, 2, Classifier(_ROWS, _ROWS[0]))
    yield _target("classifier.safetensors", classifier, read_classifier, is_json=False)
    yield _json_target(folder / "export", "student.json", _write_metadata, _read_metadata)
    yield from _cache_targets(folder / "cache")


def weight_targets(folder: Path) -> Iterator[Target]:
    """Weights files of every kind."""
    folder.mkdir(parents=True, exist_ok=True)
    storage = Storage("7", np.random.default_rng(0).normal(size=24).astype("<f4"))
    state = {
        "kernel": tensor(storage, 0, (2, 3, 4), (12, 4, 1)),
        "b": tensor(storage, 2, (4,), (1,)),
    }
    for layout, data in (("old", file_of(state, [storage])), ("zip", zip_of(state, [storage]))):
        path = folder / f"{layout}.pth"
        yield Target(
            f".pth, {layout} layout",
            path,
            data,
            lambda path=path: _check_finite(read_state_dict(path.read_bytes(), str(path))),
        )
    for suffix in (".h5", ".weights.h5"):
        path = folder / f"keras{suffix}"
        _small_network().save_weights(path)
        network = _small_network()
        yield _target(
            f"HDF5, {suffix}",
            path,
            lambda path, net=network: load_h5(net, path, "network"),
            is_json=False,
        )
    student = random_student(SPEC)

    def read_packed(path: Path) -> None:
        describe(path.read_bytes(), str(path))
        unpack(path.read_bytes(), student, str(path))

    path = folder / "student.safetensors"
    path.write_bytes(pack(student, SPEC, ["a", "b", "c"]))
    yield _target(".safetensors", path, read_packed, is_json=False)


def list_targets(folder: Path) -> Iterator[Target]:
    """Lists, tables, annotations, class counts and archives."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("cats/0.png", "cats/1.png", "dogs/2.png", "dogs/3.png")
    images = write_folder(folder / "images", tree(*names))
    texts = {
        "list of paths and numbers": ("t.txt", "cats/0.png 0\ncats/1.png 0\ndogs/2.png 1\n"),
        "CSV": ("t.csv", 'path,label,split\n"cats/0.png",cat,train\ndogs/2.png,dog,train\n'),
        "TSV": ("t.tsv", "Image\tCategory\r\ncats/1.png\tcat\r\ndogs/3.png\tdog\r\n"),
    }
    for name, (file, text) in texts.items():
        (folder / file).write_text(text)
        yield _target(name, folder / file, lambda path: _open("list", images, path), is_json=False)
    coco = write_folder(folder / "coco", tree(*IMAGES))
    (folder / "coco.json").write_text(json.dumps(annotations()))
    yield _target("COCO annotations", folder / "coco.json", lambda path: _open("coco", coco, path))
    for file, text in (("c.json", '{"ant": 5, "bee": 3}'), ("c.csv", "class,n\nant,5\nbee,3\n")):
        (folder / file).write_text(text)
        yield _target(f"class counts in {file[1:]}", folder / file,
                      lambda path: read_class_counts(str(path), ("ant", "bee")),
                      is_json=file.endswith("json"))  # fmt: skip
    for write in (write_zip, write_tar):
        path = Path(write(folder, tree(*BOTH_SUBSETS)))
        yield _target(path.suffix[1:].upper(), path, _read_archive, is_json=False)


def open_run_folder_again(folder: Path) -> None:
    """Reads config.json as a resumed run does; closes the lock."""
    opened = open_run_folder(Config(epochs=3, run_dir=str(folder)))
    if opened.lock is not None:
        opened.lock.close()


def _target(
    name: str, path: Path, read: Callable[[Path], Any], is_json: bool = True, success: str = READ
) -> Target:
    return Target(name, path, path.read_bytes(), lambda: read(path), is_json, success)


def _json_target(
    folder: Path, name: str, write: Callable[[Path], Any], read: Callable[[Path], Any]
) -> Target:
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / name)
    return _target(name, folder / name, read)


def _write_beginning(run_dir: Path) -> Path:
    """The record of a pretraining of which an epoch is done."""
    settings = Pretraining(run_dir=str(run_dir))
    write_beginning(settings, Beginning(Contents(60, "ab", "cd"), "ef", "float32"))
    Checkpoints(run_dir / "student" / "checkpoints", tf.Module()).save({"epoch": 1})
    return run_dir / "student" / "begun_with.json"


def _write_report(path: Path) -> None:
    groups = {"many": np.array([0]), "few": np.array([1])}
    metrics = evaluate_logits(np.eye(2), np.arange(2), groups, ("ant", "bee"))
    write_results(Results({"method": "candle"}, {"hash": "ab"}, 1, 2, {"student": metrics}, {}, {}),
                  path)  # fmt: skip


def _compared_report_target(folder: Path) -> Target:
    """What `candle_tf.report` and `candle_tf.analyze` read of a run; a sound one is beside it."""
    path, beside = folder / "report.json", folder / "sound" / "report.json"
    results = draw_run(3)[0]
    settings = {"student": "reactnet_a", "width": 0.5, "run_dir": "runs/a", "optimizer": "adam",
                "teacher": "lite0", "balance": "class_adversarial"}  # fmt: skip
    norms = {"student": [1.0, 2.0, 0.5], "teacher": [0.5, 0.0, 2.0]}
    for each in (path, beside):
        each.parent.mkdir(parents=True, exist_ok=True)
        write_results(
            dataclasses.replace(results, config={**results.config, **settings}, norms=norms), each
        )

    def read(_: Path) -> None:
        sound, damaged = (read_whole_results(each, TOLD_SETTINGS) for each in (beside, path))
        split = {**damaged.split, "hash": sound.split["hash"]}
        compare([sound, dataclasses.replace(damaged, split=split)], None, None)
        sections_text(analyze([read_run(folder, settings_of_older_runs())]))

    return _target("report.json, compared and analysed", path, read)


def _write_data_check(path: Path) -> None:
    left_out = [{"id": "a.png", "part": "train", "class": "ant", "reason": "is no image"}]
    record = {"scanned": 3, "left_out": left_out, "duplicates": [], "shared": {"train, test": 1}}
    path.write_text(json.dumps(record))


def _write_manifest(path: Path) -> None:
    folder = RunFolder(path.parent)
    folder.record("train", [path.parent / "config.json"], teacher="ab12")


def _read_manifest(path: Path) -> None:
    folder = RunFolder(path.parent)
    folder.manifest()
    folder.is_finished("train")


def _progress_target(folder: Path) -> Target:
    trainer = tf.Module()
    trainer.weight = tf.Variable([1.0, 2.0])
    checkpoints = Checkpoints(folder / "student", trainer)
    for epoch in (1, 2):
        checkpoints.save({"epoch": epoch, "val_mean_class_accuracy": 0.5 * epoch})
    history = checkpoints.history

    def read(path: Path) -> None:
        found = Checkpoints(path.parent, trainer)
        # A record of before version 0.2 has no checksum, and so has one that lost it.
        is_checked = b'"sha256"' in path.read_bytes()
        assert not is_checked or found.history == history, "a changed record was believed"

    return _target("progress.json", folder / "student/progress.json", read)


def _write_metadata(path: Path) -> None:
    (path.parent / "student.lce.tflite").write_bytes(b"no model")
    resizing = {"stored_side": 64, "resize": "stretch"}
    content = {"labels": ["ant", "bee"], "input": {"shape": [1, 64, 64, 3], "resizing": resizing},
               "shot_groups": {"many": [0], "few": [1]},
               "files": {"student.lce.tflite": {"sha256": "0" * 64}}}  # fmt: skip
    path.write_text(json.dumps(content))


def _read_metadata(path: Path) -> None:
    # Its file is not that of the metadata, which is the last that is checked.
    try:
        load_exported(path.parent)
    except UserError as error:
        if "SHA-256 differs" not in str(error):
            raise


def _cache_targets(folder: Path) -> Iterator[Target]:
    key = {"version": 1}
    path = array_path(folder, "rows", key)

    def read(_: Path) -> None:
        array = stored_array(
            folder, "rows", key, (8, 3), "float32", 4, lambda start, stop: _ROWS[start:stop]
        )
        np.testing.assert_array_equal(array, _ROWS)

    read(path)
    yield _target("cached array", path, read, is_json=False, success=HEALED)
    yield _target("record of a cached array", path.with_suffix(".json"), read, success=HEALED)


def _check_finite(state: dict[str, np.ndarray]) -> None:
    assert all(np.isfinite(array.astype(np.float64)).all() for array in state.values())


def _small_network() -> tf.keras.Model:
    tf.keras.backend.clear_session()
    return tf.keras.Sequential([
        tf.keras.layers.Input((4,)),
        tf.keras.layers.Dense(3, name="first"),
        tf.keras.layers.Dense(2, name="second"),
    ])  # fmt: skip


def _open(dataset: str, images: str, path: Path) -> None:
    with open_source(dataset, images, train_list=str(path)) as source:
        assert len(source.train.ids) == len(source.train.labels)


def _read_archive(path: Path) -> None:
    with open_source("folder", str(path)) as source:
        for image_id in source.train.ids:
            source.read_image(image_id)
