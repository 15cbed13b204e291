"""The side of the training views by epoch."""

import pytest

from candle_tf.config import Config
from candle_tf.data.image_sizes import largest_side, sides_of_epochs, spans_of_sides
from candle_tf.errors import UserError


@pytest.mark.parametrize(
    ("text", "epochs", "sides"),
    [
        ("", 3, [64] * 3),
        ("48:0.5,64", 4, [48, 48, 64, 64]),
        ("48:0.5,64:0.95,80", 20, [48] * 10 + [64] * 9 + [80]),
        (" 48:0.55 , 64", 100, [48] * 55 + [64] * 45),  # 0.55 * 100 is above 55 in floats
        ("48:0.29,64", 100, [48] * 29 + [64] * 71),
        ("48:0.3,64:0.6,48", 10, [48] * 3 + [64] * 3 + [48] * 4),
        ("48:0.01,64", 50, None),  # no epoch at 48
        ("48:0.5,64:0.95,80", 5, None),  # none at 80
    ],
)
def test_each_epoch_has_a_side(text, epochs, sides):
    if sides is None:
        with pytest.raises(UserError, match=f"of {epochs} epochs .. pixels would have none"):
            sides_of_epochs(text, epochs, image_size=64)
        with pytest.raises(UserError, match="would have none"):
            Config(progressive_sizes=text, epochs=epochs)
        assert Config(progressive_sizes=text).training.progressive_sizes == text
    else:
        assert list(sides_of_epochs(text, epochs, image_size=64)) == sides


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("48", "is one size, which --image_size is for"),
        ("48:0.5", "the last size has a fraction"),
        ("48,64", "'48' has no fraction"),
        ("48:0.5,64:0.4,80", "0.4 of 64 pixels is not above 0.5"),
        ("48:0.5,48", "48 pixels follow 48 pixels"),
        ("48:0.5,", "'' is no size and fraction"),
        ("48:half,64", "'48:half' is no size and fraction"),
        ("48:1.5,64", "1.5 is out of range; it must be above 0 and below 1"),
        ("48:nan,64", "nan is out of range"),
        ("4:0.5,64", "4 pixels are out of range; a side must be at least 8 and at most 4096"),
    ],
)
def test_what_is_no_list_of_sizes_is_refused_with_the_settings(text, said):
    with pytest.raises(UserError) as caught:
        Config(progressive_sizes=text)
    message = str(caught.value)
    assert message.startswith(f"--progressive_sizes={text}")
    assert said in message


def test_images_are_stored_for_the_largest_side():
    assert largest_side("48:0.5,64:0.95,80", 64) == 80
    assert largest_side("24:0.5,32", 64) == largest_side("", 64) == 64


@pytest.mark.parametrize(
    ("first", "spans"),
    [(0, [(0, 2), (2, 3), (3, 5)]), (1, [(1, 2), (2, 3), (3, 5)]), (2, [(2, 3), (3, 5)]),
     (4, [(4, 5)])],
)  # fmt: skip
def test_runs_of_epochs_with_one_side(first, spans):
    assert spans_of_sides((8, 8, 12, 8, 8), first) == spans
