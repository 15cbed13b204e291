"""Pretrains a binary student on unlabelled images, from a frozen teacher's features.

pretrained = pretrain(Pretraining(data_dir="images.zip", run_dir="runs/pretrained"))

A stopped call is resumed by the same one. A call with more epochs continues from the last epoch
before the learning rate began to fall.
"""

import contextlib
import dataclasses
import hashlib
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from candle_tf.data.augment.augmentation import WHOLE, Augmentation, make_augmentation
from candle_tf.data.augment.precomputed_views import same_for_all
from candle_tf.data.augment.settings import AugmentSettings
from candle_tf.data.epoch_steps import steps_per_epoch
from candle_tf.data.pipeline import (
    EVALUATION_BATCH,
    evaluation_batches,
    training_batches,
)
from candle_tf.data.subset import Subset
from candle_tf.distribute import Workers, open_workers
from candle_tf.errors import UserError
from candle_tf.files import write_atomically
from candle_tf.methods.annealing import find_annealed_quantizers
from candle_tf.methods.checkpoints import Checkpoints
from candle_tf.methods.pretraining import (
    FeatureProjector,
    PretrainingTrainer,
    WarmupConstantDecay,
    build_pretraining_groups,
    feature_moments,
)
from candle_tf.methods.training_loop import fit
from candle_tf.metrics import SCORE
from candle_tf.run_folder import versions
from candle_tf.stages.pretrain_data import PretrainingData, open_images
from candle_tf.stages.pretrain_epochs import refuse_epochs, rewind, student_folder
from candle_tf.stages.pretrain_record import (
    Beginning,
    keep_precision,
    read_beginning,
    refuse_other_teacher,
    write_beginning,
)
from candle_tf.stages.pretrain_settings import (
    Pretraining,
    open_pretraining,
    write_pretraining,
)
from candle_tf.stages.replica_shares import refuse_batch
from candle_tf.students.analysis.preflight import refuse_unconvertible
from candle_tf.students.compute_policy import (
    ComputePolicy,
    resolve_compute_policy,
    set_compute_policy,
)
from candle_tf.students.layers.sync_batch_norm import synchronize_batch_norm
from candle_tf.students.weights.packed import pack
from candle_tf.students.weights.spec import StudentSpec
from candle_tf.teachers.backbones import Teacher, load_teacher
from candle_tf.teachers.features import cached_features, scale_parts
from candle_tf.teachers.source_classes import SourceTargets, source_classifier

WEIGHTS_NAME, CARD_NAME = "student.safetensors", "student.json"
# The student's own classifier is not trained, and not saved.
_ANY_CLASSES = 2


@dataclass(frozen=True)
class Pretrained:
    """What a pretraining wrote.

    Attributes:
        weights: the packed weights of the best epoch.
        card: JSON beside it: data, teacher, settings, epochs, hours, figures and SHA-256.
        epoch: the best one, counted from 1.
        accuracy: on held-out images, of the teacher's own classes, mean over classes, in 0..1.
    """

    weights: Path
    card: Path
    epoch: int
    accuracy: float


def pretrain(settings: Pretraining) -> Pretrained:
    """Computes the teacher's features, trains the student, and writes its packed weights.

    Raises:
        UserError: for data or settings that cannot be used, or not by so many devices, images
            shared with a test set, a damaged checkpoint, or a training that diverged.
    """
    workers = open_workers(settings.strategy)
    tf.keras.utils.set_random_seed(settings.seed)
    # As in `stages.run`: a resumed training is the one that was not interrupted.
    tf.config.experimental.enable_op_determinism()
    with workers.end_together():
        policy = resolve_compute_policy(
            settings.precision, settings.xla, kernels=settings.kernels, replicas=workers.replicas
        )
        refuse_batch(f"--batch_size={settings.batch_size}", settings.batch_size, workers.replicas)
        # Before all images are decoded; and here, as the check reads variables of one device.
        _refuse_student(settings)
        teacher = load_teacher(
            settings.teacher, settings.teacher_weights, settings.teacher_weights_sha256
        )
        tf.keras.utils.set_random_seed(settings.seed)
        lock, before = open_pretraining(settings) if workers.is_chief else (None, None)
        with lock or contextlib.nullcontext():
            workers.refuse_other_folder(Path(settings.run_dir))
            refuse_epochs(settings, before)
            return _pretrain(settings, before, teacher, policy, workers)


