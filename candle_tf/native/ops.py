"""The native operators as functions with gradients; only where `native_operators` has found them.

chain = norm_chain([Branch(x, gamma, beta)], epsilon=1e-5, shortcut=h, sign=SignOf(shift))
values, scale = binarize(latent_weights, tf.bfloat16, floor=1e-6)
y = binary_conv(chain.signs, values, pad_value=1.0, stride=1)
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf

from candle_tf.native.build import NATIVE, native_operators


@dataclass(frozen=True)
class Branch:
    """What is normalised.

    Attributes:
        x: float32 or bfloat16 [..., C]. Of several branches alike in shape and dtype.
        gamma: float32 [C].
        beta: float32 [C].
        scale: float32 [C], above 0, that x is multiplied by first; None for 1. It gets no gradient.
    """

    x: tf.Tensor
    gamma: tf.Tensor
    beta: tf.Tensor
    scale: tf.Tensor | None = None


@dataclass(frozen=True)
class Activation:
    """PReLU between two shifts, each float32 with a value per channel of all branches."""

    shift_in: tf.Tensor
    slope: tf.Tensor
    shift_out: tf.Tensor


@dataclass(frozen=True)
class SignOf:
    """The sign of y + shift, +1 at 0, with a straight-through gradient.

    Attributes:
        shift: float32, a value per channel of all branches.
        dtype: of the signs and of their gradient, float32 or bfloat16.
        clip: the gradient passes where |y + shift| is at most this; None for Bi-Real Net's
            quadratic one, max(2 - 2 |y + shift|, 0).
    """

    shift: tf.Tensor
    dtype: tf.DType = tf.float32
    clip: float | None = None


class Chain(NamedTuple):
    """What a chain gives.

    Attributes:
        y: float32 [..., C of all branches].
        signs: -1 and +1, of y's shape; empty without a sign.
        mean: float32 [C of all branches], of x (without its scale, after the ReLU) over all but
            the channels; without a gradient, as are the three others.
        variance: the same, divided by the number of values.
        batch_mean: of the scaled x, for moving averages.
        batch_variance: of the scaled x, divided by one value less, for moving averages.
    """

    y: tf.Tensor
    signs: tf.Tensor
    mean: tf.Tensor
    variance: tf.Tensor
    batch_mean: tf.Tensor
    batch_variance: tf.Tensor


def norm_chain(
    branches: Sequence[Branch],
    *,
    epsilon: float,
    relu: bool = False,
    shortcut: tf.Tensor | None = None,
    activation: Activation | None = None,
    sign: SignOf | None = None,
    statistics: tuple[tf.Tensor, tf.Tensor] | None = None,
) -> Chain:
    """Batch normalisation, sum with a shortcut, activation and sign, in one pass after the sums.

    With several branches each is normalised, the same shortcut is added to each, and the results
    lie side by side along the channels.

    Args:
        branches: one or more.
        epsilon: added to the variance.
        relu: whether max(x, 0) is normalised in place of x.
        shortcut: float32, of a branch's shape.
        activation: after the sum.
        sign: of the result.
        statistics: mean and variance to normalise by in place of the batch's, of the scaled x,
            each float32 [C of all branches]; there is no gradient then.
    """
    parameters = (activation.shift_in, activation.slope, activation.shift_out) if activation else ()
    kind = "none" if sign is None else "quadratic" if sign.clip is None else "clipped"
    return Chain(
        *_operators().candle_norm_chain(
            x=[branch.x for branch in branches],
            scale=[_scale_of(branch) for branch in branches],
            gamma=[branch.gamma for branch in branches],
            beta=[branch.beta for branch in branches],
            shortcut=[] if shortcut is None else [shortcut],
            activation=list(parameters),
            shift=[] if sign is None else [sign.shift],
            given=[] if statistics is None else list(statistics),
            U=tf.float32 if sign is None else sign.dtype,
            epsilon=epsilon,
            relu=relu,
            sign=kind,
            clip=1.0 if sign is None or sign.clip is None else sign.clip,
        )
    )


def _operators() -> Any:
    return native_operators(NATIVE)


def _scale_of(branch: Branch) -> tf.Tensor:
    if branch.scale is None:
        return tf.ones([branch.x.shape[-1]])
    return tf.stop_gradient(branch.scale)


@tf.RegisterGradient("CandleNormChain")
def _norm_chain_gradient(op: tf.Operation, dy: tf.Tensor, *rest: tf.Tensor) -> list[Any]:
    if op.get_attr("G"):
        raise LookupError("a chain that normalises by given statistics has no gradient")
    attributes = {name: op.get_attr(name) for name in ("epsilon", "relu", "sign", "clip")}
    counts = {name: op.get_attr(name) for name in ("K", "M", "A", "S")}
    inputs = iter(op.inputs)
    k, m, a, s = counts.values()
    groups = {
        name: [next(inputs) for _ in range(count)]
        for name, count in zip(
            ("x", "scale", "gamma", "beta", "shortcut", "activation", "shift"),
            (k, k, k, k, m, a, s),
            strict=True,
        )
    }
    gradients = _operators().candle_norm_chain_grad(
        **groups, dy=dy, d_signs=rest[0], mean=op.outputs[2], variance=op.outputs[3], **attributes
    )
    return [
        *gradients.dx,
        *[None] * k,
        *gradients.d_gamma,
        *gradients.d_beta,
        *gradients.d_shortcut,
        *gradients.d_activation,
        *gradients.d_shift,
    ]


def binarize(
    weights: tf.Tensor, dtype: tf.DType, *, floor: float | None, clip: float = float("inf")
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """The values and the scale of a binary kernel, in one pass over its latent weights.

    Args:
        weights: float32 [..., C'].
        dtype: of the values, float32 or bfloat16.
        floor: least mean magnitude, above 0, of a scaled kernel; None for one without a scale.
        clip: the gradient passes where |weights| is at most this.

    Returns:
        values: `dtype`, -1 and +1 (+1 at 0), or with a scale -1/2 and +1/2.
        scale: float32 [C'] without a gradient, 2 max(mean |w|, floor) over all but C'; None without
            a floor. The gradient of `values` counts as that of scale * values times the scale.
    """
    values, scale = _operators().candle_binarize(
        weights=weights, T=dtype, scaled=floor is not None, floor=floor or 0.0, clip=clip
    )
    return values, None if floor is None else tf.stop_gradient(scale)


@tf.RegisterGradient("CandleBinarize")
def _binarize_gradient(op: tf.Operation, d_values: tf.Tensor, d_scale: Any) -> tf.Tensor:
    del d_scale
    return _operators().candle_binarize_grad(
        d_values=d_values,
        scale=op.outputs[1],
        weights=op.inputs[0],
        clip=op.get_attr("clip"),
    )


def binary_conv(
    x: tf.Tensor, kernel: tf.Tensor, *, pad_value: float, stride: int, magnitude: float = 1.0
) -> tf.Tensor:
    """A "same" convolution of signs by counting bits; without a gradient.

    Args:
        x: float32 or bfloat16 [N, H, W, C]; what counts is whether a value is negative.
        kernel: of x's dtype, [k, k, C, C']; likewise.
        pad_value: of the padding, -1, 0 or 1.
        stride: of both sides.
        magnitude: the kernel stands for -magnitude and +magnitude.

    Returns:
        Of x's dtype, [N, ceil(H / stride), ceil(W / stride), C'].
    """
    return _operators().candle_binary_conv(
        x=x, kernel=kernel, stride=stride, padding=int(pad_value), magnitude=magnitude
    )


def conv(x: tf.Tensor, kernel: tf.Tensor, *, pad_value: float, stride: int) -> tf.Tensor:
    """A "same" convolution of real values; without a gradient, see `conv_gradients`.

    Args:
        x: float32 or bfloat16 [N, H, W, C].
        kernel: of x's dtype, [k, k, C, C'].
        pad_value: of the padding around x.
        stride: of both sides.

    Returns:
        Of x's dtype, [N, ceil(H / stride), ceil(W / stride), C'].
    """
    return _operators().candle_conv(x=x, kernel=kernel, stride=stride, pad_value=pad_value)


def conv_gradients(
    x: tf.Tensor, kernel: tf.Tensor, dy: tf.Tensor, *, pad_value: float, stride: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Gradients of a "same" convolution.

    Args:
        x: float32 or bfloat16 [N, H, W, C].
        kernel: of x's dtype, [k, k, C, C'].
        dy: of x's dtype, [N, ceil(H / stride), ceil(W / stride), C'].
        pad_value: of the padding around x.
        stride: of both sides.

    Returns:
        The gradients of x and of the kernel, of x's dtype.
    """
    ops = _operators()
    return (
        ops.candle_conv_input_grad(dy=dy, kernel=kernel, x=x, stride=stride),
        ops.candle_conv_kernel_grad(x=x, dy=dy, kernel=kernel, stride=stride, pad_value=pad_value),
    )


