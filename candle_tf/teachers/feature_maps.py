"""The frozen teacher's maps at two strides: averaged to small grids, reduced by PCA, cached.

    maps = TeacherMaps.of(teacher)                             # strides 16 and 32
    basis = store_basis(maps, views, folder)                   # PCA of a sample of the views
    array = store_maps(maps, basis, views, folder)             # float16 [R, 4 * 4 + 2 * 2, 64]
    targets = TargetsWithMaps(targets, array, precomputed)
    targets.batch(views)["teacher_maps"]                       # float32 [B, 20, 64]

The map of a stride is the last one at it that every path through the network passes. Of the
EfficientNet-Lites these are the expansion of the first block of stage 6 (672 channels in Lite0) and
the map that is pooled to features (1,280). Averaging over cells of a grid and projecting by PCA are
both affine, so their order does not matter; averaging first is cheaper.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from candle_tf.data.augment.augmentation import Augmentation
from candle_tf.data.augment.precomputed_views import PrecomputedViews
from candle_tf.data.augment.views import Views
from candle_tf.data.cached_arrays import Shard, array_path, stored_array
from candle_tf.data.subset import Subset
from candle_tf.data.targets import Targets
from candle_tf.errors import UserError
from candle_tf.teachers.backbones import FrozenBackbone, Teacher
from candle_tf.teachers.features import as_float16, features_key, features_of
from candle_tf.teachers.network_maps import MEASURED_SIDE, cut_tensors, map_heights
from candle_tf.teachers.stored_values import value_check


@dataclass(frozen=True)
class Level:
    """Which map is used, and the grid that it is averaged to.

    Attributes:
        stride: of the teacher's map, in pixels of its input.
        grid: cells on each side.
    """

    stride: int
    grid: int

    @property
    def positions(self) -> int:
        """Cells in all."""
        return self.grid**2


LEVELS = (Level(stride=16, grid=4), Level(stride=32, grid=2))
POSITIONS = sum(level.positions for level in LEVELS)
# Dimensions that PCA keeps, where all maps have as many channels.
DIMENSIONS = 64

# Raise it when maps of given weights and pixels change; see also `features._VERSION`.
_VERSION = 1

# Views that the PCA is fitted on: 20,000 positions of the smaller map.
_SAMPLE = 5000
_BLOCK = 512


@dataclass(frozen=True)
class TrainingViews:
    """The precomputed views of some images, and how the teacher sees them.

    Attributes:
        subset: N images.
        augmentation: of the views.
        precomputed: R views of the images.
        resolution: side in pixels of the teacher's input.
    """

    subset: Subset
    augmentation: Augmentation
    precomputed: PrecomputedViews
    resolution: int


@dataclass(frozen=True)
class TeacherMaps:
    """A teacher's maps, each averaged to the grid of its level.

    Attributes:
        teacher: whose maps they are.
        flat: gives all grids one after the other as features, float32 [N, sum(grid^2 channels)].
        channels: of each level's map.
    """

    teacher: Teacher
    flat: Teacher
    channels: tuple[int, ...]

    @classmethod
    def of(cls, teacher: Teacher) -> "TeacherMaps":
        """Finds the maps; of a teacher of several networks, those of the first.

        Raises:
            UserError: for a network that is no functional Keras model, or has no map at a stride.
        """
        encoder = teacher.inference or teacher.encoder
        frozen = next(each for each in encoder.layers if isinstance(each, FrozenBackbone))
        tensors = find_teacher_maps(frozen.backbone, teacher.name)
        model = tf.keras.Model(frozen.backbone.inputs, tensors, trainable=False)
        pixels = tf.keras.Input((None, None, 3), dtype="float32")
        flat = tf.keras.Model(pixels, _FlatGrids(model, frozen)(pixels), trainable=False)
        # No key is made of its fingerprint: all keys here begin with the teacher's own features.
        size = int(flat.output_shape[-1])
        channels = tuple(int(tensor.shape[-1]) for tensor in tensors)
        return cls(teacher, Teacher(f"{teacher.name} maps", flat, size, ""), channels)

    @property
    def dimensions(self) -> int:
        """D, that PCA keeps at each position."""
        return min(DIMENSIONS, *self.channels)

    def grids(self, views: TrainingViews, chosen: Views) -> list[np.ndarray]:
        """Grids of B views, float32 [B, grid^2, channels] of each level."""
        flat = features_of(self.flat, views.subset, views.augmentation, chosen, views.resolution)
        sizes = [
            level.positions * channels
            for level, channels in zip(LEVELS, self.channels, strict=True)
        ]
        parts = np.split(flat, np.cumsum(sizes)[:-1], axis=1)
        return [
            part.reshape(len(part), level.positions, channels)
            for part, level, channels in zip(parts, LEVELS, self.channels, strict=True)
        ]

    def key(self, views: TrainingViews) -> dict[str, Any]:
        """All that grids of the views depend on, JSON-ready."""
        return {
            "version": _VERSION,
            "levels": [[level.stride, level.grid] for level in LEVELS],
            "views": features_key(
                self.teacher,
                views.subset,
                views.augmentation,
                views.precomputed,
                views.resolution,
            ),
        }


class _FlatGrids(tf.keras.layers.Layer):
    """From pixels to the grids of all levels, flat, float32 [N, sum(grid^2 channels)]."""

    def __init__(self, maps: tf.keras.Model, frozen: FrozenBackbone) -> None:
        super().__init__(trainable=False, dtype="float32")
        self._maps = maps
        self._frozen = frozen

    def call(self, pixels: tf.Tensor) -> tf.Tensor:
        maps = self._maps(self._frozen.preprocess(pixels), training=False)
        flat = [
            tf.reshape(average_to_grid(each, level.grid), [-1, level.positions * each.shape[-1]])
            for each, level in zip(maps, LEVELS, strict=True)
        ]
        return tf.stop_gradient(tf.concat(flat, axis=1))


def average_to_grid(maps: tf.Tensor, grid: int) -> tf.Tensor:
    """Means over the cells of a grid; a pixel that two cells share counts by its share of each.

    Args:
        maps: [N, H, W, C] of any float type, with any H and W, also below `grid`.
        grid: cells on each side.

    Returns:
        float32 [N, grid, grid, C].
    """
    maps = tf.cast(maps, tf.float32)
    rows = tf.einsum("gh,nhwc->ngwc", _cell_weights(tf.shape(maps)[1], grid), maps)
    return tf.einsum("gw,nhwc->nhgc", _cell_weights(tf.shape(maps)[2], grid), rows)


def _cell_weights(pixels: tf.Tensor, cells: int) -> tf.Tensor:
    """The weight of each pixel of a row in each cell, float32 [cells, pixels], 1 in all."""
    length = tf.cast(pixels, tf.float32) / cells
    begin = tf.range(cells, dtype=tf.float32)[:, tf.newaxis] * length
    place = tf.cast(tf.range(pixels), tf.float32)
    overlap = tf.minimum(begin + length, place + 1.0) - tf.maximum(begin, place)
    return tf.maximum(overlap, 0.0) / length


def find_teacher_maps(backbone: tf.keras.Model, name: str) -> list[tf.Tensor]:
    """The last map at the stride of each level.

    Args:
        backbone: functional model from pixels [N, H, W, 3] with any H and W.
        name: of the teacher, for messages.

    Raises:
        UserError: where there is none, or the network is no functional model.
    """
    found: dict[int, tf.Tensor] = {}
    if getattr(backbone, "_is_graph_network", False):
        tensors = cut_tensors(backbone)
        for tensor, height in zip(tensors, map_heights(backbone, tensors), strict=True):
            if height is None:
                continue
            # Without their borders maps are a little smaller than the image over the stride.
            found[2 ** round(np.log2(MEASURED_SIDE / height))] = tensor
    missing = [str(level.stride) for level in LEVELS if level.stride not in found]
    if missing:
        strides = ", ".join(map(str, sorted(found))) or "none that can be told"
        raise UserError(
            f"--map_weight needs the teacher's maps at strides "
            f"{' and '.join(str(level.stride) for level in LEVELS)}, and --teacher={name} has none "
            f"at {' and '.join(missing)} (it has strides: {strides}). Give another --teacher, such "
            "as an EfficientNet-Lite, or --map_weight=0."
        )
    return [found[level.stride] for level in LEVELS]


@dataclass(frozen=True, eq=False)
class MapBasis:
    """The PCA of each level's map: its mean and first principal components.

    Attributes:
        means: float32 [channels] of each level.
        components: orthonormal columns, by falling variance, float32 [channels, D] of each level.
    """

    means: tuple[np.ndarray, ...]
    components: tuple[np.ndarray, ...]

    def project(self, grids: Sequence[np.ndarray]) -> np.ndarray:
        """Coordinates of all positions, level after level.

        Args:
            grids: float32 [B, grid^2, channels] of each level.

        Returns:
            float32 [B, P, D].
        """
        parts = zip(grids, self.means, self.components, strict=True)
        return np.concatenate([(grid - mean) @ matrix for grid, mean, matrix in parts], axis=1)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all numbers."""
        digest = hashlib.sha256()
        for each in (*self.means, *self.components):
            digest.update(np.ascontiguousarray(each, "<f4").tobytes())
        return digest.hexdigest()


