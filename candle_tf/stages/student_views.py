"""The views that the student is trained on, by a run's settings."""

import numpy as np

from candle_tf.config import Config
from candle_tf.data.augment.augmentation import Augmentation, make_augmentation
from candle_tf.data.augment.precomputed_views import PrecomputedViews, views_by_class
from candle_tf.stages.prepare import Data


def student_augmentation(config: Config) -> Augmentation:
    """The student's augmentation; with --teacher_view=same the teacher's too."""
    return make_augmentation(config.augment, config.run.seed)


def views_of_images(config: Config, data: Data) -> np.ndarray:
    """Number of precomputed views of each training image, int64 [N]."""
    by_class = views_by_class(data.counts, config.teacher.views, config.teacher.tail_views)
    return by_class[data.train.labels]


def student_views(config: Config, data: Data) -> PrecomputedViews | None:
    """The views that the student sees in turn; None if it sees new views in every epoch."""
    if config.teacher.teacher_view == "whole" or config.teacher.teacher_mode == "online":
        return None
    return PrecomputedViews(views_of_images(config, data))