def has_fast_lookups() -> bool:
    """Whether lookup tables are this CPU's fastest way to multiply by signs.

    So it is where an instruction permutes 32 numbers of 16 bits (AVX-512) or 32 bytes (AVX2), and
    none multiplies matrices (AMX).
    """
    loops = _instructions()
    return "amx" not in loops and bool({"avx512_lookup_kernels", "avx2_lookup_kernels"} & loops)


def has_bfloat16_products() -> bool:
    """Whether this CPU has instructions for products of bfloat16, which TensorFlow uses."""
    return bool({"avx512bf16_gemm_kernels", "amx"} & _instructions())


@functools.lru_cache(maxsize=1)
def _instructions() -> frozenset[str]:
    """The names of the loops that this CPU runs."""
    with tf.init_scope():
        return frozenset(name.decode() for name in _operators().candle_instructions().numpy())


def sign_conv_gradients(
    x: tf.Tensor,
    kernel: tf.Tensor,
    dy: tf.Tensor,
    *,
    pad_value: float,
    stride: int,
    magnitude: float = 1.0,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Gradients of `binary_conv`, by tables of the sums of five values with all signs.

    dy becomes 16-bit integers, scaled for some hundred values at a time that are summed at once:
    those of a pixel, or of a filter at some pixels. The error is some tenths of a per cent of
    these values' mean magnitude, about what rounding to bfloat16 costs.

    Args:
        x: float32 or bfloat16 [N, H, W, C]; what counts is whether a value is negative.
        kernel: of x's dtype, [k, k, C, C']; likewise.
        dy: of x's dtype, [N, ceil(H / stride), ceil(W / stride), C'].
        pad_value: of the padding around x, -1, 0 or 1.
        stride: of both sides.
        magnitude: the kernel stands for -magnitude and +magnitude.

    Returns:
        The gradients of x and of the kernel, of x's dtype. NaN where a value of dy is not finite
        that belongs to one of the scales they are sums over.
    """
    ops = _operators()
    return (
        ops.candle_sign_conv_input_grad(
            dy=dy, kernel=kernel, x=x, stride=stride, magnitude=magnitude
        ),
        ops.candle_sign_conv_kernel_grad(
            x=x, dy=dy, kernel=kernel, stride=stride, padding=int(pad_value)
        ),
    )


def winograd_gradients(
    x: tf.Tensor, kernel: tf.Tensor, dy: tf.Tensor, pad_value: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Gradients of a "same" 3x3 convolution of stride 1, by Winograd's F(2x2, 3x3).

    Args:
        x: float32 or bfloat16 [N, H, W, C] with known H and W.
        kernel: of x's dtype, [3, 3, C, C'].
        dy: of x's dtype, [N, H, W, C'].
        pad_value: of the padding around x.

    Returns:
        The gradients of x and of the kernel, of x's dtype.
    """
    ops = _operators()
    _, height, width, _ = x.shape
    # The convolution of dy, padded with 0, with the kernel rotated and its channels swapped.
    rotated = ops.candle_winograd_kernels(kernel=kernel, rotated=True)
    windows = ops.candle_winograd_windows(x=dy)
    products = [tf.matmul(a, b, transpose_b=True) for a, b in zip(windows, rotated, strict=True)]
    to_x = ops.candle_winograd_pixels(products=products, height=height, width=width)
    windows = ops.candle_winograd_windows(x=x, padding=pad_value)
    tiles = ops.candle_winograd_tiles(x=dy)
    sums = [tf.matmul(a, b, transpose_a=True) for a, b in zip(windows, tiles, strict=True)]
    return to_x, ops.candle_winograd_kernel_grad(sums=sums)