def fit_basis(blocks: Iterable[Sequence[np.ndarray]], dimensions: int) -> MapBasis:
    """Fits the PCA of each level; no more than a block is in memory.

    Args:
        blocks: grids of some views each, float [n, grid^2, channels] of each level.
        dimensions: D, at most the channels of any level.
    """
    moments: list[list[Any]] = []
    for grids in blocks:
        rows = [grid.reshape(-1, grid.shape[-1]).astype(np.float64) for grid in grids]
        sums = [[len(each), each.sum(axis=0), each.T @ each] for each in rows]
        moments = _add(moments, sums) if moments else sums
    means, components = [], []
    for count, total, squares in moments:
        mean = total / count
        means.append(mean.astype(np.float32))
        components.append(_principal_components(squares / count - np.outer(mean, mean), dimensions))
    return MapBasis(tuple(means), tuple(components))


def _add(one: list[list[Any]], other: list[list[Any]]) -> list[list[Any]]:
    return [[a + b for a, b in zip(x, y, strict=True)] for x, y in zip(one, other, strict=True)]


def _principal_components(covariance: np.ndarray, dimensions: int) -> np.ndarray:
    """Float32 [channels, D]; of each column the largest value is positive, as signs are free."""
    _, vectors = np.linalg.eigh(covariance)
    chosen = vectors[:, ::-1][:, :dimensions]
    largest = chosen[np.abs(chosen).argmax(axis=0), np.arange(dimensions)]
    return (chosen * np.where(largest < 0, -1.0, 1.0)).astype(np.float32)


