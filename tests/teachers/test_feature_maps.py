"""The teacher's maps: which ones, their grids, their PCA, and what is cached."""

import candle_tf  # noqa: F401  (selects Keras 2 before TensorFlow is imported)

# isort: split
import numpy as np
import pytest
import tensorflow as tf

from candle_tf.data.augment.augmentation import make_augmentation
from candle_tf.data.augment.precomputed_views import PrecomputedViews
from candle_tf.data.augment.settings import AugmentSettings
from candle_tf.data.augment.views import Views
from candle_tf.data.cached_arrays import Shard
from candle_tf.data.images.store import ImageStore, image_key
from candle_tf.data.subset import Subset
from candle_tf.data.targets import MapTargets
from candle_tf.errors import UserError
from candle_tf.teachers.backbones import FrozenBackbone, Teacher, load_teacher
from candle_tf.teachers.feature_maps import (
    TargetsWithMaps,
    TeacherMaps,
    TrainingViews,
    average_to_grid,
    find_teacher_maps,
    fit_basis,
    store_basis,
    store_maps,
)
from candle_tf.teachers.targets import CachedTargets
from candle_tf.weight_files.checksums import fingerprint

COUNT, SIDE, RESOLUTION = 40, 70, 64


def strided_backbone(seed: int = 0) -> tf.keras.Model:
    """Stride 32 in five convolutions, with a block of two branches after stride 16."""
    tf.keras.utils.set_random_seed(seed)
    layers = tf.keras.layers
    x = pixels = tf.keras.Input((None, None, 3))
    for number in range(3):
        x = layers.Conv2D(8, 3, 2, "same", activation="relu", name=f"conv{number}")(x)
    x = layers.Conv2D(9, 3, 2, "same", activation="relu", name="at_16")(x)
    padded = layers.ZeroPadding2D(1, name="pad")(x)
    branch = layers.Conv2D(7, 3, padding="valid", name="branch_at_16")(padded)
    branch = layers.Conv2D(12, 3, 2, "same", name="branch")(branch)
    shortcut = layers.Conv2D(12, 1, 2, "same", name="shortcut")(x)
    x = layers.Add(name="at_32")([branch, shortcut])
    return tf.keras.Model(pixels, x)


def strided_teacher(seed: int = 0) -> Teacher:
    backbone = strided_backbone(seed)
    pixels = tf.keras.Input((None, None, 3))
    features = FrozenBackbone(backbone, lambda x: x / 255.0)(pixels)
    encoder = tf.keras.Model(pixels, features)
    return Teacher("strided", encoder, 12, fingerprint(encoder))


@pytest.fixture(scope="module")
def views():
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3), np.uint8)
    ids = [f"train/a/{row}.png" for row in range(COUNT)]
    keys = np.array([image_key(image_id) for image_id in ids], np.int64)
    images = ImageStore(pixels, keys, {name: row for row, name in enumerate(ids)}, "digest")
    subset = Subset(images, np.arange(COUNT)[::-1].copy(), np.zeros(COUNT, np.int32))
    augmentation = make_augmentation(AugmentSettings("pad_crop_flip"), 0)
    counts = np.resize([1, 2, 3], COUNT)
    return TrainingViews(subset, augmentation, PrecomputedViews(counts), RESOLUTION)


