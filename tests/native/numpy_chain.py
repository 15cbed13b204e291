"""The chain of batch normalisation, shortcut, activation and sign in float64 NumPy."""

from typing import NamedTuple

import numpy as np

EPSILON = 1e-3


class Case(NamedTuple):
    """Inputs of a chain: branches [..., C], parameters by name, and gradients of its outputs."""

    xs: list[np.ndarray]
    shortcut: np.ndarray | None
    parameters: dict[str, np.ndarray]
    dy: np.ndarray
    d_signs: np.ndarray


def draw_case(
    shape: tuple[int, ...],
    branches: int = 1,
    shortcut: bool = True,
    seed: int = 0,
    mean: float = 3.0,
    dtype: type = np.float32,
) -> Case:
    """Random values; `dtype` is of the branches, all else is float32."""
    rng = np.random.default_rng(seed)
    channels, everything = shape[-1], shape[-1] * branches
    xs = [rng.normal(mean, 2.0, shape).astype(dtype) for _ in range(branches)]
    parameters = {}
    for k in range(branches):
        parameters[f"scale{k}"] = rng.uniform(0.1, 2.0, channels)
        parameters[f"gamma{k}"] = rng.normal(1.0, 0.5, channels)
        parameters[f"beta{k}"] = rng.normal(0.0, 0.5, channels)
    for name in ("shift_in", "slope", "shift_out", "shift"):
        parameters[name] = rng.normal(0.0, 0.5, everything)
    wide = (*shape[:-1], everything)
    return Case(
        xs,
        rng.normal(size=shape).astype(np.float32) if shortcut else None,
        {name: value.astype(np.float32) for name, value in parameters.items()},
        rng.normal(size=wide).astype(np.float32),
        rng.normal(size=wide).astype(dtype),
    )


class Result(NamedTuple):
    """Outputs, and the gradients by name."""

    y: np.ndarray
    signs: np.ndarray
    gradients: dict[str, np.ndarray]


def numpy_chain(
    case: Case, *, activation: bool, sign: bool, clip: float | None, relu: bool
) -> Result:
    """Forward by the definition; backward by the derivatives of batch norm, written out."""
    p = {name: value.astype(np.float64) for name, value in case.parameters.items()}
    shortcut = 0.0 if case.shortcut is None else case.shortcut.astype(np.float64)
    axes = tuple(range(case.xs[0].ndim - 1))
    normal, deviations, inputs = [], [], []
    for k, x in enumerate(case.xs):
        x = x.astype(np.float64)
        inputs.append(x)
        scaled = p[f"scale{k}"] * (np.maximum(x, 0) if relu else x)
        deviations.append(np.sqrt(scaled.var(axes) + EPSILON))
        normal.append((scaled - scaled.mean(axes)) / deviations[-1])
    v = np.concatenate(
        [p[f"gamma{k}"] * n + p[f"beta{k}"] + shortcut for k, n in enumerate(normal)], -1
    )
    t = v + p["shift_in"] if activation else v
    y = np.where(t > 0, t, p["slope"] * t) + p["shift_out"] if activation else v
    u = y + p["shift"]

    gradients = {}
    flow = case.dy.astype(np.float64)
    if sign:
        region = np.maximum(2 - 2 * np.abs(u), 0) if clip is None else np.abs(u) <= clip
        through = case.d_signs.astype(np.float64) * region
        gradients["shift"] = through.sum(axes)
        flow = flow + through
    if activation:
        gradients["shift_out"] = flow.sum(axes)
        gradients["slope"] = (flow * np.minimum(t, 0)).sum(axes)
        flow = flow * np.where(t > 0, 1.0, p["slope"])
        gradients["shift_in"] = flow.sum(axes)
    parts = np.split(flow, len(case.xs), -1)
    if case.shortcut is not None:
        gradients["shortcut"] = sum(parts)
    for k, (part, n) in enumerate(zip(parts, normal, strict=True)):
        gradients[f"beta{k}"] = part.sum(axes)
        gradients[f"gamma{k}"] = (part * n).sum(axes)
        inner = part - part.mean(axes) - n * (part * n).mean(axes)
        to_x = p[f"scale{k}"] * p[f"gamma{k}"] / deviations[k] * inner
        gradients[f"x{k}"] = np.where(inputs[k] > 0, to_x, 0.0) if relu else to_x
    return Result(y, np.where(u >= 0, 1.0, -1.0), gradients)
