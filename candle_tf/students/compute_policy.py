"""How a student is computed while it is trained: plainly, or by native operators on a CPU.

policy = resolve_compute_policy("auto", xla="auto", kernels="auto")   # once a run, handed down
set_compute_policy(student, policy)             # policy.xla: whether XLA is to compile it

Evaluation and export always use the plain composition of TensorFlow operators, which the converter
knows. In training the native operators compute the same function and the same gradients, and on
validation images the same function (`candle_tf.students.fused_forward`).
"""

from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from candle_tf.errors import UserError
from candle_tf.native.build import NATIVE, native_operators
from candle_tf.native.build import PLAIN as PLAIN_KERNELS

# Of the operands of binary convolutions.
DTYPES = ("float32", "bfloat16")

# Linux's names of the instructions that multiply pairs of bfloat16 and sum in float32, and of those
# by which lookup tables replace most of these products (`native.ops.sign_conv_gradients`).
_BFLOAT16_FLAGS = frozenset({"amx_bf16", "avx512_bf16", "avx2"})


@dataclass(frozen=True)
class ComputePolicy:
    """How a training step is computed.

    Attributes:
        native: whether the native operators serve (`candle_tf.native`), which
            `native_operators` must have found; False: the plain composition of evaluation and
            export.
        dtype: of the operands of binary convolutions, one of `DTYPES`; "float32" in the plain
            composition. With "bfloat16" all else is in float32. -1 and +1 are exact in it, and
            products are summed in float32; what is rounded, to 8 bits, is each sum (even whole
            numbers up to 512 are exact) and the gradients at a convolution.
        xla: whether XLA compiles the step.

    Raises:
        ValueError: for another dtype, and for bfloat16 in the plain composition.
    """

    native: bool = False
    dtype: str = "float32"
    xla: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"unknown dtype {self.dtype!r}: one of {', '.join(DTYPES)}")
        if self.dtype != "float32" and not self.native:
            raise ValueError(f"the plain composition has no operands in {self.dtype}")


PLAIN = ComputePolicy()


class ComputePolicyLayer:
    """Mixin of layers that compute otherwise in training than in evaluation and export.

    Attributes:
        compute_policy: of training; see `set_compute_policy`.
    """

    compute_policy: ComputePolicy = PLAIN

    def uses_native(self) -> bool:
        """Whether training is to be computed by the native operators."""
        # Mixed precision has dtypes of its own.
        mixed = getattr(self, "compute_dtype", "float32") != "float32"
        return not mixed and self.compute_policy.native


def set_compute_policy(network: tf.keras.Model, policy: ComputePolicy) -> None:
    """Sets the policy of all layers of a network that have one."""
    for layer in network.submodules:
        if isinstance(layer, ComputePolicyLayer):
            layer.compute_policy = policy


def compute_policy_of(network: tf.keras.Model) -> ComputePolicy:
    """The policy of a network's layers; `PLAIN` where none has one."""
    policies = (
        layer.compute_policy
        for layer in network.submodules
        if isinstance(layer, ComputePolicyLayer)
    )
    return next(policies, PLAIN)


def resolve_compute_policy(
    precision: str,
    xla: str,
    cpuinfo: Path = Path("/proc/cpuinfo"),
    *,
    kernels: str = PLAIN_KERNELS,
    replicas: int = 1,
) -> ComputePolicy:
    """The policy of --precision, --xla and --kernels on this machine.

    XLA fuses the plain composition by itself, which pays on a GPU. On a CPU it leaves the fast
    convolutions unused.

    Args:
        precision: "auto", "float32" or "bfloat16"; see `resolve_precision`.
        xla: "on", "off" or "auto": on where there is a GPU.
        cpuinfo: as of `resolve_precision`.
        kernels: "plain", "auto" or "native"; see `native_operators`. With XLA or a GPU they are
            never used.
        replicas: devices that train together; several go without XLA.

    Raises:
        UserError: for "native" where there are none; for "native" and for bfloat16 where they are
            not used; for XLA on several devices.
    """
    if replicas > 1:
        if xla == "on":
            raise UserError("--xla=on is for one device: give --strategy=one, or --xla=auto.")
        xla = "off"
    if xla == "on" or (xla == "auto" and _has_gpu()):
        _refuse_native(kernels, "XLA, which compiles TensorFlow's own operators: give --xla=off")
        _refuse_bfloat16(precision, "with XLA: give --xla=off on a CPU")
        return ComputePolicy(xla=True)
    if _has_gpu():
        _refuse_native(kernels, "a GPU: they are for CPUs")
        _refuse_bfloat16(precision, "with a GPU")
        return PLAIN
    if native_operators(kernels) is None:
        found = "for --kernels=plain: give --kernels=auto"
        if kernels != PLAIN_KERNELS:
            found = "as they cannot be built or loaded on this machine (the log says why)"
        _refuse_bfloat16(precision, found)
        return PLAIN
    return ComputePolicy(native=True, dtype=resolve_precision(precision, cpuinfo))


def _refuse_bfloat16(precision: str, reason: str) -> None:
    if precision == "bfloat16":
        raise UserError(
            "--precision=bfloat16: only the native operators compute in bfloat16, and they are not "
            f"used {reason}, or give --precision=auto."
        )


def _refuse_native(kernels: str, reason: str) -> None:
    if kernels == NATIVE:
        raise UserError(
            f"--kernels=native: the native operators are not used with {reason}, or give "
            "--kernels=auto."
        )


def resolve_precision(precision: str, cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The dtype of operands that --precision selects on this machine.

    Args:
        precision: "float32", "bfloat16", or "auto": bfloat16 on a CPU that has instructions for it
            or for lookup tables, and no GPU beside it, else float32.
        cpuinfo: file in which Linux lists the CPU's instructions; without such a file "auto" is
            float32.
    """
    if precision != "auto":
        return precision
    flags = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    fast = bool(flags & _BFLOAT16_FLAGS) and not _has_gpu()
    return "bfloat16" if fast else "float32"


def _has_gpu() -> bool:
    return bool(tf.config.list_physical_devices("GPU"))
