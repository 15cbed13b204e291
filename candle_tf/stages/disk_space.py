"""Room on the disk for all that a run will still write, added up before hours of training.

needs = disk_needs(config, student, folder)          # before the teacher is loaded
needs.require()
needs.with_teacher(teacher_parameters, features).require()     # when its size is known
"""

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf

from candle_tf.config import Config
from candle_tf.errors import UserError
from candle_tf.files import require_free_space
from candle_tf.methods.contrastive import DIMENSIONS
from candle_tf.methods.method import TwoStageMethod
from candle_tf.methods.registry import METHODS
from candle_tf.run_folder import RunFolder

_FLOAT_BYTES = 4
# A weight and the two moments of Adam; other optimizers have fewer.
_VALUES_PER_WEIGHT = 3
# The last checkpoint, the best, and the one that is being written.
_CHECKPOINTS = 3
# Of an earlier training phase the last and the best stay.
_EARLIER_CHECKPOINTS = 2
# SavedModel, float32 reference file and LCE file.
_EXPORTED_FILES = 3
# Of a checkpoint: index, headers, weights beside the student's.
_INDEX = 2**20
# Graphs, warm-up requests, indices, student.json.
_OVERHEAD = 2**24
# Offsets in a TFLite file have 31 bits.
_TFLITE_LIMIT = 2**31


@dataclasses.dataclass(frozen=True)
class DiskNeeds:
    """Bytes that a run will write.

    Attributes:
        folder: the run's.
        parts: bytes in it, by what they are.
        temporary: bytes in the folder of temporary files while the student is converted.
        features: width of the student's features.
        checkpoints: that are kept at once.
        values: floats of each weight in a checkpoint.
    """

    folder: Path
    parts: Mapping[str, int]
    temporary: int
    features: int
    checkpoints: int
    values: int = _VALUES_PER_WEIGHT

    def with_teacher(self, parameters: int, features: int) -> "DiskNeeds":
        """The same, with what depends on the teacher.

        Args:
            parameters: of the teacher, for its int8 file; 0 where none is written.
            features: width of its features, for the projector in each checkpoint.
        """
        weights = self.features * features
        projector = self.checkpoints * _checkpoint_size(weights, self.values)
        parts = {**self.parts, "checkpoints": self.parts["checkpoints"] + projector}
        if parameters:
            parts["the teacher's int8 file"] = parameters + _OVERHEAD
        return dataclasses.replace(self, parts=parts)

    def require(self) -> None:
        """Refuses to train where the sum is not free.

        Raises:
            UserError: with the bytes that are needed, for what, and those that are free.
        """
        temporary = Path(tempfile.gettempdir())
        parts = dict(self.parts)
        if _device(temporary) == _device(self.folder):
            parts["converting"] = self.temporary
        else:
            require_free_space(temporary, self.temporary, "Converting the student")
        named = ", ".join(f"{name}: {size / 1e6:.1f} MB" for name, size in parts.items())
        require_free_space(self.folder, sum(parts.values()), f"The rest of the run ({named})")


def disk_needs(config: Config, student: tf.keras.Model, folder: RunFolder) -> DiskNeeds:
    """What a run writes from here to its end; caches are checked where they are written.

    Args:
        config: the run's settings.
        student: built, not trained.
        folder: of the run; checkpoints that are there already need no more room.

    Raises:
        UserError: for a student larger than a TFLite file may be.
    """
    parameters = student.count_params()
    size = weights_size(parameters)
    earlier = (config.training.binary_steps == 2) + isinstance(
        METHODS[config.training.method], TwoStageMethod
    )
    checkpoints = _CHECKPOINTS + _EARLIER_CHECKPOINTS * earlier
    # The average of each weight as well, and the momentum encoder's.
    values = _VALUES_PER_WEIGHT + bool(config.optimizer.weight_average) + config.training.contrasts
    whole = _checkpoint_size(parameters, values) + _contrastive_size(config, student) + _INDEX
    written = sum(path.stat().st_size for path in folder.path.glob("student*/checkpoints/epoch-*"))
    return DiskNeeds(
        folder=folder.path,
        parts={
            "checkpoints": max(0, checkpoints * whole - written),
            "export": _export_size(parameters),
        },
        temporary=size + _OVERHEAD,
        features=student.output["features"].shape[-1],
        checkpoints=checkpoints,
        values=values,
    )


def require_export_space(parameters: int, folder: RunFolder) -> None:
    """Refuses an export that would fill the disk, of a student that may have been trained earlier.

    Raises:
        UserError: with the bytes that are needed and those that are free.
    """
    parts = {"export": _export_size(parameters)}
    temporary = weights_size(parameters) + _OVERHEAD
    DiskNeeds(folder.path, parts, temporary, features=0, checkpoints=0).require()


def weights_size(parameters: int) -> int:
    """Bytes of a student's weights in float32.

    Raises:
        UserError: for more than a TFLite file may hold.
    """
    size = _FLOAT_BYTES * parameters
    if size + _OVERHEAD > _TFLITE_LIMIT:
        raise UserError(
            f"The student has {parameters / 1e6:,.0f} M parameters, {size / 1e9:.1f} GB in "
            "float32; a TFLite file holds at most 2 GB. Give a smaller --width or --student."
        )
    return size


def _contrastive_size(config: Config, student: tf.keras.Model) -> int:
    """Bytes in a checkpoint of a contrastive method's projectors and queue."""
    if not config.training.contrasts:
        return 0
    features = student.output["features"].shape[-1]
    # A projector's are trained, and those of the momentum encoder not.
    projectors = (_VALUES_PER_WEIGHT + 1) * features * (features + DIMENSIONS)
    return _FLOAT_BYTES * (projectors + config.baseline.paco_queue * (DIMENSIONS + 1))


def _export_size(parameters: int) -> int:
    return _EXPORTED_FILES * weights_size(parameters) + _OVERHEAD


def _checkpoint_size(parameters: int, values: int) -> int:
    return values * _FLOAT_BYTES * parameters


def _device(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return folder.stat().st_dev
