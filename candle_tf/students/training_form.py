"""How a student's layers compute while it is trained: plainly, or with few passes over memory.

set_training_form(student, resolve_precision("auto"))

Evaluation and export always use the plain composition of TensorFlow operators, which the converter
knows. In training, layers that inherit `TrainingForm` compute the same function and the same
gradients with operators chosen for a CPU's speed.
"""

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
    fast = bool(flags & _BFLOAT16_FLAGS) and not tf.config.list_physical_devices("GPU")
    return "bfloat16" if fast else "float32"
