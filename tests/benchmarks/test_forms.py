from tools.benchmarks.forms import FORMS, form_times


def test_every_form_is_compared_with_the_direct_one():
    times = form_times("float32", 2, shapes=((2, 8), (8, 8)), repeats=2)
    assert list(times) == ["2x2 of 8", "8x8 of 8"]
    assert list(times["2x2 of 8"]) == list(FORMS)
    assert times["2x2 of 8"]["direct"]["median"] == 1
    assert times["2x2 of 8"]["winograd"]["median"] > 0
    assert "taps" not in times["8x8 of 8"]
