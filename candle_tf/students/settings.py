"""Settings of the student's architecture, and of how its training steps are computed."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from candle_tf.errors import UserError
from candle_tf.settings import SettingsGroup, setting
from candle_tf.students.architectures.registry import STUDENTS, build_student

if TYPE_CHECKING:
    import tensorflow as tf

PRECISIONS = ("auto", "float32", "bfloat16")
XLA = ("auto", "on", "off")
KERNELS = ("auto", "native", "plain")
EXPORT_STUDENT = ("auto", "off")
STRATEGIES = ("auto", "one", "mirrored", "multi_worker")


@dataclass(frozen=True)
class StudentSettings(SettingsGroup):
    """The student's architecture."""

    student: str = setting("reactnet_a", "architecture of the student", choices=STUDENTS)
    image_size: int = setting(64, "side of the student's input in pixels", at_least=8, at_most=4096)
    width: float = setting(1.0, "multiplier of the student's channels", above=0, at_most=4)
    stem_stride: int = setting(
        2,
        "stride of the student's stem: 2 as published, 1 for small images",
        at_least=1,
        at_most=2,
    )
    student_weights: str = setting(
        "",
        "weights that the student starts from: pretrained (they come with the package), larq_zoo "
        "(ImageNet weights, fetched), a file (.safetensors, .h5, .pth), or the folder of a run; "
        "empty for new ones",
    )
    student_weights_sha256: str = setting(
        "",
        "the SHA-256 which that file must have",
        only_for="student_weights",
    )
    export_student: str = setting(
        "auto",
        "auto: SavedModel and TFLite files are written and checked; off: no files, of the teacher "
        "neither, for trials of settings; the same command with auto writes them later",
        choices=EXPORT_STUDENT,
    )

    def check(self) -> None:
        if self.student_weights_sha256 and not self.student_weights:
            raise UserError(
                f"--student_weights_sha256={self.student_weights_sha256} is given, but "
                "--student_weights, the file it belongs to, is empty."
            )

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the student's input."""
        return self.image_size, self.image_size, 3

    @property
    def options(self) -> dict[str, Any]:
        """What `build_student` passes on to the architecture."""
        return {"width": self.width, "stem_stride": self.stem_stride}

    def build(self, classes: int) -> "tf.keras.Model":
        """Builds the student for this number of classes; see `build_student`."""
        return build_student(self.student, self.input_shape, classes, **self.options)


@dataclass(frozen=True)
class ComputeSettings(SettingsGroup):
    """How a training is computed; `compute_policy` resolves it on a machine."""

    precision: str = setting(
        "auto",
        "of binary convolutions in training by native operators: bfloat16 (in which -1 and +1 are "
        "exact), float32, or auto: bfloat16 where it is the faster one on this CPU; plain kernels "
        "compute in float32, and so do validation and batch-norm statistics after the steps",
        choices=PRECISIONS,
    )
    xla: str = setting(
        "auto",
        "whether XLA compiles the training step: on, off, or auto: on where there is a GPU",
        choices=XLA,
    )
    kernels: str = setting(
        "auto",
        "native: operators in C++ for the training step on a CPU, and for validation and "
        "batch-norm statistics after it, compiled once into a cache folder; plain: TensorFlow's "
        "own; auto: native where there is a C++ compiler",
        choices=KERNELS,
    )
    strategy: str = setting(
        "auto",
        "devices that train together: one; mirrored: all GPUs of this machine; multi_worker: those "
        "of all workers that TF_CONFIG names; auto: as many as there are. --batch_size is that of "
        "all together",
        choices=STRATEGIES,
    )
    sync_batch_norm: bool = setting(
        True,
        "with several devices: batch statistics of the whole batch, not of each device's share",
    )

    def check(self) -> None:
        if self.xla == "on" and self.precision == "bfloat16":
            raise UserError(
                "--precision=bfloat16 contradicts --xla=on: what XLA compiles is the plain step in "
                "float32; give --xla=off, or --precision=auto."
            )
