"""What a name of `registry.METHODS` may stand for, beyond a plain loss on labels.

A plain loss is a function (logits `[B, C]`, labels `[B]`, training counts `[C]`) -> `[B]`. A method
that has settings, changes during training, learns from a teacher or has a second stage is one of
the classes below, an attribute of its own file, and one line in the registry.

What a run has to know of a method is a field of these classes, with a default. So a loss that
favours rare classes, which a run has to know, is a `LabelMethod`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from candle_tf.methods.long_tail.settings import BaselineSettings

# (logits [B, C], labels [B], fraction of the training that is done, float scalar) -> [B]
StepLoss = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]
# (logits [B, C], labels [B], cosines [B, A] between each example's projected features and A others,
# their labels [A], which of them count for which example, bool [B, A]) -> [B]
ContrastiveLoss = Callable[[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]
# Settings -> whether the loss favours rare classes by their training images, as a sampler does in
# its own way; None for one that never does.
Corrects = Callable[[BaselineSettings], bool] | None
# () -> features float [N, d_S] and labels int [N] of the validation images; N may be 0.
Validation = Callable[[], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Classifier:
    """A linear classifier: logits = features @ kernel + bias.

    Attributes:
        kernel: float `[d_S, C]`.
        bias: float `[C]`.
    """

    kernel: np.ndarray
    bias: np.ndarray


# (settings, training counts [C], the trained classifier, validation) -> the one to be exported
Adjustment = Callable[[BaselineSettings, np.ndarray, Classifier, Validation], Classifier]


@dataclass(frozen=True)
class LabelMethod:
    """A method that learns from labels alone.

    Attributes:
        build_loss: (settings, training counts int `[C]`) -> `StepLoss`.
        cosine: whether the loss is given cosines between features and class weights for logits.
        adjust: changes the classifier of a finished epoch, before it is measured or exported.
        validation_scale: settings -> what validation multiplies cosines by, above 0, so that its
            cross-entropy is of logits as the loss makes them; None for 1.
        corrects_class_sizes: see `Corrects`.
    """

    build_loss: Callable[[BaselineSettings, np.ndarray], StepLoss]
    cosine: bool = False
    adjust: Adjustment | None = None
    validation_scale: Callable[[BaselineSettings], float] | None = None
    corrects_class_sizes: Corrects = None


@dataclass(frozen=True)
class DistillationLosses:
    """The losses of one distillation from logits; each gives `[B]`.

    Attributes:
        of_labels: (logits `[B, C]`, labels `[B]`).
        of_teacher: (teacher logits `[B, C]`, student logits `[B, C]`).
        label_weight: of the first, in [0, 1]; the second has the rest.
    """

    of_labels: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    of_teacher: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    label_weight: float


@dataclass(frozen=True)
class DistillationMethod:
    """A method that learns from a teacher's logits.

    Attributes:
        build_losses: (settings, temperature T > 0, training counts int `[C]`) -> the losses.
        corrects_class_sizes: see `Corrects`.
        needs_all_logits: settings -> what the loss is computed of, for the message, where the
            highest logits and the probability of the rest together (--teacher_top_k) do not do;
            "" where they do. None where they always do.
    """

    build_losses: Callable[[BaselineSettings, float, np.ndarray], DistillationLosses]
    corrects_class_sizes: Corrects = None
    needs_all_logits: Callable[[BaselineSettings], str] | None = None
    distils = True
    has_label_loss = True


@dataclass(frozen=True)
class Contrast:
    """One contrastive training.

    Attributes:
        loss: see `ContrastiveLoss`.
        queue_length: how many keys of earlier batches are kept, at least 1.
        momentum: m of the momentum encoder, in [0, 1).
    """

    loss: ContrastiveLoss
    queue_length: int
    momentum: float


@dataclass(frozen=True)
class ContrastiveMethod:
    """A method that learns from labels and from two views of each image, by a momentum encoder.

    Attributes:
        build: (settings, training counts int `[C]`) -> what is contrasted, and how.
        corrects_class_sizes: see `Corrects`.
    """

    build: Callable[[BaselineSettings, np.ndarray], Contrast]
    corrects_class_sizes: Corrects = None
    contrasts = True


@dataclass(frozen=True)
class TwoStageMethod:
    """A method that trains the classifier once more, on the frozen network of a first stage.

    The second stage samples all classes alike.

    Attributes:
        first: the first stage's name in `registry.METHODS`.
        loss: the second stage's name in `registry.CALIBRATION_LOSSES`.
        scale_only: learns one factor per class and keeps the first stage's classifier; otherwise a
            new classifier is learned.
        distils: whether the first stage learns from a teacher.
    """

    first: str
    loss: str
    scale_only: bool = False
    distils: bool = False
