import json
import os
import shutil
from importlib import metadata

import pytest

import candle_tf
from candle_tf.config import Config
from candle_tf.errors import UserError
from candle_tf.files import sha256_of_file
from candle_tf.run_folder import (
    RunFolder,
    calibration_policy,
    join_run_folder,
    open_run_folder,
    versions,
)


def config(path, **changes):
    return Config(run_dir=str(path), **changes)


def begin(path):
    """Leaves what the first epoch of a training leaves."""
    (path / "student" / "checkpoints").mkdir(parents=True)
    (path / "student" / "checkpoints" / "progress.json").write_text("{}")


@pytest.fixture
def folder(tmp_path):
    """A run with two finished files of one stage."""
    opened = open_run_folder(config(tmp_path / "run"))
    (opened.path / "student").mkdir()
    (opened.path / "student" / "weights.h5").write_bytes(b"weights")
    (opened.path / "split.json").write_bytes(b"split")
    opened.record("train", [opened.path / "split.json", opened.path / "student/weights.h5"])
    return opened


def test_a_new_run_gets_its_folder_and_settings(tmp_path):
    settings = config(tmp_path / "runs" / "a", epochs=3)
    folder = open_run_folder(settings)
    assert folder.path == tmp_path / "runs" / "a"
    assert folder.config_path == folder.path / "config.json"
    assert Config.from_json(folder.config_path) == settings
    assert folder.manifest() == {}
    assert not folder.is_finished("train")


def test_the_same_settings_open_it_again(tmp_path):
    settings = config(tmp_path / "run", calibration_resolutions=(64, 96), learning_rate=1e-3 / 3)
    first, second = open_run_folder(settings), open_run_folder(settings)
    assert first == second
    assert Config.from_json(second.config_path) == settings


@pytest.mark.parametrize(
    ("name", "before", "now"),
    [("epochs", 4, 3), ("method", "candle", "cross_entropy"), ("width", 1.0, 0.5),
     ("calibration_resolutions", (96,), (96, 128)), ("center_features", True, False)],
)  # fmt: skip
def test_other_settings_are_refused_with_both_values(tmp_path, name, before, now):
    open_run_folder(config(tmp_path, **{name: before}))
    begin(tmp_path)
    with pytest.raises(UserError) as caught:
        open_run_folder(config(tmp_path, **{name: now}))
    message = str(caught.value)
    as_json = [list(value) if isinstance(value, tuple) else value for value in (before, now)]
    assert f"--{name} was {as_json[0]} and is now {as_json[1]}" in message
    assert str(tmp_path) in message
    assert "--run_dir" in message
    # The folder is still the first run's.
    assert Config.from_json(tmp_path / "config.json")[name] == before


def test_all_changed_settings_are_named(tmp_path):
    open_run_folder(config(tmp_path))
    begin(tmp_path)
    with pytest.raises(UserError, match=r"--width .*--batch_size .*--seed "):
        open_run_folder(config(tmp_path, seed=1, batch_size=2, width=0.5))


@pytest.mark.parametrize(("before", "now"), [(3, 4), (3, 0), (0, 3)])
def test_epochs_may_be_raised_or_left_to_the_data(tmp_path, before, now):
    open_run_folder(config(tmp_path, epochs=before))
    begin(tmp_path)
    assert open_run_folder(config(tmp_path, epochs=now)).has_begun
    assert Config.from_json(tmp_path / "config.json").training.epochs == now


def test_another_epoch_may_be_selected_and_the_teachers_stays(tmp_path, caplog):
    """Of what was trained before, in config.json alone, and over two changes."""
    open_run_folder(config(tmp_path))
    begin(tmp_path)
    calibration = tmp_path / "calibrate"
    (calibration / "checkpoints").mkdir(parents=True)
    (calibration / "checkpoints" / "progress.json").write_text("{}")
    assert calibration_policy(calibration, "last") == "last"
    for policy in ("best", "last", "auto"):
        open_run_folder(config(tmp_path, select_epoch=policy))
        assert Config.from_json(tmp_path / "config.json").training.select_epoch == policy
        assert calibration_policy(calibration, policy) == "auto"
    assert "--select_epoch was auto and is now best" in caplog.text

    for damaged in ("{", '{"select_epoch": "newest"}'):
        (calibration / "select_epoch.json").write_text(damaged)
        with pytest.raises(UserError, match=r"select_epoch\.json.*Restore it"):
            calibration_policy(calibration, "last")


@pytest.mark.parametrize("begun", ["calibrate", "student"])
def test_no_epoch_of_a_teacher_is_kept_that_nothing_learned_from(tmp_path, begun):
    open_run_folder(config(tmp_path))
    (tmp_path / begun / "checkpoints").mkdir(parents=True)
    (tmp_path / begun / "checkpoints" / "progress.json").write_text("{}")
    open_run_folder(config(tmp_path, select_epoch="best"))
    assert calibration_policy(tmp_path / "calibrate", "best") == "best"


