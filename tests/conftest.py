"""What all tests share."""

import gc
import sys
from collections.abc import Iterator

import pytest

# Tracing allocates millions of objects that stay: collections at the usual thresholds are an eighth
# of the suite's time.
gc.set_threshold(20_000, 10, 10)


def pytest_collection_finish() -> None:
    """Leaves what was imported out of all later collections: it stays to the end."""
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def names_of_the_package_alone() -> Iterator[None]:
    """Takes the names of `tests.tiny_parts` back, where the tests of a module read such a run."""
    yield
    if sys.modules.pop("tests.tiny_parts", None):
        from candle_tf.students.architectures.registry import STUDENTS
        from candle_tf.teachers.registry import TEACHERS

        STUDENTS._targets.pop("tiny_student")
        TEACHERS._targets.pop("tiny_teacher")
