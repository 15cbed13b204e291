"""The teacher's maps for the student's training (--map_weight): checked first, then cached."""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from candle_tf.config import Config
from candle_tf.data.augment.precomputed_views import PrecomputedViews
from candle_tf.data.cached_arrays import Shard
from candle_tf.data.subset import Subset
from candle_tf.data.targets import Targets
from candle_tf.methods.map_loss import find_student_maps
from candle_tf.stages.prepare import Data
from candle_tf.stages.student_views import (
    student_augmentation,
    views_of_images,
    views_without_labels,
)
from candle_tf.teachers.backbones import Teacher
from candle_tf.teachers.feature_maps import (
    TargetsWithMaps,
    TeacherMaps,
    TrainingViews,
    store_basis,
    store_maps,
)


@dataclass(frozen=True)
class MapCache:
    """The maps of a run's training images, with labels and without.

    Attributes:
        config: the run's settings.
        data: the prepared split.
        maps: of the teacher.
    """

    config: Config
    data: Data
    maps: TeacherMaps

    def add_maps(self, targets: Targets) -> Targets:
        """The same outputs for training images, with maps."""
        return self._add(targets, self._labelled)

    def add_maps_without_labels(self, targets: Targets | None) -> Targets | None:
        """The same outputs for images without labels, with maps; None for none."""
        if targets is None or self.data.unlabelled is None:
            return targets
        return self._add(targets, self._views_without_labels(self.data.unlabelled))

    def compute(self, shard: Shard | None) -> None:
        """Computes what a shard has of all maps."""
        self._open_array(self._labelled, shard)
        if self.data.unlabelled is not None:
            self._open_array(self._views_without_labels(self.data.unlabelled), shard)

    def _add(self, targets: Targets, views: TrainingViews) -> Targets:
        return TargetsWithMaps(targets, self._open_array(views), views.precomputed)

    def _open_array(self, views: TrainingViews, shard: Shard | None = None) -> np.ndarray:
        folder = self.config.run.cache_path
        # Images without labels are projected as the others.
        basis = store_basis(self.maps, self._labelled, folder)
        return store_maps(self.maps, basis, views, folder, shard)

    @property
    def _labelled(self) -> TrainingViews:
        return self._views(self.data.train, views_of_images(self.config, self.data))

    def _views_without_labels(self, subset: Subset) -> TrainingViews:
        return self._views(subset, views_without_labels(self.config, len(subset)))

    def _views(self, subset: Subset, counts: np.ndarray) -> TrainingViews:
        """The student's own views, whatever the pooled features are of; see `teacher_views`."""
        augmentation = student_augmentation(self.config)
        if augmentation.is_whole:
            counts = np.ones_like(counts)
        resolution = self.config.calibration.calibration_resolutions[0]
        return TrainingViews(subset, augmentation, PrecomputedViews(counts), resolution)


def open_maps(config: Config, data: Data, teacher: Teacher) -> MapCache | None:
    """The maps that a run's student learns from; None without --map_weight.

    The first resolution of the calibration is the maps'.

    Raises:
        UserError: for a teacher or a student without the maps; nothing is computed before.
    """
    if not config.maps.map_weight:
        return None
    maps = TeacherMaps.of(teacher)
    find_student_maps(config.student.build(data.classes))
    # As at the start of the run.
    tf.keras.utils.set_random_seed(config.run.seed)
    return MapCache(config, data, maps)
