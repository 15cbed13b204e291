"""The settings of a pretraining, as one frozen, validated value; each is a flag of its name.

settings = Pretraining(data_dir="images.zip", width=0.5, run_dir="runs/pretrained")
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from candle_tf.data.augment.settings import AUGMENTATIONS
from candle_tf.data.settings import ON_BAD_IMAGE, check_archive_encoding
from candle_tf.errors import UserError
from candle_tf.files import read_json_object
from candle_tf.run_folder import claim_folder, write_settings
from candle_tf.settings import SettingsGroup, check_setting, convert_setting, setting
from candle_tf.students.architectures.registry import STUDENTS
from candle_tf.students.settings import KERNELS, PRECISIONS, STRATEGIES, XLA, ComputeSettings
from candle_tf.teachers.settings import check_teachers

# May differ between two calls that work on one folder.
_CHANGEABLE = (
    *("epochs", "data_dir", "train_list", "test_data_dir", "data_license", "teacher_weights"),
    *("run_dir", "cache_dir", "precision", "kernels", "xla", "strategy"),
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
    archive_encoding: str = setting(
        "", "encoding of the names in a ZIP or TAR that does not say it; see candle_tf.train"
    )
    data_license: str = setting("", "the licence of the images, for the card of the weights")
    on_bad_image: str = setting(
        "stop", "when images cannot be read: stop, or skip them", choices=ON_BAD_IMAGE
    )
    heldout_fraction: float = setting(
        0.02, "part of the images that is not trained on and chooses the epoch", above=0, below=1
    )
    image_size: int = setting(64, "side of the student's input in pixels", at_least=8, at_most=4096)
    augmentation: str = setting(
        "random_resized_crop_flip", "views of teacher and student", choices=AUGMENTATIONS
    )
    views: int = setting(
        3, "precomputed views of each image, taken in turn", at_least=1, at_most=10_000
    )
    teacher: str = setting(
        "efficientnet_lite0", "the frozen teacher, or several joined by +; see candle_tf.train"
    )
    teacher_weights: str = setting(
        "", "a weights file for the teacher, instead of its own; see candle_tf.train"
    )
    teacher_weights_sha256: str = setting("", "the SHA-256 which that file must have")
    teacher_size: int = setting(
        128, "side in pixels at which the teacher sees each view", at_least=32, at_most=4096
    )
    student: str = setting("reactnet_a", "architecture of the student", choices=STUDENTS)
    width: float = setting(1.0, "multiplier of the student's channels", above=0, at_most=4)
    stem_stride: int = setting(2, "stride of the student's stem", at_least=1, at_most=2)
    epochs: int = setting(20, "epochs in all", at_least=1)
    batch_size: int = setting(64, "images in a step", at_least=1)
    learning_rate: float = setting(5e-3, "Adam's constant rate", above=0, at_most=1e3)
    warmup_steps: int = setting(500, "steps in which the rate rises", at_least=0)
    decay_fraction: float = setting(
        0.3,
        "last part of the epochs, in which the rate falls linearly to 0; a later call with more "
        "--epochs continues from before it",
        at_least=0,
        at_most=1,
    )
    temperature: float = setting(
        2.0, "T of the KL loss on the teacher's own classes", at_least=0.01, at_most=1e3
    )
    feature_weight: float = setting(
        1.0, "weight of 1 - R^2 of the features", at_least=0, at_most=1e6
    )
    precision: str = setting(
        "auto", "of binary convolutions; see candle_tf.train", choices=PRECISIONS
    )
    kernels: str = setting(
        "auto", "operators of the training step; see candle_tf.train", choices=KERNELS
    )
    xla: str = setting("auto", "whether XLA compiles the training step", choices=XLA)
    strategy: str = setting(
        "auto", "devices that train together; see candle_tf.train", choices=STRATEGIES
    )
    seed: int = setting(0, "seed of everything random", at_least=0, below=2**31)
    run_dir: str = setting("runs/pretrained", "folder of everything that is written")
    cache_dir: str = setting("", "folder of decoded images and features; run_dir/cache if empty")

    def check(self) -> None:
        check_teachers(self.teacher, self.teacher_weights, self.teacher_weights_sha256)
        check_archive_encoding(self.archive_encoding)
        # Refuses values that contradict each other.
        ComputeSettings(
            precision=self.precision, xla=self.xla, kernels=self.kernels, strategy=self.strategy
        )
        if self.train_list and self.dataset == "folder":
            raise UserError(
                f"--train_list={self.train_list} contradicts --dataset=folder, which takes all "
                "images of --data_dir. Give --dataset=list, or leave --train_list out."
            )

    @property
    def cache_path(self) -> Path:
        """Folder of decoded images and teacher features."""
        return Path(self.cache_dir) if self.cache_dir else Path(self.run_dir) / "cache"

    @property
    def heldout_parts(self) -> int:
        """n where --heldout_fraction is 1/n, else 0."""
        parts = round(1 / self.heldout_fraction)
        return parts if math.isclose(parts * self.heldout_fraction, 1) else 0

    @property
    def constant_epochs(self) -> int:
        """Epochs before the learning rate begins to fall."""
        return self.epochs - round(self.decay_fraction * self.epochs)


def open_pretraining(settings: Pretraining) -> tuple[IO[str] | None, Pretraining | None]:
    """Makes the folder of a pretraining, or opens it to resume or continue.

    config.json stays as it is, until `write_pretraining`: it says how many epochs the checkpoints
    are of.

    Returns:
        The folder's lock, held until it is closed, as `run_folder.claim_folder`; and these settings
        with the number of epochs of an earlier call in the folder, or None in a new folder.

    Raises:
        UserError: where the folder holds a pretraining with other settings, is no such folder, or
            is in use by another process.
    """
    now = dataclasses.asdict(settings)
    lock, before = claim_folder(Path(settings.run_dir), now, _CHANGEABLE, _read)
    if before is None:
        return lock, None
    return lock, dataclasses.replace(settings, epochs=before["epochs"])


def write_pretraining(settings: Pretraining) -> None:
    """Writes config.json into the opened folder; its checkpoints are those of this training now.

    Raises:
        UserError: where it cannot be written.
    """
    write_settings(Path(settings.run_dir), dataclasses.asdict(settings))


def _read(path: Path) -> dict[str, Any]:
    remedy = "Give another --run_dir."
    values = read_json_object(path, remedy)
    fields = {field.name: field for field in dataclasses.fields(Pretraining)}
    try:
        converted = {
            name: convert_setting(fields[name], value, str(path)) for name, value in values.items()
        }
        for name, value in converted.items():
            check_setting(fields[name], value)
    except KeyError as error:
        raise UserError(
            f"{path} is not the settings file of a pretraining: {error} is none of its settings. "
            f"{remedy}"
        ) from error
    # Settings that contradict each other are no damage: some may change from call to call.
    return dataclasses.asdict(Pretraining()) | converted
