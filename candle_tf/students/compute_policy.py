"""How a student's layers compute while it is trained: plainly, or with few passes over memory.

step = resolve_step("auto", xla="auto")
set_training_form(student, step.form)           # step.xla says whether XLA is to compile it

Evaluation and export always use the plain composition of TensorFlow operators, which the converter
knows. In training, layers that inherit `TrainingForm` compute the same function and the same
gradients with operators chosen for a CPU's speed.
"""

from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

PLAIN = "plain"
FORMS = (PLAIN, "float32", "bfloat16")

# Linux's names of the instructions that multiply pairs of bfloat16 and sum in float32.
_BFLOAT16_FLAGS = frozenset({"amx_bf16", "avx512_bf16"})


class TrainingForm:
    """Mixin of layers that compute otherwise in training than in evaluation and export.

    Attributes:
        training_form: "plain" (the composition of evaluation), "float32", or "bfloat16": operands
            of binary convolutions in bfloat16, all else in float32. -1 and +1 are exact there, and
            products are summed in float32; what is rounded, to 8 bits, is each sum (even whole
            numbers up to 512 are exact) and the gradients at a convolution.
    """

    training_form: str = "float32"

    def operands(self, training: bool | None) -> tf.DType | None:
        """The dtype of a convolution's operands; None where the plain composition is to be used."""
        # Mixed precision has dtypes of its own.
        mixed = getattr(self, "compute_dtype", "float32") != "float32"
        if not training or mixed or self.training_form == PLAIN:
            return None
        return tf.as_dtype(self.training_form)


def set_training_form(network: tf.keras.Model, form: str) -> None:
    """Sets the form of all layers of a network that know more than one.

    Args:
        network: any Keras model.
        form: one of `FORMS`.

    Raises:
        ValueError: for another form.
    """
    if form not in FORMS:
        raise ValueError(f"unknown training form {form!r}: one of {', '.join(FORMS)}")
    for layer in network.submodules:
        if isinstance(layer, TrainingForm):
            layer.training_form = form


@dataclass(frozen=True)
class Step:
    """How a training step is computed on this machine.

    Attributes:
        form: one of `FORMS`.
        xla: whether XLA compiles it.
    """

    form: str
    xla: bool

    @property
    def precision(self) -> str:
        """Of the operands of binary convolutions."""
        return "float32" if self.form == PLAIN else self.form


def resolve_step(precision: str, xla: str, cpuinfo: Path = Path("/proc/cpuinfo")) -> Step:
    """The step that --precision and --xla stand for on this machine.

    XLA fuses the plain composition by itself, which pays on a GPU. On a CPU it leaves the fast
    convolutions unused.

    Args:
        precision: "auto", "float32" or "bfloat16"; see `resolve_precision`.
        xla: "on", "off" or "auto": on where there is a GPU, unless bfloat16 is asked for.
        cpuinfo: as of `resolve_precision`.
    """
    pays = xla == "auto" and precision != "bfloat16" and _has_gpu()
    if pays or xla == "on":
        return Step(PLAIN, xla=True)
    return Step(resolve_precision(precision, cpuinfo), xla=False)


def resolve_precision(precision: str, cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The form that --precision stands for on this machine.

    Args:
        precision: "float32", "bfloat16", or "auto": bfloat16 on a CPU that has instructions for it
            and no GPU beside it, else float32.
        cpuinfo: where Linux tells what the CPU can do; where there is no such file, "auto" is
            float32.
    """
    if precision != "auto":
        return precision
    flags = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    fast = bool(flags & _BFLOAT16_FLAGS) and not _has_gpu()
    return "bfloat16" if fast else "float32"


def _has_gpu() -> bool:
    return bool(tf.config.list_physical_devices("GPU"))