def test_all_workers_select_the_same_epoch(tmp_path):
    """Of the teacher: its outputs would differ."""
    open_run_folder(config(tmp_path))
    with pytest.raises(UserError, match="--select_epoch was auto and is now best"):
        join_run_folder(config(tmp_path, select_epoch="best"))


@pytest.mark.parametrize("decay", ["cosine", "linear"])
def test_it_is_told_how_the_rate_falls_in_more_epochs(tmp_path, caplog, decay):
    open_run_folder(config(tmp_path / "run", epochs=5, rate_decay=decay))
    begin(tmp_path / "run")
    with caplog.at_level("INFO", logger="absl"):
        open_run_folder(config(tmp_path / "run", epochs=7, rate_decay=decay))
    assert f"rate follows the {decay} decay" in caplog.text


def begin_second_stage(path, epochs):
    """Leaves what a method with two stages does: the first's epochs, and one of the second."""
    for name, done in (("student_stage1", epochs), ("student", 1)):
        checkpoints = path / name / "checkpoints"
        checkpoints.mkdir(parents=True)
        (checkpoints / "progress.json").write_text(json.dumps({"history": [{}] * done}))


@pytest.mark.parametrize("method", ["crt", "mislas", "candle_crt"])
def test_more_epochs_than_the_second_stage_began_on_leave_the_folder_as_it_is(tmp_path, method):
    before = config(tmp_path, method=method, epochs=2)
    open_run_folder(before)
    begin_second_stage(tmp_path, 2)
    with pytest.raises(UserError, match=r"--epochs=4 cannot continue .*which has 2.*--epochs=2"):
        open_run_folder(before.replace(epochs=4))
    assert Config.from_json(tmp_path / "config.json") == before
    assert open_run_folder(before).has_begun


def test_a_folder_with_more_epochs_written_down_than_its_first_stage_has_is_opened(
    tmp_path, caplog
):
    begin_second_stage(tmp_path, 2)
    config(tmp_path, method="crt", epochs=4).to_json(tmp_path / "config.json")
    with caplog.at_level("INFO", logger="absl"):
        folder = open_run_folder(config(tmp_path, method="crt", epochs=2))
    assert Config.from_json(folder.config_path).training.epochs == 2
    assert "continues" not in caplog.text


def test_a_first_stage_without_a_second_is_continued(tmp_path):
    open_run_folder(config(tmp_path, method="crt", epochs=2))
    begin_second_stage(tmp_path, 2)
    shutil.rmtree(tmp_path / "student")
    assert open_run_folder(config(tmp_path, method="crt", epochs=4)).has_begun


def test_settings_that_nothing_was_trained_by_do_not_block_others(tmp_path):
    folder = open_run_folder(config(tmp_path, width=1.0))
    # Images are checked before a split is saved; one without that record is a user's.
    folder.data_check_path.write_text("{}")
    folder.split_path.write_text("drawn by the settings before")
    again = open_run_folder(config(tmp_path, width=1.0))
    assert again.split_path.exists()
    changed = open_run_folder(config(tmp_path, width=0.5))
    assert not changed.split_path.exists()
    assert Config.from_json(changed.config_path).student.width == 0.5


def test_a_run_that_never_began_leaves_no_folder(tmp_path):
    folder = open_run_folder(config(tmp_path / "run"))
    folder.record("data", [folder.config_path])
    folder.remove_if_nothing_began()
    assert not folder.path.exists()


@pytest.mark.parametrize("kept", ["begun", "report.json", "export", "cache/store.npy", "mine.txt"])
def test_what_is_worth_something_stays(tmp_path, kept):
    folder = open_run_folder(config(tmp_path / "run"))
    if kept == "begun":
        begin(folder.path)
    else:
        (folder.path / kept).parent.mkdir(exist_ok=True)
        (folder.path / kept).write_text("")
    folder.remove_if_nothing_began()
    assert folder.path.exists()
    assert folder.config_path.exists() == (kept in ("begun", "report.json", "export"))
    if kept != "begun":
        assert (folder.path / kept).exists()


@pytest.mark.parametrize(
    "name", ["manifest.json", "split.json", "data_check.json", "image_contents.json"]
)
def test_what_a_run_found_there_stays_when_it_stops(tmp_path, name):
    """Such as the manifest of a web page, or a split that was saved for the run."""
    (tmp_path / name).write_text('{"name": "mine"}')
    folder = open_run_folder(config(tmp_path))
    for path in (folder.split_path, folder.data_check_path, folder.image_contents_path):
        if path.name != name:
            path.write_text("{}")
    if name != "manifest.json":
        folder.record("data", [folder.config_path])
    folder.remove_if_nothing_began()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == '{"name": "mine"}'


