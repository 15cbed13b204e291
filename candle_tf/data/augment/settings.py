"""Settings of the student's training views, and the operations that they are for.

To add an operation: its file, and here its fields and its line in `OPERATIONS`.
"""

from dataclasses import dataclass
from typing import Any

from candle_tf.errors import UserError
from candle_tf.registry import Registry
from candle_tf.settings import SettingsGroup, setting

AUGMENTATIONS = (
    "none",
    "pad_crop",
    "pad_crop_flip",
    "random_resized_crop_flip",
    "alternating_crop_flip",
)
MIX_VIEWS = ("all", "half")
# Kinds of view repeat after so many view numbers, see `view_kinds`.
PERIOD = 4
MIXES = ("none", "mixup", "cutmix")

# Subclasses of `operation.Operation`, in the order they are applied.
OPERATIONS: Registry[Any] = Registry(
    {
        "crop": "candle_tf.data.augment.crops:Crop",
        "color_jitter": "candle_tf.data.augment.color_jitter:ColorJitter",
        "randaugment": "candle_tf.data.augment.randaugment:RandAugment",
        "mix": "candle_tf.data.augment.mix:Mix",
        "half_mix": "candle_tf.data.augment.mix:HalfMix",
    }
)


@dataclass(frozen=True)
class AugmentSettings(SettingsGroup):
    """What each operation is made from."""

    augmentation: str = setting(
        "pad_crop_flip", "the student's training views", choices=AUGMENTATIONS
    )
    color_jitter: float = setting(
        0.0,
        "brightness, contrast and saturation of the views change by up to this fraction (the "
        "paper: 0.4); 0 for none",
        at_least=0,
        at_most=1,
    )
    randaugment_magnitude: float = setting(
        0.0, "strength of RandAugment's operations on the views; 0 for none", at_least=0, at_most=10
    )
    randaugment_layers: int = setting(
        2,
        "operations on each view",
        at_least=1,
        at_most=14,
        only_for="randaugment_magnitude",
    )
    mix: str = setting(
        "none", "whether a second image is mixed into each training view, and how", choices=MIXES
    )
    mix_alpha: float = setting(
        1.0,
        "the ratio is drawn from Beta(alpha, alpha)",
        at_least=1e-3,
        at_most=1e3,
        only_for="mix",
    )
    mix_views: str = setting(
        "all",
        "which views are mixed; half: by their numbers, the last two of each four",
        choices=MIX_VIEWS,
        only_for="mix",
    )
    unmixed_from: float = setting(
        1.0,
        "fraction of the epochs after which only unmixed views are shown",
        at_least=0,
        at_most=1,
        only_for="mix_views=half",
    )
    crop_area: float = setting(
        0.35,
        "least fraction of the image's area in a crop (the paper: 0.08); the most is all of it",
        above=0,
        at_most=1,
        only_for="augmentation=random_resized_crop_flip",
    )

    def check(self) -> None:
        if self.randaugment_layers != 2 and not self.randaugment_magnitude:
            raise UserError(
                f"--randaugment_layers={self.randaugment_layers} contradicts "
                "--randaugment_magnitude=0, which is no RandAugment; give a magnitude up to 10."
            )
        if self.mix_alpha != 1.0 and self.mix == "none":
            raise UserError(
                f"--mix_alpha={self.mix_alpha:g} contradicts --mix=none; give --mix=mixup or "
                "cutmix."
            )
        if self.mix_views == "half" and self.mix == "none":
            raise UserError("--mix_views=half contradicts --mix=none; give --mix=mixup or cutmix.")
        if self.unmixed_from != 1.0 and self.mix_views == "all":
            raise UserError(
                f"--unmixed_from={self.unmixed_from:g} contradicts --mix_views=all, where no view "
                "is unmixed; give --mix_views=half."
            )
