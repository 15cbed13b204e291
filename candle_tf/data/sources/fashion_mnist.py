"""Fashion-MNIST (Xiao et al. 2017): 60,000 + 10,000 images of 28x28 pixels, 10 classes.

Read from the four IDX files in --data_dir, plain or gzipped; without --data_dir, from the folder of
Debian's package `dataset-fashion-mnist`; else from TensorFlow Datasets.
"""

import gzip
import zlib
from pathlib import Path

import numpy as np

from candle_tf.data.sources.source import LabelledImages, Source, SourceConfig, require_every_class
from candle_tf.data.sources.tfds import open_tfds
from candle_tf.errors import UserError

DEBIAN = (Path("/usr/share/datasets/fashion-mnist"), Path("/usr/share/dataset-fashion-mnist"))
CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

_ADVICE = (
    "Expected train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and "
    "t10k-labels-idx1-ubyte, each as it is or with .gz."
)
_SIDE = 28
_MAX_IMAGES = 10**6


def open_fashion_mnist(name: str, config: SourceConfig) -> Source:
    """Opens Fashion-MNIST.

    Raises:
        UserError: If the files are damaged or not all there, or TensorFlow Datasets has to fetch
            the data and cannot.
    """
    folders = (Path(config.data_dir).expanduser(),) if config.data_dir else DEBIAN
    found = [folder for folder in folders if _idx_path(folder, "train-images-idx3-ubyte")]
    if found:
        return _open_idx(name, found[0])
    if config.data_dir and not _is_tfds_folder(folders[0]):
        raise UserError(f"{folders[0]}: no IDX files of Fashion-MNIST. {_ADVICE}")
    return open_tfds(name, config, "fashion_mnist")


def _is_tfds_folder(folder: Path) -> bool:
    return (folder / "fashion_mnist").is_dir()


def _open_idx(name: str, folder: Path) -> Source:
    pixels, subsets = {}, {}
    for subset, prefix in (("train", "train"), ("test", "t10k")):
        images = _read_idx(folder, f"{prefix}-images-idx3-ubyte", 3)
        labels = _read_idx(folder, f"{prefix}-labels-idx1-ubyte", 1)
        if len(images) != len(labels):
            raise UserError(f"{folder}: {len(images)} {subset} images, but {len(labels)} labels.")
        if labels.max(initial=0) >= len(CLASS_NAMES):
            row = int(np.argmax(labels >= len(CLASS_NAMES)))
            raise UserError(
                f"{folder}/{prefix}-labels-idx1-ubyte: label {labels[row]} of image {row} is not "
                f"from 0 to {len(CLASS_NAMES) - 1}. Fetch the file again."
            )
        pixels[subset] = images
        subsets[subset] = LabelledImages(
            tuple(f"{subset}/{i:06d}" for i in range(len(images))), labels
        )
    require_every_class(subsets["train"].labels, CLASS_NAMES, str(folder))

    def grey(image_id: str) -> np.ndarray:
        subset, _, row = image_id.partition("/")
        if subset not in pixels or not row.isdecimal() or int(row) >= len(pixels[subset]):
            raise KeyError(image_id)
        return pixels[subset][int(row)]

    return Source(
        name,
        CLASS_NAMES,
        subsets["train"],
        subsets["test"],
        lambda image_id: np.repeat(grey(image_id)[..., np.newaxis], 3, axis=-1),
        lambda image_id: f"{zlib.crc32(grey(image_id).tobytes()):08x}",
        encoded=lambda image_id: grey(image_id).tobytes(),
    )


def _idx_path(folder: Path, name: str) -> Path | None:
    paths = (folder / name, folder / f"{name}.gz")
    return next((path for path in paths if path.is_file()), None)


def _read_idx(folder: Path, name: str, dimensions: int) -> np.ndarray:
    """uint8 [N, 28, 28] or [N]."""
    path = _idx_path(folder, name)
    if path is None:
        raise UserError(f"{folder}: {name} is missing. {_ADVICE}")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = np.frombuffer(file.read(4 + 4 * dimensions), ">u4")
            # Two zero bytes, 8 for unsigned bytes, and the number of dimensions.
            if len(header) != 1 + dimensions or header[0] != 0x800 + dimensions:
                raise ValueError("not the header of an IDX file of bytes")
            shape = tuple(map(int, header[1:]))
            if shape[0] > _MAX_IMAGES or shape[1:] not in ((), (_SIDE, _SIDE)):
                raise ValueError(f"of shape {shape}")
            size = int(np.prod(shape))
            data = file.read(size + 1)  # never more than the header says
            if len(data) != size:
                raise ValueError(f"{'more' if len(data) > size else 'less'} data than it says")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{path}: not a whole IDX file ({error}). Fetch it again.") from error
    return np.frombuffer(data, np.uint8).reshape(shape)