def cell_means(maps: np.ndarray, grid: int) -> np.ndarray:
    """Means over cells, by repeating each pixel until cells are whole numbers of pixels."""
    fine = maps.repeat(grid, axis=1).repeat(grid, axis=2)
    size, height, width, channels = fine.shape
    cells = fine.reshape(size, grid, height // grid, grid, width // grid, channels)
    return cells.mean(axis=(2, 4))


@pytest.mark.parametrize("sides", [(8, 8), (6, 10), (3, 5), (4, 4), (2, 1)])
def test_a_pixel_that_cells_share_counts_by_its_share(sides):
    maps = np.random.default_rng(1).normal(size=(2, *sides, 3)).astype(np.float32)
    for grid in (4, 2):
        actual = average_to_grid(tf.constant(maps), grid)
        np.testing.assert_allclose(actual, cell_means(maps, grid), rtol=0, atol=1e-6)


def test_the_last_maps_that_all_paths_pass_are_found():
    found = find_teacher_maps(strided_backbone(), "strided")
    assert [tensor.node.layer.name for tensor in found] == ["at_16", "at_32"]


def test_the_maps_of_the_offline_teacher_are_those_it_pools():
    teacher = load_teacher("efficientnet_lite0")
    maps = TeacherMaps.of(teacher)
    assert (maps.channels, maps.dimensions) == ((672, 1280), 64)
    pixels = np.random.default_rng(2).uniform(0, 255, (2, 128, 128, 3)).astype(np.float32)
    flat = maps.flat.features(pixels).numpy()
    assert flat.shape == (2, 16 * 672 + 4 * 1280)
    # Cells of 2x2 of 4x4 pixels: their mean is that of all pixels.
    pooled = flat[:, 16 * 672 :].reshape(2, 4, 1280).mean(axis=1)
    np.testing.assert_allclose(pooled, teacher.features(pixels), rtol=0, atol=1e-5)


def _without_strides() -> tf.keras.Model:
    pixels = tf.keras.Input((None, None, 3))
    return tf.keras.Model(pixels, tf.keras.layers.Conv2D(4, 3, 2, "same")(pixels))


class _Subclass(tf.keras.Model):
    def call(self, pixels):
        return pixels


@pytest.mark.parametrize(
    ("backbone", "found"), [(_without_strides, "strides: 2"), (_Subclass, "none that can be told")]
)
def test_a_backbone_without_the_strides_is_refused(backbone, found):
    with pytest.raises(UserError) as caught:
        find_teacher_maps(backbone(), "mine")
    for words in ("--map_weight", "--teacher=mine has none at 16 and 32", found):
        assert words in str(caught.value)


def test_the_pca_is_that_of_a_singular_value_decomposition():
    rng = np.random.default_rng(3)
    grids = [
        (rng.normal(size=(50, positions, 9)) @ rng.normal(size=(9, 9)) + 3).astype(np.float32)
        for positions in (16, 4)
    ]
    blocks = [[grid[start : start + 20] for grid in grids] for start in (0, 20, 40)]
    basis = fit_basis(blocks, 5)
    projected = basis.project(grids)
    assert projected.shape == (50, 20, 5)
    for level, (grid, part) in enumerate(zip(grids, np.split(projected, [16], 1), strict=True)):
        rows = grid.reshape(-1, 9).astype(np.float64)
        centred = rows - rows.mean(axis=0)
        _, _, directions = np.linalg.svd(centred, full_matrices=False)
        wanted = centred @ directions[:5].T
        actual = part.reshape(-1, 5)
        # A component's sign is free, but the same every time.
        signs = np.sign((actual * wanted).sum(axis=0))
        np.testing.assert_allclose(actual, wanted * signs, rtol=0, atol=1e-3)
        largest = np.abs(basis.components[level]).argmax(axis=0)
        assert (basis.components[level][largest, np.arange(5)] > 0).all()


def test_stored_maps_are_the_projected_grids_of_the_views(views, tmp_path):
    maps = TeacherMaps.of(strided_teacher())
    basis = store_basis(maps, views, tmp_path)
    stored = store_maps(maps, basis, views, tmp_path)
    assert stored.shape == (views.precomputed.total, 20, 9)
    assert stored.dtype == np.float16
    backbone = strided_backbone()
    outputs = [backbone.get_layer(name).output for name in ("at_16", "at_32")]
    reference = tf.keras.Model(backbone.input, outputs)
    for row in (0, 1, 5, 30, len(stored) - 1):
        chosen = views.precomputed.of_rows(np.array([row]))
        pixels = views.augmentation.render(
            views.augmentation.draw(views.subset, chosen), RESOLUTION
        )
        grids = [
            cell_means(each.numpy(), grid).reshape(1, grid**2, -1)
            for each, grid in zip(reference(pixels / 255.0), (4, 2), strict=True)
        ]
        wanted = [
            (grid - mean) @ matrix
            for grid, mean, matrix in zip(grids, basis.means, basis.components, strict=True)
        ]
        wanted = np.concatenate(wanted, axis=1)[0]
        np.testing.assert_allclose(stored[row], wanted, rtol=2e-3, atol=2e-3)


def test_maps_and_pca_are_computed_once_and_shards_are_the_whole(views, tmp_path):
    maps = TeacherMaps.of(strided_teacher())
    basis = store_basis(maps, views, tmp_path)
    for number in (1, 2):
        store_maps(maps, basis, views, tmp_path, Shard(number, 2))
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.npy")}
    assert sorted(name.split("-")[1] for name in before) == ["64px", "pca"]
    again = store_basis(maps, views, tmp_path)
    whole = store_maps(maps, again, views, tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.npy")} == before
    other = store_maps(maps, basis, views, tmp_path / "other")
    np.testing.assert_array_equal(whole, other)


@pytest.mark.parametrize("changed", ["teacher", "resolution", "views", "pca"])
def test_what_maps_depend_on_is_in_their_key(views, tmp_path, changed):
    maps = TeacherMaps.of(strided_teacher())
    basis = store_basis(maps, views, tmp_path)
    store_maps(maps, basis, views, tmp_path)
    other, precomputed, resolution = maps, views.precomputed, RESOLUTION
    if changed == "teacher":
        other = TeacherMaps.of(strided_teacher(seed=1))
    elif changed == "resolution":
        resolution = 80
    elif changed == "views":
        precomputed = PrecomputedViews(np.resize([3, 2, 1], COUNT))
    else:
        basis = fit_basis([[rng_grid(16, 9), rng_grid(4, 12)]], 9)
    again = TrainingViews(views.subset, views.augmentation, precomputed, resolution)
    store_maps(other, basis, again, tmp_path)
    assert len(list(tmp_path.glob("maps-*px-*.npy"))) == 2


def rng_grid(positions: int, channels: int) -> np.ndarray:
    return np.random.default_rng(4).normal(size=(8, positions, channels))


def test_a_batch_holds_the_maps_of_its_views(views):
    rng = np.random.default_rng(5)
    maps = rng.normal(size=(views.precomputed.total, 20, 9)).astype(np.float16)
    outputs = rng.normal(size=(COUNT, 6)).astype(np.float16)
    # Pooled features may be of other views: here one of each image.
    once = PrecomputedViews(np.ones(COUNT, np.int64))
    targets = TargetsWithMaps(CachedTargets(outputs, outputs, once), maps, views.precomputed)
    assert isinstance(targets, MapTargets)
    assert (targets.feature_size, targets.classes, targets.map_shape) == (6, 6, (20, 9))
    # Image 4 has 2 views, image 8 has 3, and numbers wrap; rows of the maps count both.
    batch = targets.batch(Views(np.array([4, 8, 4]), np.array([1, 5, 2])))
    offsets = np.concatenate([[0], np.cumsum(np.resize([1, 2, 3], COUNT))])
    rows = [offsets[4] + 1, offsets[8] + 2, offsets[4]]
    np.testing.assert_array_equal(batch["teacher_maps"], maps[rows].astype(np.float32))
    np.testing.assert_array_equal(batch["teacher_logits"], outputs[[4, 8, 4]].astype(np.float32))
