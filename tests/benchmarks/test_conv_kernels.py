from candle_tf.students.conv_kernels.registry import IMPLEMENTATIONS
from tools.benchmarks.conv_kernels import conv_kernel_times


def test_every_implementation_is_compared_with_the_direct_one():
    times = conv_kernel_times("float32", 2, shapes=((2, 8), (8, 8)), repeats=2)
    assert list(times) == ["2x2 of 8", "8x8 of 8"]
    assert next(iter(times["2x2 of 8"])) == "direct"
    assert set(times["2x2 of 8"]) == set(IMPLEMENTATIONS)
    assert times["2x2 of 8"]["direct"]["median"] == 1
    assert times["2x2 of 8"]["winograd"]["median"] > 0
    assert "kn2row" not in times["8x8 of 8"]
