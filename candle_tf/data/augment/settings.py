"""The settings of the student's training views."""

from dataclasses import dataclass


@dataclass(frozen=True)
class AugmentSettings:
    """What each operation of `registry.OPERATIONS` is made from; one flag each, see `config`."""

    augmentation: str = "none"
    color_jitter: float = 0.0
    randaugment_magnitude: float = 0.0
    randaugment_layers: int = 2
    mix: str = "none"
    mix_alpha: float = 1.0
