"""The views that the student is trained on, by a run's settings."""

import numpy as np

from candle_tf.config import Config
from candle_tf.data.augment.augmentation import Augmentation, make_augmentation
from candle_tf.data.augment.precomputed_views import (
    PrecomputedViews,
    views_by_class,
)
from candle_tf.data.image_sizes import sides_of_epochs
from candle_tf.stages.prepare import Data


def student_augmentation(config: Config) -> Augmentation:
    """The student's augmentation; with --teacher_view=same the teacher's too."""
    return make_augmentation(config.augment, config.run.seed)


def student_sides(config: Config) -> tuple[int, ...]:
    """The side of the student's training views in each epoch, in pixels; --epochs is not 0."""
    training = config.training
    return sides_of_epochs(training.progressive_sizes, training.epochs, config.student.image_size)


def views_of_images(config: Config, data: Data) -> np.ndarray:
    """Number of precomputed views of each training image, int64 [N]."""
    by_class = views_by_class(data.counts, config.teacher.views, config.teacher.tail_views)
    return by_class[data.train.labels]


def student_views(config: Config, data: Data) -> PrecomputedViews | None:
    """The views that the student sees in turn; None if it sees new views in every epoch."""
    return (
        PrecomputedViews(views_of_images(config, data))
        if config.teacher.precomputes_views
        else None
    )


def views_without_labels(config: Config, images: int) -> np.ndarray:
    """Number of precomputed views of each of so many images without labels, int64 [images]."""
    return np.full(images, config.unlabelled.unlabelled_views or config.teacher.views, np.int64)


def unlabelled_views(config: Config, images: int) -> PrecomputedViews | None:
    """The views of so many images without labels that the student sees; None for new ones."""
    if not config.teacher.precomputes_views:
        return None
    return PrecomputedViews(views_without_labels(config, images))