def test_a_run_that_stops_where_another_was_killed_does_not_block_the_next(tmp_path):
    killed = open_run_folder(config(tmp_path, width=1.0))
    killed.data_check_path.write_text("{}")
    killed.split_path.write_text("drawn by the killed run")
    stopped = open_run_folder(config(tmp_path, width=1.0))
    stopped.image_contents_path.write_text("{}")
    stopped.remove_if_nothing_began()
    assert not stopped.image_contents_path.exists()
    assert stopped.split_path.exists()
    # The settings tell by what the split was drawn.
    other = open_run_folder(config(tmp_path, width=0.5))
    assert not other.split_path.exists()
    other.split_path.write_text("drawn by the other run")
    other.remove_if_nothing_began()
    assert not other.split_path.exists()


def test_a_moved_run_resumes(folder, tmp_path):
    moved = tmp_path / "elsewhere" / "run"
    shutil.move(folder.path, tmp_path / "elsewhere" / "run")
    opened = open_run_folder(config(moved, cache_dir=str(tmp_path / "cache")))
    assert opened.is_finished("train")
    assert Config.from_json(opened.config_path).run.run_dir == str(moved)


def test_moved_data_and_weights_resume(tmp_path):
    settings = config(
        tmp_path, dataset="list", data_dir="a.zip", train_list="a.csv", teacher_weights="w.h5",
        teacher_weights_sha256="12",
    )  # fmt: skip
    open_run_folder(settings)
    begin(tmp_path)
    moved = {"data_dir": "b.zip", "train_list": "b.csv", "teacher_weights": "v.h5"}
    open_run_folder(settings.replace(**moved))
    with pytest.raises(UserError, match="--teacher_weights_sha256 was 12 and is now 34"):
        open_run_folder(settings.replace(teacher_weights_sha256="34"))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("balance_floors", {"balance": "class_adversarial"}),
        ("unlabelled_dir", {"method": "candle"}),
    ],
)
def test_a_path_of_what_a_run_computes_from_may_move_but_not_come_or_go(tmp_path, name, settings):
    with_path = config(tmp_path, **settings, **{name: "runs/a"})
    without = config(tmp_path, **settings)
    for before, now, message in (
        (with_path, without, f"--{name} was runs/a and is now empty"),
        (without, with_path, f"--{name} was empty and is now runs/a"),
    ):
        shutil.rmtree(tmp_path / "student", ignore_errors=True)
        open_run_folder(before)
        begin(tmp_path)
        with pytest.raises(UserError, match=message):
            open_run_folder(now)
        with pytest.raises(UserError, match=message):
            join_run_folder(now)
        assert Config.from_json(tmp_path / "config.json") == before
    shutil.rmtree(tmp_path / "student")
    open_run_folder(with_path)
    begin(tmp_path)
    open_run_folder(with_path.replace(**{name: "runs/b"}))
    assert join_run_folder(with_path).has_begun


def test_images_without_labels_that_nothing_was_trained_on_do_not_block_others(tmp_path):
    folder = open_run_folder(config(tmp_path, unlabelled_dir="a"))
    folder.data_check_path.write_text("{}")
    assert open_run_folder(config(tmp_path, unlabelled_dir="a")).data_check_path.exists()
    # Its record is of the other folder's images.
    assert not open_run_folder(config(tmp_path, unlabelled_dir="b")).data_check_path.exists()


@pytest.mark.parametrize("inside", ["", "run"])
def test_a_folder_that_cannot_be_made_is_named(tmp_path, inside):
    (tmp_path / "file").write_text("not a folder")
    path = tmp_path / "file" / inside
    with pytest.raises(UserError, match=f"--run_dir={path} cannot be written"):
        open_run_folder(config(path))


@pytest.mark.parametrize("text", ["{", '{"plugin": 3}', '{"plugim": ""}'])
def test_a_folder_whose_settings_are_damaged_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json"):
        open_run_folder(config(tmp_path))
    assert (tmp_path / "config.json").read_text() == text


def test_the_manifest_holds_versions_and_hashes(folder):
    manifest = json.loads(folder.manifest_path.read_text())
    assert manifest["versions"] == versions()
    assert manifest["stages"] == {
        "train": {
            "split.json": sha256_of_file(folder.path / "split.json"),
            "student/weights.h5": sha256_of_file(folder.path / "student/weights.h5"),
        }
    }
    assert folder.is_finished("train")
    assert not folder.is_finished("export")


