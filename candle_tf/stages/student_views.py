"""Which views the student is trained on: the settings that decide it, as one value."""

import numpy as np

from candle_tf.config import Config
from candle_tf.data.augment.precomputed_views import views_by_class
from candle_tf.data.augment.transform import Transform
from candle_tf.stages.prepare import Data


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


def views_of_images(config: Config, data: Data) -> np.ndarray:
    """How many fixed views each training image has, int64 [N]."""
    by_class = views_by_class(data.counts, config.views, config.tail_views)
    return by_class[data.train.labels]
