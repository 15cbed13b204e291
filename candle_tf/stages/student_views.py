"""Which views the student is trained on: the settings that decide it, as one value."""

from candle_tf.config import Config
from candle_tf.data.transforms import Transform


def student_transform(config: Config) -> Transform:
    """The student's training views; with --teacher_view=same the teacher's too."""
    return Transform(
        config.augmentation,
        color_jitter=config.color_jitter,
        randaugment_magnitude=config.randaugment_magnitude,
        randaugment_layers=config.randaugment_layers,
        mix=config.mix,
        mix_alpha=config.mix_alpha,
    )
