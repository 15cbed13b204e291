"""Distillation of a calibrated teacher into a binary student, balanced by an adversary (CANDLE).

One step, on a batch that carries the teacher's outputs:

    kl = logit loss of teacher logits and student logits                        of each example
    fs = feature loss of projector(student features) and teacher features       of each example
    L  = total loss of kl, fs and lambda           lambda = balancer(noise of this step, class)
    student, classifier, projector minimize L; the balancer maximizes it.

Options: a loss on labels with weight w, (1 - w) L + w loss; losses on feature maps, added with a
weight that falls to 0 (`map_loss`); and a tied classifier, where the student's logits are the
teacher's classifier on projected features (`TiedHead`).

The logit loss is the paper's KL or another of `logit_losses`; the feature loss is its cosine or
another of `feature_losses`. The teacher itself is not
here, only its outputs, so no gradient can reach it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from candle_tf.methods import losses
from candle_tf.methods.balance import TotalLoss, balance_without_adversary
from candle_tf.methods.baselines import label_losses
from candle_tf.methods.feature_losses import FeatureLoss
from candle_tf.methods.label_loss import LabelLoss
from candle_tf.methods.map_loss import MapLoss
from candle_tf.methods.parameter_groups import ParameterGroup, build_parameter_groups
from candle_tf.methods.registry import LOGIT_LOSSES
from candle_tf.methods.settings import BalanceSettings, OptimizerSettings
from candle_tf.methods.trainer import TOTAL_LOSS, Batch, Trainer


@dataclass(frozen=True, eq=False)
class TiedHead:
    """The teacher's frozen classifier as the student's: z = W p(e_S) + b, for an affine p.

    One dense layer computes the same, so nothing is added on the device. Source: SimKD (Chen et
    al., CVPR 2022), whose projector is not linear and stays in the student.

    Attributes:
        kernel: W, float32 `[d_T, C]`.
        bias: b, float32 `[C]`.
    """

    kernel: np.ndarray
    bias: np.ndarray

    def logits(self, projected: tf.Tensor) -> tf.Tensor:
        """Float `[B, C]` of projected features `[B, d_T]`."""
        return tf.matmul(projected, tf.constant(self.kernel)) + tf.constant(self.bias)

    def fold(
        self, projector: tf.keras.layers.Layer, feature_size: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Kernel `[d_S, C]` and bias `[C]` of the dense layer that is projector and head in one.

        Args:
            projector: affine, from `[B, d_S]` to `[B, d_T]`.
            feature_size: d_S.
        """
        inputs = np.concatenate([np.zeros([1, feature_size]), np.eye(feature_size)])
        projected = projector(tf.constant(inputs, tf.float32)).numpy().astype(np.float64)
        origin, directions = projected[0], projected[1:] - projected[0]
        return directions @ self.kernel, origin @ self.kernel + self.bias


