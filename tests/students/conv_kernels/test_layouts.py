import numpy as np
import tensorflow as tf

from candle_tf.students.conv_kernels.layouts import im2col


def test_im2col_has_the_windows_in_the_kernels_order():
    x = np.arange(2 * 4 * 4 * 3, dtype=np.float32).reshape(2, 4, 4, 3)
    rows = im2col(tf.constant(x), 3, 1).numpy().reshape(2, 2, 2, 3, 3, 3)
    np.testing.assert_array_equal(rows[1, 0, 1], x[1, 0:3, 1:4])
