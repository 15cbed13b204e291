import pytest

from candle_tf.timing import Ratio, alternate, images_per_second, ratio_of


class Clock:
    """Time that passes only where a side says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def __call__(self) -> float:
        return self.now

    def side(self, name: str, seconds: list[float]):
        left = iter(seconds)

        def work() -> None:
            self.order.append(name)
            self.now += next(left)

        return work


def test_sides_take_turns_and_the_warmup_does_not_count():
    clock = Clock()
    sides = {"a": clock.side("a", [100, 1, 2, 3]), "b": clock.side("b", [200, 4, 5, 6])}
    seconds = alternate(sides, repeats=3, warmup=1, clock=clock)
    assert seconds == {"a": [1, 2, 3], "b": [4, 5, 6]}
    assert clock.order == ["b", "a", "a", "b", "b", "a", "a", "b"]


def test_the_ratio_is_of_the_rounds_and_not_of_the_medians():
    # Medians are 4 and 2; round by round the quotients are 1, 4 and 4.
    assert ratio_of([1.0, 8.0, 4.0], [1.0, 2.0, 1.0]) == Ratio(median=4.0, min=1.0, max=4.0)


def test_a_ratio_needs_rounds_of_both_sides():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        ratio_of([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="at least one round"):
        ratio_of([], [])


def test_images_per_second_are_those_of_the_median_round():
    assert images_per_second([0.5, 2.0, 9.0], 64) == 32.0