def mean_pool(x: tf.Tensor) -> tf.Tensor:
    """The mean over squares of 2x2 pixels, with a stride of 2 and "SAME" padding.

    Args:
        x: float32 [N, H, W, C].

    Returns:
        float32 [N, ceil(H / 2), ceil(W / 2), C]; where a side is odd, its last means are those of
        the pixels inside.
    """
    return _operators().candle_mean_pool(x=x)


@tf.RegisterGradient("CandleMeanPool")
def _mean_pool_gradient(op: tf.Operation, d_means: tf.Tensor) -> tf.Tensor:
    return _operators().candle_mean_pool_grad(d_means=d_means, x=op.inputs[0])


def adam(
    variables: Sequence[tf.Variable],
    m: Sequence[tf.Variable],
    v: Sequence[tf.Variable],
    gradients: Sequence[tf.Tensor],
    *,
    learning_rate: tf.Tensor,
    step: tf.Tensor,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    decays: Sequence[float],
    clips: Sequence[float],
) -> tf.Operation:
    """One step of Adam for all variables, in one pass over each.

    Args:
        variables: float32.
        m: first moments, one for each variable.
        v: second moments.
        gradients: float32 or bfloat16.
        learning_rate: float32 scalar.
        step: int64 scalar, counted from 1.
        beta_1: decay of the first moments.
        beta_2: decay of the second moments.
        epsilon: added to the root of the second moment.
        decays: of each variable; it is multiplied by 1 - decay * learning_rate first.
        clips: bound of each variable's magnitude after the step; 0 for none.
    """
    return _operators().candle_adam(
        variables=[variable.handle for variable in variables],
        m=[variable.handle for variable in m],
        v=[variable.handle for variable in v],
        gradients=list(gradients),
        learning_rate=learning_rate,
        step=step,
        beta_1=beta_1,
        beta_2=beta_2,
        epsilon=epsilon,
        decays=list(decays),
        clips=list(clips),
    )
