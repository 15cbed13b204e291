from candle_tf.data.augment.random_numbers import (
    COLOR,
    MIXING,
    RANDAUGMENT,
    stream_of,
    view_generator,
)


def test_streams_of_a_view_share_no_numbers_whatever_they_are_called():
    streams = [COLOR, RANDAUGMENT, MIXING, stream_of("darken"), stream_of("blur")]
    drawn = [view_generator(1, 2, 3, stream).random(50) for stream in streams]
    assert len({number for numbers in drawn for number in numbers}) == 50 * len(streams)


def test_the_stream_of_a_name_is_the_same_in_every_process():
    assert stream_of("darken") == stream_of("darken") == 2**32 + 0xB1C12D79