def store_basis(maps: TeacherMaps, views: TrainingViews, folder: Path) -> MapBasis:
    """The PCA of a sample of training views; computed once, by one of several processes.

    Args:
        maps: of the teacher.
        views: those that a sample of 5,000 is taken of, or all of them where there are fewer.
        folder: cache folder.

    Raises:
        UserError: if the disk is too full.
    """
    total = views.precomputed.total
    sample = min(total, _SAMPLE)
    order = np.random.default_rng([views.augmentation.seed, total])
    rows = np.sort(order.choice(total, sample, replace=False))
    height, width = sum(maps.channels), 1 + maps.dimensions

    def blocks() -> Iterator[list[np.ndarray]]:
        for start in range(0, sample, _BLOCK):
            chosen = views.precomputed.of_rows(rows[start : start + _BLOCK])
            yield maps.grids(views, chosen)

    def compute(start: int, stop: int) -> np.ndarray:
        del start, stop  # There is one block.
        basis = fit_basis(blocks(), maps.dimensions)
        columns = zip(basis.means, basis.components, strict=True)
        return np.concatenate([np.column_stack(each) for each in columns])

    key = {**maps.key(views), "dimensions": maps.dimensions, "sample": sample}
    stored = stored_array(folder, "maps-pca", key, (height, width), "float32", height, compute)
    parts = np.split(np.array(stored), np.cumsum(maps.channels)[:-1])
    return MapBasis(tuple(each[:, 0] for each in parts), tuple(each[:, 1:] for each in parts))


def store_maps(
    maps: TeacherMaps,
    basis: MapBasis,
    views: TrainingViews,
    folder: Path,
    shard: Shard | None = None,
) -> np.ndarray:
    """The reduced maps of every precomputed view; computes what is not stored yet.

    Args:
        maps: of the teacher.
        basis: of `store_basis`; it belongs to the key.
        views: R views.
        folder: cache folder.
        shard: computes this range of the rows alone; the others may be missing then.

    Returns:
        float16 [R, P, D], memory-mapped: positions of the first level row by row, then those of
        the second.

    Raises:
        UserError: if the disk is too full, or a value is not finite in float16; where a plugin's
            teacher does not give some of the stored maps any more.
    """
    name = f"maps-{views.resolution}px"
    key = {**maps.key(views), "pca": basis.fingerprint}

    def of_rows(rows: np.ndarray) -> np.ndarray:
        return basis.project(maps.grids(views, views.precomputed.of_rows(rows)))

    def compute(start: int, stop: int) -> np.ndarray:
        return as_float16(of_rows(np.arange(start, stop)), maps.teacher.name)

    return stored_array(
        folder,
        name,
        key,
        (views.precomputed.total, POSITIONS, maps.dimensions),
        "float16",
        _BLOCK,
        compute,
        shard,
        check=value_check(maps.teacher, array_path(folder, name, key), of_rows),
    )


@dataclass(frozen=True)
class TargetsWithMaps:
    """The teacher's outputs and, in batches, its maps (`data.targets.MapTargets`).

    Attributes:
        targets: all but the maps.
        maps: float16 [R, P, D] of `store_maps`.
        precomputed: which view each of the R rows is of.
    """

    targets: Targets
    maps: np.ndarray
    precomputed: PrecomputedViews

    @property
    def feature_size(self) -> int:
        """d_T."""
        return self.targets.feature_size

    @property
    def classes(self) -> int:
        """C."""
        return self.targets.classes

    @property
    def map_shape(self) -> tuple[int, int]:
        """(P, D)."""
        return self.maps.shape[1], self.maps.shape[2]

    def batch(self, views: Views) -> dict[str, np.ndarray]:
        """See `MapTargets`."""
        maps = self.maps[self.precomputed.rows(views)].astype(np.float32)
        return {**self.targets.batch(views), "teacher_maps": maps}

    def blocks(self) -> Iterator[dict[str, np.ndarray]]:
        """See `Targets.blocks`; without maps."""
        return self.targets.blocks()
