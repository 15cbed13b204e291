"""Which folder of numbered SavedModels a path means: what `candle_tf.serve` takes."""

import pytest

from candle_tf.deploy.exported_student import find_saved_models
from candle_tf.errors import UserError


@pytest.fixture
def run(tmp_path):
    """A finished run, as far as its folders go."""
    for version in ("1", "000002"):
        (tmp_path / "run/export/saved_model" / version).mkdir(parents=True)
    (tmp_path / "run/config.json").write_text("{}")
    (tmp_path / "run/export/student.json").write_text("{}")
    return tmp_path / "run"


@pytest.mark.parametrize(
    "given", [".", "export", "export/saved_model", "export/saved_model/000002"]
)
def test_a_run_its_export_and_the_folder_itself_are_the_same(run, given):
    assert find_saved_models(run / given).resolve() == run / "export/saved_model"


def test_the_folder_of_a_version_can_be_named_from_inside(run, monkeypatch):
    for given in ("000002", "."):
        monkeypatch.chdir(run / "export/saved_model" / ("000002" if given == "." else ""))
        assert find_saved_models(given).resolve() == run / "export/saved_model"


def test_a_version_that_would_not_be_the_one_that_is_served_is_refused(run):
    with pytest.raises(UserError, match=r"saved_model/1 is not the highest version.*000002"):
        find_saved_models(run / "export/saved_model/1")


def test_a_folder_that_only_lies_beside_an_export_is_none(run):
    for name in ("notes", "saved_model/3x"):
        (run / "export" / name).mkdir()
        with pytest.raises(UserError, match="holds no export"):
            find_saved_models(run / "export" / name)


def test_a_run_may_be_called_by_a_number(run):
    number = run.rename(run.with_name("1"))
    assert find_saved_models(number) == number / "export/saved_model"


def test_a_run_without_an_export_is_refused_as_such(run):
    (run / "export/student.json").unlink()
    with pytest.raises(UserError, match=r"is a run without an export.*resumes it"):
        find_saved_models(run)


def test_other_folders_are_refused(tmp_path, run):
    with pytest.raises(UserError, match="does not exist"):
        find_saved_models(tmp_path / "nothing")
    with pytest.raises(UserError, match="holds no export"):
        find_saved_models(tmp_path)
    for version in (run / "export/saved_model").iterdir():
        version.rmdir()
    with pytest.raises(UserError, match="no numbered SavedModel"):
        find_saved_models(run)