def _pretrain(
    settings: Pretraining,
    before: Pretraining | None,
    teacher: Teacher,
    policy: ComputePolicy,
    workers: Workers,
) -> Pretrained:
    begun = read_beginning(settings)
    refuse_other_teacher(settings, teacher.fingerprint, begun)
    policy = keep_precision(settings, policy, begun)
    data = open_images(settings, begun, workers.replicas)
    teacher = scale_parts(teacher, data.train, settings.teacher_size, settings.cache_path)
    trainer, checkpoints = _train(settings, data, teacher, before, policy, workers)
    checkpoints.restore(checkpoints.best_epoch)
    student = trainer.network
    if workers.replicas > 1:
        # In variables of this process alone; all workers read what they hold together.
        weights = student.get_weights()
        student = _build_student(settings)
        student.set_weights(weights)
    return _write(settings, data, teacher, student, checkpoints, workers)


def _train(
    settings: Pretraining,
    data: PretrainingData,
    teacher: Teacher,
    before: Pretraining | None,
    policy: ComputePolicy,
    workers: Workers,
) -> tuple[PretrainingTrainer, Checkpoints]:
    augmentation = make_augmentation(AugmentSettings(settings.augmentation), settings.seed)
    targets, heldout = _targets(settings, data, teacher, augmentation)
    steps = steps_per_epoch(len(data.train), settings.batch_size)
    if settings.warmup_steps > settings.epochs * steps:
        logging.warning(
            "--warmup_steps=%d is more than the %d steps of the whole training: the learning rate "
            "never reaches --learning_rate",
            *(settings.warmup_steps, settings.epochs * steps),
        )
    with workers.scope():
        trainer = _build_trainer(settings, targets, steps, policy, workers)
    if workers.is_chief:
        rewind(settings, before)
        # Only now: killed before it, the same command goes back all the same.
        write_pretraining(settings)
        begun = Beginning(data.contents, teacher.fingerprint, policy.dtype)
        write_beginning(settings, begun)
    workers.wait_for_all()
    from_epoch = partial(
        training_batches,
        data.train,
        image_size=settings.image_size,
        augmentation=augmentation,
        batch_size=settings.batch_size,
        seed=settings.seed,
        epochs=settings.epochs,
        precomputed=targets.precomputed,
        targets=targets,
    )
    checkpoints = fit(
        trainer,
        lambda first_epoch: workers.distribute(partial(from_epoch, first_epoch=first_epoch)),
        steps=steps,
        epochs=settings.epochs,
        folder=student_folder(settings),
        validation=workers.distribute(
            partial(evaluation_batches, heldout, image_size=settings.image_size)
        ),
        validation_steps=workers.share.steps(len(heldout), EVALUATION_BATCH),
        keep=[settings.constant_epochs],
        workers=workers,
    )
    return trainer, checkpoints


def _refuse_student(settings: Pretraining) -> None:
    student = _build_student(settings)
    if find_annealed_quantizers(student):
        raise UserError(
            f"--student={settings.student} cannot be pretrained: its binary weights are annealed "
            "over the epochs, which a training that can be continued with more --epochs has no "
            "fixed number of. Give another --student; candle_tf.train trains this one."
        )
    refuse_unconvertible(student)


def _build_student(settings: Pretraining) -> tf.keras.Model:
    return _spec(settings).build(settings.image_size, _ANY_CLASSES)


