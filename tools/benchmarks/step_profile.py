"""Where a step's time goes: TensorFlow's profile of it, by operator and by kind of operator.

    milliseconds = profile_operators(step)      # {"_MklMatMul": 203.1, "Cast": 20.4, ...}
    shares_by_kind(milliseconds)                # {"convolutions": 0.7, "element-wise": 0.2, ...}

Operators run beside each other on several threads: their times add up to more than the step's.
"""

import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import tensorflow as tf

# The kind of convolutions and matrix products.
PRODUCTS = "convolutions"
_DEVICE = "/host:CPU"
# Parts of the names of convolutions and of the matrix products that compute them in training.
_PRODUCTS = (
    "Conv2D",
    "Conv2d",
    "MatMul",
    "CandleBinaryConv",
    "CandleConv",
    "CandleSignConv",
    "CandleWinograd",
)
_KINDS = {
    "weight update": (
        "ResourceApply",
        "AssignAdd",
        "AssignSub",
        "AssignVariable",
        "Sqrt",
        "CandleAdam",
    ),
    "batch norm": ("BatchNorm",),
    "pooling": ("AvgPool",),
}
# Events of the runtime around the operators, not operators.
_RUNTIME = ("Process", "Run", "__inference", "ExecutorState", "EagerExecute")


def profile_operators(step: Callable[[], object]) -> dict[str, float]:
    """Runs a step, traced before, under TensorFlow's profiler.

    Returns:
        Milliseconds by operator, summed over its calls, the longest first.
    """
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        try:
            step()
        finally:
            tf.profiler.experimental.stop()
        found = sorted(Path(folder).rglob("*.xplane.pb"))
        return _by_operator(found[-1].read_bytes())


def _by_operator(profile: bytes) -> dict[str, float]:
    # TensorFlow's own description of the file; it has no public name.
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace.FromString(profile)
    total: defaultdict[str, float] = defaultdict(float)
    for plane in space.planes:
        if plane.name != _DEVICE:
            continue
        for line in plane.lines:
            for event in line.events:
                # "node:Operator#attributes#"
                name = plane.event_metadata[event.metadata_id].name.strip()
                _, colon, rest = name.rpartition(":")
                operator = rest.partition("#")[0].strip()
                if colon and operator and not operator.startswith(_RUNTIME):
                    total[operator] += event.duration_ps / 1e9
    return _longest_first(total)


def shares_by_kind(milliseconds: Mapping[str, float]) -> dict[str, float]:
    """Parts of the operators' time, by kind, that add up to 1.

    "convolutions" are convolutions and matrix products with their gradients; "weight update" what
    assigns to variables; "element-wise" the rest.
    """
    total: defaultdict[str, float] = defaultdict(float)
    for operator, time in milliseconds.items():
        total[_kind(operator)] += time
    everything = sum(total.values())
    return {kind: time / everything for kind, time in _longest_first(total).items()}


def _kind(operator: str) -> str:
    if any(name in operator for name in _PRODUCTS):
        return PRODUCTS
    for kind, names in _KINDS.items():
        if any(name in operator for name in names):
            return kind
    return "element-wise"


def _longest_first(times: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(times.items(), key=lambda item: -item[1]))
