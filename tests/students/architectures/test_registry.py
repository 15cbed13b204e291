from fnmatch import fnmatch

import pytest

from candle_tf.config import Config
from candle_tf.errors import UserError
from candle_tf.methods.annealing import find_annealed_quantizers
from candle_tf.students.architectures.registry import STUDENTS, build_student
from candle_tf.students.layers.blocks import binary_layers


@pytest.mark.parametrize("name", STUDENTS)
def test_every_student_has_features_logits_and_binary_layers(name):
    student = build_student(name, (32, 32, 3), 7, width=0.25, stem_stride=1)
    assert set(student.output) == {"features", "logits"}
    assert student.output["logits"].shape.as_list() == [None, 7]
    assert len(student.output["features"].shape) == 2
    names = [layer.name for layer in binary_layers(student)]
    assert len(names) == len(set(names))
    assert bool(names) != name.startswith("float_")
    for_annealed = Config.fields()["anneal_fraction"].metadata["only_for"]
    is_annealed = bool(find_annealed_quantizers(student))
    assert is_annealed == fnmatch(f"student={name}", for_annealed)


def test_options_reach_the_architecture():
    wide, narrow = (
        build_student("reactnet_a", (32, 32, 3), 7, width=width, stem_stride=2)
        for width in (0.5, 0.25)
    )
    assert wide.output["features"].shape[-1] == 2 * narrow.output["features"].shape[-1]


def test_unknown_name_is_refused_with_the_list():
    with pytest.raises(UserError, match=r"--student=reactnet .*reactnet_a"):
        build_student("reactnet", (32, 32, 3), 7)
