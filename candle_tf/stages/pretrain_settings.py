"""The settings of a pretraining, as one frozen, validated value; each is a flag of its name.

settings = Pretraining(data_dir="images.zip", width=0.5, run_dir="runs/pretrained")
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from candle_tf.data.augment.settings import AUGMENTATIONS
from candle_tf.data.settings import ON_BAD_IMAGE
from candle_tf.errors import UserError
from candle_tf.files import write_atomically
from candle_tf.settings import SettingsGroup, setting
from candle_tf.students.architectures.registry import STUDENTS
from candle_tf.students.settings import KERNELS, PRECISIONS, XLA

# May differ between two calls that work on one folder.
_CHANGEABLE = (
    *("epochs", "data_dir", "train_list", "test_data_dir", "data_license", "teacher_weights"),
    *("run_dir", "cache_dir", "precision", "kernels", "xla"),
)


@dataclass(frozen=True)
class Pretraining(SettingsGroup):
    """Settings of a pretraining; see each field's help.

    Raises:
        UserError: for a value out of range.
    """

    dataset: str = setting(
        "folder",
        "where the images come from: folder (all images in --data_dir, in any folders), or a "
        "data set as in candle_tf.train, whose training images are taken; labels are ignored",
    )
    data_dir: str = setting("", "the images: a folder, ZIP or TAR")
    train_list: str = setting("", "for --dataset=list: see candle_tf.train")
    test_data_dir: str = setting(
        "",
        "a folder, ZIP or TAR with the images of a test set: where one of them is among the "
        "images, byte by byte, the training is refused",
    )
    data_license: str = setting("", "the licence of the images, for the card of the weights")
    on_bad_image: str = setting(
        "stop", "when images cannot be read: stop, or skip them", choices=ON_BAD_IMAGE
    )
    heldout_fraction: float = setting(
        0.02, "part of the images that is not trained on and chooses the epoch", above=0, below=1
    )
    image_size: int = setting(64, "side of the student's input in pixels", at_least=8)
    augmentation: str = setting(
        "random_resized_crop_flip", "views of teacher and student", choices=AUGMENTATIONS
    )
    views: int = setting(3, "precomputed views of each image, taken in turn", at_least=1)
    teacher: str = setting("efficientnet_lite0", "the frozen teacher; see candle_tf.train")
    teacher_weights: str = setting("", "a weights file for the teacher, instead of its own")
    teacher_weights_sha256: str = setting("", "the SHA-256 which that file must have")
    teacher_size: int = setting(
        128, "side in pixels at which the teacher sees each view", at_least=32
    )
    student: str = setting("reactnet_a", "architecture of the student", choices=STUDENTS)
    width: float = setting(1.0, "multiplier of the student's channels", above=0, at_most=4)
    stem_stride: int = setting(2, "stride of the student's stem", at_least=1, at_most=2)
    epochs: int = setting(20, "epochs in all", at_least=1)
    batch_size: int = setting(64, "images in a step", at_least=1)
    learning_rate: float = setting(5e-3, "Adam's constant rate", above=0)
    warmup_steps: int = setting(500, "steps in which the rate rises", at_least=0)
    decay_fraction: float = setting(
        0.3,
        "last part of the epochs, in which the rate falls linearly to 0; a later call with more "
        "--epochs continues from before it",
        at_least=0,
        at_most=1,
    )
    temperature: float = setting(2.0, "T of the KL loss on the teacher's own classes", above=0)
    feature_weight: float = setting(1.0, "weight of 1 - R^2 of the features", at_least=0)
    precision: str = setting(
        "auto", "of binary convolutions; see candle_tf.train", choices=PRECISIONS
    )
    kernels: str = setting(
        "auto", "operators of the training step; see candle_tf.train", choices=KERNELS
    )
    xla: str = setting("auto", "whether XLA compiles the training step", choices=XLA)
    seed: int = setting(0, "seed of everything random", at_least=0, below=2**31)
    run_dir: str = setting("runs/pretrained", "folder of everything that is written")
    cache_dir: str = setting("", "folder of decoded images and features; run_dir/cache if empty")

    @property
    def cache_path(self) -> Path:
        """Folder of decoded images and teacher features."""
        return Path(self.cache_dir) if self.cache_dir else Path(self.run_dir) / "cache"

    @property
    def constant_epochs(self) -> int:
        """Epochs before the learning rate begins to fall."""
        return self.epochs - round(self.decay_fraction * self.epochs)


def open_pretraining(settings: Pretraining) -> Pretraining | None:
    """Writes config.json into the folder of a pretraining.

    Returns:
        The settings of an earlier call that are there already, with which these agree but for the
        number of epochs and places; None in a new folder.

    Raises:
        UserError: where the folder holds a pretraining with other settings, or is no such folder.
    """
    path = Path(settings.run_dir) / "config.json"
    before = _read(path) if path.exists() else None
    if before:
        changed = [
            f"--{field.name} was {getattr(before, field.name)} and is now "
            f"{getattr(settings, field.name)}"
            for field in dataclasses.fields(settings)
            if field.name not in _CHANGEABLE
            and getattr(before, field.name) != getattr(settings, field.name)
        ]
        if changed:
            raise UserError(
                f"{settings.run_dir} holds a pretraining with other settings: {'; '.join(changed)}."
                " Give another --run_dir, or those settings."
            )
    text = json.dumps(dataclasses.asdict(settings), indent=2) + "\n"
    write_atomically(path, text.encode())
    return before


def _read(path: Path) -> Pretraining:
    try:
        return Pretraining(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} is not the settings file of a pretraining ({error}). Give another --run_dir."
        ) from error