def _build_trainer(
    settings: Pretraining,
    targets: SourceTargets,
    steps: int,
    policy: ComputePolicy,
    workers: Workers,
) -> PretrainingTrainer:
    student = _build_student(settings)
    set_compute_policy(student, policy)
    if workers.replicas > 1:
        synchronize_batch_norm(student)
    mean, variance = feature_moments(targets.features)
    projector = FeatureProjector(mean, variance, settings.seed)
    projector.build(student.output["features"].shape)
    return PretrainingTrainer(
        student,
        (targets.kernel, targets.bias),
        build_pretraining_groups(student, projector, _rate(settings, steps)),
        projector=projector,
        feature_variance=variance,
        temperature=settings.temperature,
        feature_weight=settings.feature_weight,
        xla=policy.xla,
    )


def _targets(
    settings: Pretraining, data: PretrainingData, teacher: Teacher, augmentation: Augmentation
) -> tuple[SourceTargets, Subset]:
    """What is learned, and the held-out images with the teacher's class of each as its label."""
    size, cache = settings.teacher_size, settings.cache_path
    precomputed = same_for_all(len(data.train), settings.views)
    features = cached_features(teacher, data.train, augmentation, precomputed, size, cache)
    kernel, bias = source_classifier(teacher.parts, lambda: features, settings.seed)
    once = same_for_all(len(data.heldout))
    whole = cached_features(teacher, data.heldout, WHOLE, once, size, cache)
    labels = np.argmax(whole.astype(np.float32) @ kernel + bias, axis=1).astype(np.int32)
    targets = SourceTargets(features, kernel, bias, precomputed)
    return targets, dataclasses.replace(data.heldout, labels=labels)


def _spec(settings: Pretraining) -> StudentSpec:
    return StudentSpec(settings.student, settings.width, settings.stem_stride)


def _rate(settings: Pretraining, steps: int) -> WarmupConstantDecay:
    return WarmupConstantDecay(
        settings.learning_rate,
        settings.warmup_steps,
        settings.constant_epochs * steps,
        settings.epochs * steps,
    )


def _write(
    settings: Pretraining,
    data: PretrainingData,
    teacher: Teacher,
    student: tf.keras.Model,
    checkpoints: Checkpoints,
    workers: Workers,
) -> Pretrained:
    """Packed weights and their card, which the chief writes."""
    folder, epoch = Path(settings.run_dir), checkpoints.best_epoch
    row = checkpoints.history[epoch - 1]
    done = Pretrained(folder / WEIGHTS_NAME, folder / CARD_NAME, epoch, row[SCORE])
    if not workers.is_chief:
        return done
    packed = pack(student, _spec(settings), facts={"teacher": settings.teacher})
    write_atomically(folder / WEIGHTS_NAME, packed)
    card = {
        "file": WEIGHTS_NAME,
        "sha256": hashlib.sha256(packed).hexdigest(),
        "bytes": len(packed),
        **_describe(settings, data, teacher),
        "epoch": epoch,
        "images_seen": epoch * steps_per_epoch(len(data.train), settings.batch_size)
        * min(settings.batch_size, len(data.train)),
        "hours": round(sum(past["seconds"] for past in checkpoints.history[:epoch]) / 3600, 2),
        "figures": {name: value for name, value in row.items() if name != "seconds"},
        "versions": versions(),
    }  # fmt: skip
    text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
    write_atomically(folder / CARD_NAME, text.encode())
    return done


def _describe(settings: Pretraining, data: PretrainingData, teacher: Teacher) -> dict[str, Any]:
    places = ("data_dir", "test_data_dir", "train_list", "run_dir", "cache_dir", "teacher_weights")
    defaults = Pretraining()
    given = {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(settings)
        if field.name not in places
        and getattr(settings, field.name) != getattr(defaults, field.name)
    }
    flags = " ".join(f"--{name}={value}" for name, value in given.items() if name != "data_license")
    return {
        "student": dataclasses.asdict(_spec(settings)),
        "image_size": settings.image_size,
        "data": {
            "name": Path(settings.data_dir).name or settings.dataset,
            "images": len(data.train) + len(data.heldout),
            "heldout": len(data.heldout),
            "content_sha256": data.contents.tokens,
            "license": settings.data_license,
        },
        "teacher": {"name": settings.teacher, "fingerprint": teacher.fingerprint},
        "command": f"python -m candle_tf.pretrain --data_dir=<images> {flags}".rstrip(),
    }