class FoldHead(tf.keras.callbacks.Callback):
    """Writes the tied head into the student's classifier at the end of each epoch."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        self.model.fold_head()


def tied_head(classifier: tf.keras.Model) -> TiedHead:
    """The head that a calibrated linear classifier is.

    Args:
        classifier: from features `[B, d_T]` to "logits" `[B, C]`, affine.
    """
    size = classifier.input_shape[-1]
    inputs = np.concatenate([np.zeros([1, size]), np.eye(size)]).astype(np.float32)
    logits = classifier(inputs, training=False)["logits"].numpy()
    return TiedHead(logits[1:] - logits[0], logits[0])


class DistillationTrainer(Trainer):
    """CANDLE's second stage.

    Batches hold "inputs" and "labels", and the teacher's outputs: "teacher_features" float
    `[B, d_T]` and "teacher_logits" float `[B, C]`. Where only some images have labels, "labelled"
    bool `[B]` says which. With a loss on maps, there are "teacher_maps" float `[B, P, D]`.

    Args:
        student: from pixels to "features" `[B, d_S]` and "logits" `[B, C]`.
        classes: C.
        parameter_groups: of student, projector and balancer.
        projector: from student features to `[B, d_T]`, built by the feature loss.
        balancer: built by the total loss, or a fixed one.
        feature_loss: (projected `[B, d_T]`, teacher features `[B, d_T]`) -> `[B]`, see
            `feature_losses`.
        total_loss: of KL, FS and lambda.
        temperature: T of the KL loss.
        logit_loss: (teacher logits, student logits `[B, C]`, T) -> `[B]`, see `logit_losses`.
        label_loss: the third loss, if there is one.
        head: in place of the student's own classifier, which is then in no parameter group and
            written by `fold_head`.
        map_loss: on maps in the middle of the student; its projectors are in a parameter group.
        xla: whether XLA compiles the training step.
    """

    def __init__(
        self,
        student: tf.keras.Model,
        classes: int,
        parameter_groups: Sequence[ParameterGroup],
        *,
        projector: tf.keras.layers.Layer,
        balancer: Any,
        feature_loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
        total_loss: TotalLoss,
        temperature: float,
        logit_loss: Callable[[tf.Tensor, tf.Tensor, float], tf.Tensor] = losses.kl_divergence,
        label_loss: LabelLoss | None = None,
        head: TiedHead | None = None,
        map_loss: MapLoss | None = None,
        xla: bool = False,
    ) -> None:
        super().__init__(student, classes, parameter_groups, name="distillation_trainer", xla=xla)
        self.projector = projector
        self.balancer = balancer
        self._feature_loss = feature_loss
        self._total_loss = total_loss
        self._temperature = temperature
        self._logit_loss = logit_loss
        self._label_loss = label_loss
        self._head = head
        self._map_loss = map_loss
        if label_loss is not None and isinstance(label_loss.weight, tf.Variable):
            self.label_weight = label_loss.weight
        if map_loss is not None:
            # Found by checkpoints here; without the loss these are as they always were.
            self.map_projectors = list(map_loss.projectors)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Logits `[B, C]` of inputs, through the tied head where there is one."""
        outputs = super().forward(inputs, training)
        if self._head is None:
            return outputs["logits"]
        return self._head.logits(self.projector(outputs["features"]))

    def forward(self, inputs: tf.Tensor, training: bool) -> Mapping[str, Any]:
        """The student's outputs; with a loss on maps these as "maps", too."""
        if self._map_loss is None:
            return super().forward(inputs, training)
        return self._map_loss.forward(inputs, training)

    def compute_losses(self, batch: Batch, training: bool) -> dict[str, tf.Tensor]:
        """The total loss, "kl" and "fs", "lambda", and "label" where labels are used; their weight
        as "label_weight" where it changes.

        With a loss on maps "map16", "map32" and "map_weight", too.
        """
        outputs = self.forward(batch["inputs"], training)
        projected = self.projector(outputs["features"])
        logits = outputs["logits"] if self._head is None else self._head.logits(projected)
        kl = self._logit_loss(batch["teacher_logits"], logits, self._temperature)
        fs = self._feature_loss(projected, batch["teacher_features"])
        step = self.optimizer.iterations
        labelled = batch.get("labelled")
        logs = self._total_loss.balance(self.balancer, kl, fs, batch["labels"], step, labelled)
        if self._label_loss is not None:
            logs = self._add_labels(logs, logits, batch)
        if self._map_loss is None:
            return logs
        of_maps, added = self._map_loss(outputs["maps"], batch["teacher_maps"], step)
        return {**logs, TOTAL_LOSS: logs[TOTAL_LOSS] + added, **of_maps}

    def _add_labels(
        self, logs: dict[str, tf.Tensor], logits: tf.Tensor, batch: Batch
    ) -> dict[str, tf.Tensor]:
        third = self._label_loss
        assert third is not None
        progress = tf.cast(self.optimizer.iterations, tf.float32) / third.steps
        each = label_losses(lambda labels: third.of_examples(logits, labels, progress), batch)
        label = tf.reduce_mean(each)
        if "labelled" in batch:
            has_label = tf.cast(batch["labelled"], each.dtype)
            label = tf.reduce_sum(each * has_label) / tf.reduce_sum(has_label)
        total = (1.0 - third.weight) * logs[TOTAL_LOSS] + third.weight * label
        found = {**logs, TOTAL_LOSS: total, "label": label}
        if isinstance(third.weight, tf.Variable):
            found["label_weight"] = tf.convert_to_tensor(third.weight)
        return found

    def fold_head(self) -> None:
        """Makes the student's dense layer "logits" what projector and tied head compute."""
        if self._head is not None:
            layer = self.network.get_layer("logits")
            kernel, bias = self._head.fold(self.projector, int(layer.kernel.shape[0]))
            layer.kernel.assign(kernel)
            layer.bias.assign(bias)


def build_trainer(
    student: tf.keras.Model,
    classes: int,
    settings: BalanceSettings,
    optimizer: OptimizerSettings,
    *,
    feature_loss: FeatureLoss,
    total_loss: TotalLoss,
    label_loss: LabelLoss | None = None,
    head: TiedHead | None = None,
    map_loss: MapLoss | None = None,
    replay: np.ndarray | None = None,
    steps: int,
    seed: int,
    xla: bool = False,
) -> DistillationTrainer:
    """The trainer of these losses, with what is trained beside the student: projector and balancer.

    Args:
        student: whose classifier no optimizer moves where there is a head.
        classes: C.
        settings: of the losses and their balance.
        optimizer: of student and projectors.
        feature_loss, total_loss, label_loss, head, map_loss: as of `DistillationTrainer`.
        replay: lambda of another training in the adversary's place, float
            `[steps there, lambda_columns]`.
        steps: of the whole training.
        seed: of the projector's and the balancer's weights.
        xla: whether XLA compiles the training step.
    """
    if head is not None:
        student.get_layer("logits").trainable = False
    projector = feature_loss.build_projector(student, seed)
    balancer = balance_without_adversary(settings, steps)
    if balancer is None and replay is not None:
        balancer = total_loss.build_replay(replay, steps)
    elif balancer is None:
        balancer = total_loss.build_balancer(seed)
    parameter_groups = build_parameter_groups(
        student,
        optimizer,
        steps=steps,
        projector=projector,
        map_projectors=map_loss.projectors if map_loss else (),
        # Without an adversary no variable maximizes anything.
        balancer=balancer if getattr(balancer, "trainable_variables", None) else None,
        balance_learning_rate=total_loss.learning_rate_factor * settings.balance_learning_rate,
    )
    return DistillationTrainer(
        student,
        classes,
        parameter_groups,
        projector=projector,
        balancer=balancer,
        feature_loss=feature_loss,
        total_loss=total_loss,
        temperature=settings.temperature,
        logit_loss=LOGIT_LOSSES[settings.logit_loss],
        label_loss=label_loss,
        head=head,
        map_loss=map_loss,
        xla=xla,
    )
