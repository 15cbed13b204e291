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