def test_another_stage_leaves_the_first_in_place(folder):
    folder.report_path.write_text("{}")
    folder.record("evaluate", [folder.report_path])
    assert folder.is_finished("train")
    assert folder.is_finished("evaluate")
    assert RunFolder(folder.path).manifest()["stages"].keys() == {"train", "evaluate"}


def test_a_stage_recorded_again_is_known_by_its_new_files(folder):
    (folder.path / "student/weights.h5").write_bytes(b"new weights")
    folder.record("train", [folder.path / "student/weights.h5"])
    assert folder.is_finished("train")
    assert folder.manifest()["stages"]["train"].keys() == {"student/weights.h5"}


def test_a_stage_that_is_forgotten_is_to_be_done_again(folder):
    folder.record("export", [folder.config_path], split="ab12")
    (folder.path / "student/weights.h5").write_bytes(b"new weights")
    folder.forget_stage("train")
    assert not folder.is_finished("train")
    assert folder.is_finished("export")
    assert folder.manifest()["split"] == "ab12"
    before = folder.manifest_path.read_bytes()
    folder.forget_stage("train")
    RunFolder(folder.path, writes=False).forget_stage("export")
    assert folder.manifest_path.read_bytes() == before


def test_a_folder_without_a_manifest_has_no_stage_to_forget(tmp_path):
    RunFolder(tmp_path).forget_stage("export")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["missing", "changed", "truncated"])
def test_a_damaged_file_is_named(folder, damage):
    path = folder.path / "student/weights.h5"
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"wEights" if damage == "changed" else b"weigh")
    with pytest.raises(UserError) as caught:
        folder.is_finished("train")
    message = str(caught.value)
    assert str(path) in message
    assert "'train'" in message
    assert str(folder.manifest_path) in message


@pytest.mark.parametrize("text", ["", "{", "[]", "null", b"\xff"])
def test_a_damaged_manifest_is_refused_and_left_alone(folder, text):
    data = text if isinstance(text, bytes) else text.encode()
    folder.manifest_path.write_bytes(data)
    for call in (lambda: folder.is_finished("train"), lambda: folder.record("train", [])):
        with pytest.raises(UserError, match=r"manifest\.json is damaged"):
            call()
    assert folder.manifest_path.read_bytes() == data


def test_versions_are_those_of_the_installed_packages():
    found = versions()
    assert found["candle_tf"] == candle_tf.__version__
    for name in ("tensorflow", "tf_keras", "larq", "larq-compute-engine", "keras-cv", "numpy"):
        assert found[name] == metadata.version(name)
    assert all(found.values())
    assert "python" in found


def test_facts_stand_in_the_manifest_beside_the_stages(folder):
    folder.record("data", [folder.config_path], split="ab12")
    folder.record("report", [folder.config_path])
    assert folder.manifest()["split"] == "ab12"
    assert set(folder.manifest()["stages"]) >= {"data", "report"}


def test_going_on_with_other_versions_is_said(folder, caplog):
    folder.record("data", [folder.config_path])
    manifest = folder.manifest()
    manifest["versions"]["numpy"] = "0.1"
    folder.manifest_path.write_text(json.dumps(manifest))
    with caplog.at_level("WARNING"):
        folder.record("student", [folder.config_path])
    assert "numpy 0.1 -> " in caplog.text
    assert folder.manifest()["versions"] == versions()


@pytest.mark.parametrize("text", ['{"stages": []}', '{"stages": {"train": []}}', '{"versions": 1}'])
def test_a_manifest_of_another_form_is_refused(folder, text):
    folder.manifest_path.write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        folder.is_finished("train")


def test_what_killed_processes_were_writing_is_removed(tmp_path):
    (tmp_path / "export" / "saved_model" / ".unfinished-x" / "model").mkdir(parents=True)
    (tmp_path / ".split.json.4194305.unfinished").write_bytes(b"half")  # above the last process id
    mine = tmp_path / f".report.json.{os.getpid()}.unfinished"
    mine.write_bytes(b"being written")
    open_run_folder(config(tmp_path))
    names = sorted(path.name for path in tmp_path.rglob("*"))
    assert names == sorted([".lock", mine.name, "config.json", "export", "saved_model"])


def test_what_a_run_inside_another_ones_folder_is_writing_stays(tmp_path):
    inner = config(tmp_path / "inner")
    folder = open_run_folder(inner)
    written = folder.export_path / "saved_model" / ".unfinished-x"
    written.mkdir(parents=True)
    open_run_folder(config(tmp_path))
    assert written.exists()


def test_a_training_without_its_settings_is_not_continued(tmp_path):
    open_run_folder(config(tmp_path))
    begin(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json is missing.*Restore it"):
        open_run_folder(config(tmp_path, learning_rate=0.5))
    assert not (tmp_path / "config.json").exists()
