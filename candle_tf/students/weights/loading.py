"""Starting weights for a student, from whatever kind of file they are in.

start = load_weights_file("weights.safetensors", StudentSpec("reactnet_a", 0.5), image_size=64)
copied = start_from(start, student, class_names)           # whether the classifier was copied too
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import tensorflow as tf
from absl import logging

from candle_tf.errors import UserError
from candle_tf.files import read_json_object
from candle_tf.students.weights import packed
from candle_tf.students.weights.copying import copy_student_weights
from candle_tf.students.weights.pytorch import class_count, load_pytorch
from candle_tf.students.weights.spec import StudentSpec
from candle_tf.weight_files.checksums import verified_bytes
from candle_tf.weight_files.hdf5_check import check_hdf5
from candle_tf.weight_files.keras_h5 import load_h5
from candle_tf.weight_files.torch_pickle import read_state_dict

_FOLDER = Path(__file__).parent
_REINSTALL = "Install candle_tf again."
_TORCH = (".pth", ".pt", ".tar")
# A network whose classifier plays no part has this many classes.
_ANY = 2


@dataclass(frozen=True)
class StartingWeights:
    """Weights to begin with, in a network of their own.

    Attributes:
        network: of the same architecture as the student; its number of classes may be another.
        class_names: of its classifier, where they are known.
        origin: the file or run, for messages.
    """

    network: tf.keras.Model
    class_names: Sequence[str] | None
    origin: str


def start_from(start: StartingWeights, student: tf.keras.Model, class_names: Sequence[str]) -> bool:
    """Copies starting weights into a student; the classifier only where class names agree.

    Args:
        start: the weights.
        student: what is to be trained.
        class_names: of the student's classes, in order.

    Returns:
        Whether the classifier was copied.

    Raises:
        UserError: where they do not fit; the student is as it was then.
    """
    same = start.class_names is not None and list(start.class_names) == list(class_names)
    copy_student_weights(start.network, student, classifier=same)
    logging.info(
        "the student starts from %s; its classifier %s",
        start.origin,
        "too, as the class names agree" if same else "is new",
    )
    return same


def shipped_weights(spec: StudentSpec) -> tuple[Path, str]:
    """The weights that come with the package: the file, and the SHA-256 that its card says.

    Raises:
        UserError: where there are none of this student and width; says which there are.
    """
    path = _FOLDER / f"{spec.name}_width_{spec.width:g}.safetensors"
    if not path.exists():
        there = sorted(file.stem.replace("_width_", " at width ") for file in _list_weights())
        raise UserError(
            f"--student_weights=pretrained: no weights of {spec} come with candle_tf; there are "
            f"those of {', '.join(there) or 'no student'}. Give one of these, or make your own "
            "with python -m candle_tf.pretrain."
        )
    return path, str(read_json_object(path.with_suffix(".json"), _REINSTALL)["sha256"])


def _list_weights() -> list[Path]:
    return list(_FOLDER.glob("*.safetensors"))


def load_weights_file(
    path: str | Path, spec: StudentSpec, image_size: int, sha256: str = ""
) -> StartingWeights:
    """Reads packed weights (.safetensors), Keras's (.h5) or PyTorch's (.pth, .pt, .tar).

    Args:
        path: the file.
        spec: the student that is to begin with them.
        image_size: side of its input in pixels.
        sha256: what the file's SHA-256 must be; "" for any.

    Raises:
        UserError: where the file cannot be read, is of another student, width or kind, truncated
            or damaged, has another SHA-256, or a weight is not finite.
    """
    data = verified_bytes(path, sha256)
    suffix = Path(path).suffix.lower()
    if suffix == ".safetensors":
        return _read_packed(data, str(path), spec, image_size)
    if suffix == ".h5":
        return _read_h5(str(path), spec, image_size)
    if suffix in _TORCH:
        return _read_pytorch(data, str(path), spec, image_size)
    raise UserError(
        f"--student_weights={path}: files named *.safetensors (packed weights), *.h5 (Keras) and "
        f"*{', *'.join(_TORCH)} (PyTorch) are read, and folders of runs."
    )


def _read_packed(data: bytes, origin: str, spec: StudentSpec, image_size: int) -> StartingWeights:
    found, class_names, _ = packed.describe(data, origin)
    if (found.name, found.width) != (spec.name, spec.width):
        raise UserError(
            f"{origin} holds the weights of {found}, and the student is {spec}: give "
            f"--student={found.name} --width={found.width:g}, or other weights."
        )
    if found.stem_stride != spec.stem_stride:
        logging.warning(
            "%s was trained with --stem_stride=%d, and the student has %d",
            *(origin, found.stem_stride, spec.stem_stride),
        )
    network = spec.build(image_size, _ANY if class_names is None else len(class_names))
    packed.unpack(data, network, origin)
    return StartingWeights(network, class_names, origin)


def _read_h5(path: str, spec: StudentSpec, image_size: int) -> StartingWeights:
    network = spec.build(image_size, _h5_classes(path))
    load_h5(network, path, f"{spec} with this number of classes")
    return StartingWeights(network, None, path)


def _h5_classes(path: str) -> int:
    """The number of classes of a Keras weights file: the size of its last array, a bias.

    Raises:
        UserError: where it is no such file.
    """
    try:
        check_hdf5(path)
        with h5py.File(path, "r") as file:
            group = file.get("model_weights", file)
            if "layer_names" not in group.attrs:
                return _v3_classes(file)
            names = [
                (layer, weight)
                for layer in group.attrs["layer_names"]
                for weight in group[layer].attrs["weight_names"]
            ]
            layer, weight = names[-1]
            return int(group[layer][weight].shape[-1])
    # Whatever h5py raises is the file's damage, or another layout.
    except Exception as error:
        raise UserError(
            f"{path} is not a Keras weights file, or is damaged ({error}). Give a file that "
            "save_weights wrote."
        ) from error


def _v3_classes(file: h5py.File) -> int:
    """Of the newer layout, in no order of use: of the one dense layer with a bias, the classifier.

    The gates of real_to_binary are dense layers without one.
    """
    found: list[int] = []

    def visit(_: str, item: object) -> None:
        if isinstance(item, h5py.Group):
            arrays = [value for value in item.values() if isinstance(value, h5py.Dataset)]
            if sorted(array.ndim for array in arrays) == [1, 2]:
                found.extend(int(array.shape[0]) for array in arrays if array.ndim == 1)

    file.visititems(visit)
    return found[0]


def _read_pytorch(data: bytes, origin: str, spec: StudentSpec, image_size: int) -> StartingWeights:
    if spec.width != 1.0:
        raise UserError(
            f"--student_weights={origin} contradicts --width={spec.width:g}: the official PyTorch "
            "networks are of width 1. Give --width=1."
        )
    state = read_state_dict(data, origin)
    network = spec.build(image_size, class_count(state, origin))
    load_pytorch(network, spec.name, state, origin)
    logging.info(
        "%s: PyTorch pads otherwise than TensorFlow at stride 2, so this is a start for "
        "fine-tuning and not an equal network",
        origin,
    )
    return StartingWeights(network, None, origin)
