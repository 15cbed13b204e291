"""The operations, in the order they are applied. To add one: its file, and its line here.

augmentation = make_augmentation(AugmentSettings("pad_crop_flip", color_jitter=0.4), seed=0)
"""

from candle_tf.data.augment.augmentation import Augmentation
from candle_tf.data.augment.color_jitter import ColorJitter
from candle_tf.data.augment.crops import Crop
from candle_tf.data.augment.mix import Mix
from candle_tf.data.augment.operation import Operation
from candle_tf.data.augment.randaugment import RandAugment
from candle_tf.data.augment.settings import AugmentSettings

OPERATIONS: tuple[type[Operation], ...] = (
    Crop,
    ColorJitter,
    RandAugment,
    Mix,
)


def make_augmentation(settings: AugmentSettings, seed: int) -> Augmentation:
    """The operations that the settings ask for, of all that there are."""
    made = (operation.from_settings(settings) for operation in OPERATIONS)
    return Augmentation(tuple(operation for operation in made if operation is not None), seed)
