"""What all tests share."""

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def names_of_the_package_alone() -> Iterator[None]:
    """Takes the names of `tests.tiny_parts` back, where the tests of a module read such a run."""
    yield
    if sys.modules.pop("tests.tiny_parts", None):
        from candle_tf.students.architectures.registry import STUDENTS
        from candle_tf.teachers.registry import TEACHERS

        STUDENTS._targets.pop("tiny_student")
        TEACHERS._targets.pop("tiny_teacher")
