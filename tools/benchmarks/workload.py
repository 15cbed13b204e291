"""What the benchmarks run: images, stored teacher outputs and trainers, as a training has them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from candle_tf.data.augment.augmentation import Augmentation, make_augmentation
from candle_tf.data.augment.precomputed_views import PrecomputedViews, same_for_all
from candle_tf.data.augment.settings import AugmentSettings
from candle_tf.data.cached_arrays import stored_array
from candle_tf.data.images.store import ImageStore, image_key, open_image_store
from candle_tf.data.pipeline import training_batches
from candle_tf.data.sources.registry import open_source
from candle_tf.data.subset import Subset
from candle_tf.data.targets import Targets
from candle_tf.errors import UserError
from candle_tf.methods.balance import Balancer, TotalLoss
from candle_tf.methods.baselines import SupervisedTrainer
from candle_tf.methods.distillation import DistillationTrainer
from candle_tf.methods.feature_losses import CosineLoss, build_projector
from candle_tf.methods.optimizers import adam
from candle_tf.methods.parameter_groups import ParameterGroup
from candle_tf.methods.registry import METHODS
from candle_tf.methods.trainer import TOTAL_LOSS, Trainer
from candle_tf.students.architectures.registry import build_student
from candle_tf.students.compute_policy import (
    PLAIN,
    ComputePolicy,
    resolve_compute_policy,
    set_compute_policy,
)
from candle_tf.teachers.targets import CachedTargets

VIEWED = make_augmentation(AugmentSettings("pad_crop_flip"), seed=0)


@dataclass(frozen=True)
class Workload:
    """Images and the student that learns from them.

    Attributes:
        student: a name in `students.architectures.registry`.
        width: of its channels.
        image_size: side of its input in pixels.
        batch_size: images in a step.
        classes: C.
        steps: steps of a timed part.
        feature_size: d_T; 1,280 of EfficientNet-Lite0.
        precision: as --precision of a training.
        kernels: as --kernels of a training.
    """

    student: str = "reactnet_a"
    width: float = 1.0
    image_size: int = 64
    batch_size: int = 64
    classes: int = 101
    steps: int = 3
    feature_size: int = 1280
    precision: str = "auto"
    kernels: str = "auto"

    @property
    def images(self) -> int:
        """Images of a timed part."""
        return self.batch_size * self.steps

    @property
    def compute_policy(self) -> ComputePolicy:
        """Of a training step, without XLA."""
        return resolve_compute_policy(self.precision, "off", kernels=self.kernels)


def noise_subset(count: int, classes: int, side: int, seed: int = 0) -> Subset:
    """Images of noise, uint8 `[count, side, side, 3]`, and labels in turn."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, side, side, 3), np.uint8)
    ids = [f"noise/{seed}/{row}" for row in range(count)]
    keys = np.array([image_key(image_id) for image_id in ids], np.int64)
    rows = {image_id: row for row, image_id in enumerate(ids)}
    images = ImageStore(pixels, keys, rows, f"noise {seed} {pixels.shape}")
    return Subset(images, np.arange(count), np.arange(count, dtype=np.int32) % classes)


def from_folder(data_dir: str, count: int, side: int, folder: Path) -> Subset:
    """The first training images of a folder or archive, in its order.

    Raises:
        UserError: where it holds fewer, or cannot be read.
    """
    with open_source("folder", data_dir) as source:
        if len(source.train.ids) < count:
            raise UserError(
                f"--data_dir={data_dir} holds {len(source.train.ids)} training images; the "
                f"benchmark takes {count}. Give a larger set, or none for generated images."
            )
        ids = source.train.ids[:count]
        images = open_image_store(source, ids, side, folder)
    return Subset(images, images.rows_of(ids), source.train.labels[:count])


def random_targets(load: Workload, precomputed: PrecomputedViews, folder: Path) -> CachedTargets:
    """Targets of the right size in memory maps; their values do not change the time."""
    rng = np.random.default_rng(0)

    def open_random(name: str, size: int) -> np.ndarray:
        return stored_array(
            folder,
            name,
            {"random": size, **precomputed.key()},
            (precomputed.total, size),
            "float16",
            512,
            lambda start, stop: rng.gamma(1.0, 1.0, (stop - start, size)),
        )

    features, logits = (
        open_random("features", load.feature_size),
        open_random("logits", load.classes),
    )
    return CachedTargets(features, logits, precomputed)


def distillation(load: Workload) -> Trainer:
    """CANDLE's trainer of the student, with the balancer."""
    student = new_student(load)
    projector, balancer = build_projector(student, load.feature_size), Balancer()
    learners = student.trainable_variables + projector.trainable_variables
    return DistillationTrainer(
        student,
        load.classes,
        [
            ParameterGroup(learners, adam(1e-3)),
            ParameterGroup(balancer.trainable_variables, adam(1e-3), maximize=True),
        ],
        projector=projector,
        balancer=balancer,
        feature_loss=CosineLoss(np.zeros(load.feature_size)),
        total_loss=TotalLoss(entropy_weight=1.0),
        temperature=2.0,
    )


def cross_entropy(load: Workload) -> Trainer:
    """The same student trained on labels alone."""
    return _supervised_trainer(load, new_student(load), adam(1e-3))


def new_student(load: Workload) -> tf.keras.Model:
    """The student with new weights, at the workload's precision and kernels."""
    shape = (load.image_size, load.image_size, 3)
    student = build_student(load.student, shape, load.classes, width=load.width)
    set_compute_policy(student, load.compute_policy)
    return student


def plain_cross_entropy(load: Workload) -> Trainer:
    """The same training written plainly: larq's layers, TensorFlow's operators, Keras's Adam."""
    student = new_student(load)
    set_compute_policy(student, PLAIN)
    return _supervised_trainer(load, student, tf.keras.optimizers.Adam(1e-3, jit_compile=False))


def _supervised_trainer(load: Workload, student: tf.keras.Model, optimizer: Any) -> Trainer:
    counts = np.ones(load.classes, np.int64)
    group = ParameterGroup(student.trainable_variables, optimizer)
    return SupervisedTrainer(student, METHODS["cross_entropy"], counts, [group])


def batches_of(
    load: Workload,
    examples: Subset,
    augmentation: Augmentation = VIEWED,
    *,
    first_epoch: int = 0,
    epochs: int = 1,
    precomputed: PrecomputedViews | None = None,
    targets: Targets | None = None,
) -> tf.data.Dataset:
    """The batches that a training of the workload takes; see `pipeline.training_batches`."""
    return training_batches(
        examples,
        image_size=load.image_size,
        augmentation=augmentation,
        batch_size=load.batch_size,
        seed=0,
        first_epoch=first_epoch,
        epochs=epochs,
        precomputed=precomputed,
        targets=targets,
    )


def one_epoch(
    load: Workload, examples: Subset, trainer: Trainer, targets: Targets | None = None
) -> Callable[[], None]:
    """An epoch of training as `fit` runs it, input pipeline included and callbacks left out.

    The batches of each call begin and end with it: none is made ahead while something else is
    timed.
    """
    precomputed = same_for_all(len(examples), 4) if targets else None
    batches = batches_of(load, examples, precomputed=precomputed, targets=targets)
    step = trainer.make_train_function()
    count = len(examples) // load.batch_size

    def run() -> None:
        iterator = iter(batches)
        for _ in range(count):
            logs = step(iterator)
        float(logs[TOTAL_LOSS])

    return run
