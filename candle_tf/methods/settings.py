"""Settings of calibration and of the student's training."""

import math
from dataclasses import dataclass

from candle_tf.data.image_sizes import parse_sizes, sides_of_epochs
from candle_tf.errors import UserError
from candle_tf.methods.registry import (
    BALANCES,
    BUILT_IN_METHODS,
    CALIBRATION_LOSSES,
    CANDLE,
    FEATURE_LOSSES,
    LABEL_LOSS_METHODS,
    LOGIT_LOSSES,
    METHODS,
    WITH_TEACHER,
)
from candle_tf.settings import SettingsGroup, setting

EPOCH_CHOICES = ("auto", "best", "last")
# What --epochs=0 stands for: the larger of the two. Of few images 100 epochs are few steps.
DEFAULT_EPOCHS = 100
DEFAULT_IMAGES_SEEN = 128_000
# Of that, for a student that starts from weights: minutes in place of a quarter of an hour.
PRETRAINED_FRACTION = 0.25
STUDENT_HEADS = ("free", "tied")
AUTO = "auto"
ADAPTIVE = "adaptive"
COMBINE_RESOLUTIONS = ("mean", "concatenate")
CALIBRATION_SAMPLERS = ("instance", "class_balanced", "square_root")
OPTIMIZERS = ("adam", "adam_sgd", "bop")
DECAYS = ("cosine", "linear")
_WITH_ADVERSARY = "balance=adversarial|relative|plain|class_adversarial"
# Of a lambda that is replayed nothing is learned: the barrier does not depend on the student.
_LEARNED = "without balance_replay"


@dataclass(frozen=True)
class CalibrationSettings(SettingsGroup):
    """How the teacher's new classifier is trained."""

    calibration_resolutions: tuple[int, ...] = setting(
        (96, 128, 160), "sides in pixels at which the teacher runs on each view", at_least=16
    )
    combine_resolutions: str = setting(
        "mean",
        "of the teacher's features of a view at several resolutions the student learns their mean, "
        "and calibration uses each; concatenate: both use them side by side",
        choices=COMBINE_RESOLUTIONS,
        only_for=WITH_TEACHER,
    )
    calibration_loss: str = setting(
        "balanced_softmax",
        "loss of the teacher's new classifier",
        choices=CALIBRATION_LOSSES,
        only_for=WITH_TEACHER,
    )
    calibration_sampler: str = setting(
        "instance",
        "how calibration samples classes, as --sampler; the loss's prior follows it",
        choices=CALIBRATION_SAMPLERS,
        only_for=WITH_TEACHER,
    )
    calibration_epochs: int = setting(
        30,
        "epochs of calibration",
        at_least=1,
        only_for=WITH_TEACHER,
    )
    calibration_batch_size: int = setting(
        256,
        "batch size of calibration",
        at_least=1,
        only_for=WITH_TEACHER,
    )
    calibration_learning_rate: float = setting(
        1e-3,
        "Adam's peak rate in calibration",
        above=0,
        at_most=1e3,
        only_for=WITH_TEACHER,
    )
    logit_adjustment_tau: float = setting(
        1.0,
        "tau of the logit adjustment",
        at_least=0,
        at_most=100,
        only_for="calibration_loss=logit_adjustment",
    )
    smoothing_head: float = setting(
        0.2,
        "smoothing of the largest class",
        at_least=0,
        below=1,
        only_for="calibration_loss=label_aware_smoothing or method=mislas",
    )
    smoothing_tail: float = setting(
        0.0,
        "smoothing of the smallest class",
        at_least=0,
        below=1,
        only_for="calibration_loss=label_aware_smoothing or method=mislas",
    )

    def check(self) -> None:
        if not self.calibration_resolutions:
            raise UserError("--calibration_resolutions is empty; give one or more sides in pixels.")


@dataclass(frozen=True)
class TrainingSettings(SettingsGroup):
    """The student's method, and its epochs."""

    method: str = setting("candle", "how the student learns", choices=METHODS)
    epochs: int = setting(
        0,
        "epochs of the student; 0 for 100, or where these are more for as many as show it 128,000 "
        "images, and a quarter of either with --student_weights; more than before continue a "
        "finished run",
        at_least=0,
    )
    batch_size: int = setting(64, "images in a step", at_least=1)
    binary_steps: int = setting(
        1,
        "2 for ReActNet's: --epochs with float kernels first, then as many with binary ones and "
        "without weight decay",
        at_least=1,
        at_most=2,
    )
    anneal_fraction: float = setting(
        0.8,
        "fraction of the epochs before annealed weights are exact signs",
        at_least=0,
        below=1,
        only_for="student=bnext_*",
    )
    select_epoch: str = setting(
        "auto",
        "which epoch is exported: best by mean class accuracy on the validation subset, last, or "
        "auto: best where it is above last by more than two standard errors, else last",
        choices=EPOCH_CHOICES,
    )
    progressive_sizes: str = setting(
        "",
        "sides of the student's training views in pixels, each with the fraction of the epochs "
        "until which it is used, the last without one, such as 48:0.5,64; empty for --image_size, "
        "at which the student is validated and exported in any case",
    )
    reestimate_batch_norm: bool = setting(
        False,
        "after each epoch's steps, estimate the student's batch-norm statistics again, from 2,048 "
        "training views; with --weight_average it is always so, with --progressive_sizes after "
        "epochs at another size than --image_size, and while weights are annealed (BNext)",
    )

    def check(self) -> None:
        if self.progressive_sizes:
            # Whether all sizes have an epoch is known with the number of epochs.
            parse_sizes(self.progressive_sizes)
            if self.epochs:
                sides_of_epochs(self.progressive_sizes, self.epochs, image_size=0)

    def epochs_for(self, images: int, pretrained: bool = False) -> int:
        """--epochs, or where it is 0 as many as are sensible.

        Args:
            images: that an epoch shows the student.
            pretrained: whether the student starts from weights.
        """
        fraction = PRETRAINED_FRACTION if pretrained else 1.0
        sensible = max(DEFAULT_EPOCHS, DEFAULT_IMAGES_SEEN / images)
        return self.epochs or math.ceil(fraction * sensible)

    @property
    def is_candle(self) -> bool:
        """Whether the student, or a method's first stage, is distilled by CANDLE."""
        return self.method == "candle" or getattr(METHODS[self.method], "first", "") == "candle"

    @property
    def distils(self) -> bool:
        """Whether the method needs the teacher's outputs."""
        return self.method == "candle" or getattr(METHODS[self.method], "distils", False)

    @property
    def has_label_loss(self) -> bool:
        """Whether the method has a label loss of its own beside a teacher's, whose weight is
        --distillation_label_weight."""
        # Of ours it is known without importing the method, and TensorFlow with it.
        if self.method in BUILT_IN_METHODS:
            return self.method in LABEL_LOSS_METHODS
        return getattr(METHODS[self.method], "has_label_loss", False)

    @property
    def contrasts(self) -> bool:
        """Whether the method needs two views of each image, and a momentum encoder."""
        return self.method != "candle" and getattr(METHODS[self.method], "contrasts", False)


@dataclass(frozen=True)
class OptimizerSettings(SettingsGroup):
    """How the weights that minimize the total loss are changed; see `parameter_groups`."""

    optimizer: str = setting(
        "adam",
        "adam for all weights; adam_sgd: Adam on binary kernels, SGD with momentum on the rest "
        "(QuickNet's); bop: Bop on binary kernels, Adam on the rest",
        choices=OPTIMIZERS,
    )
    learning_rate: float = setting(
        5e-3,
        "peak rate, falling by --rate_decay, of all that --binary_learning_rate is not for "
        "(QuickNet's adam_sgd: 0.1)",
        above=0,
        at_most=1e3,
    )
    warmup_fraction: float = setting(
        0.02, "fraction of the training in which the rate rises linearly", at_least=0, below=1
    )
    rate_decay: str = setting(
        "cosine",
        "how the learning rates fall to 0: along half a cosine, or linear (ReActNet's)",
        choices=DECAYS,
    )
    clip_norm: float = setting(
        0.0,
        "bound of the norm of all gradients of an optimizer together (Beyer et al. 2022: 1); "
        "0 for none; Bop's are not bounded",
        at_least=0,
        at_most=1e6,
    )
    binary_learning_rate: float = setting(
        0.0,
        "peak rate on binary kernels, falling likewise; of bop: gamma. 0 for the published one "
        "(adam_sgd: 0.01, bop: 0.0001)",
        at_least=0,
        at_most=1e3,
        only_for="optimizer=adam_sgd|bop",
    )
    bop_threshold: float = setting(
        1e-8,
        "mean gradient beyond which a weight flips",
        above=0,
        at_most=1e3,
        only_for="optimizer=bop",
    )
    weight_decay: float = setting(
        0.0,
        "decay of float kernels in a step, times the rate (AdamW's); of nothing else",
        at_least=0,
        at_most=1e3,
    )
    binary_weight_decay: float = setting(
        0.0,
        "the same of the latent weights of binary kernels (BNext: 1e-8)",
        at_least=0,
        at_most=1e3,
    )
    clip_latent_weights: bool = setting(
        True, "hold latent weights where the student's straight-through gradient is not zero"
    )
    weight_average: float = setting(
        0.0,
        "decay, in each step, of a moving average of all weights, which is what is validated, "
        "selected and exported, e.g. 0.999; binary kernels are the signs of averaged latent "
        "weights; 0 for none",
        at_least=0,
        below=1,
    )

    def check(self) -> None:
        bop = self.optimizer == "bop"
        if self.binary_learning_rate and self.optimizer == "adam":
            raise UserError(
                f"--binary_learning_rate={self.binary_learning_rate:g} contradicts "
                "--optimizer=adam, which has one rate for all; give --optimizer=adam_sgd or bop, "
                "or --learning_rate."
            )
        if self.binary_weight_decay and bop:
            raise UserError(
                f"--binary_weight_decay={self.binary_weight_decay:g} contradicts --optimizer=bop, "
                "which has no latent weights to decay."
            )
        if not self.clip_latent_weights and bop:
            raise UserError(
                "--noclip_latent_weights contradicts --optimizer=bop, which has no latent weights: "
                "its kernels are -1 and +1."
            )
        if self.weight_average and bop:
            raise UserError(
                f"--weight_average={self.weight_average:g} contradicts --optimizer=bop, which has "
                "no latent weights: a mean of -1 and +1 is neither. Give --optimizer=adam."
            )


@dataclass(frozen=True)
class BalanceSettings(SettingsGroup):
    """The two distillation losses and lambda, the balance between them."""

    temperature: float = setting(
        2.0,
        "T of the KL loss",
        at_least=0.01,
        at_most=1e3,
        only_for=WITH_TEACHER,
    )
    balance: str = setting(
        "adversarial",
        "lambda: adversarial (the paper's total loss and an entropy barrier), relative (losses "
        "relative to the uniform-prediction baseline's, and entropy), plain (no barrier), fixed, "
        "schedule (from --first_lambda to --last_lambda) or "
        "class_adversarial (lambda of each class, losses relative to the mean prediction's)",
        choices=BALANCES,
        only_for=CANDLE,
    )
    fixed_lambda: float = setting(
        0.5,
        "weight of the KL loss",
        at_least=0,
        at_most=1,
        only_for="balance=fixed",
    )
    first_lambda: float = setting(
        0.1,
        "weight of the KL loss at the first step",
        at_least=0,
        at_most=1,
        only_for="balance=schedule",
    )
    last_lambda: float = setting(
        0.3,
        "weight of the KL loss at the last step, along a cosine",
        at_least=0,
        at_most=1,
        only_for="balance=schedule",
    )
    balance_entropy: float = setting(
        0.2,
        "weight of lambda's entropy, relative to the uniform prediction's KL loss",
        above=0,
        at_most=1e3,
        only_for=f"balance=adversarial|relative and {_LEARNED}",
    )
    balance_tau: float = setting(
        0.25,
        "weight of the barrier around lambda_0",
        above=0,
        at_most=1e3,
        only_for=f"balance=class_adversarial and {_LEARNED}",
    )
    balance_prior: float = setting(
        0.5,
        "lambda_0, where lambda starts",
        above=0,
        below=1,
        only_for="balance=class_adversarial",
    )
    balance_floors: str = setting(
        "",
        "the folder of a finished run with --balance=fixed; both losses count from where they "
        "ended there, not from 0",
        only_for="balance=class_adversarial",
    )
    balance_replay: str = setting(
        "",
        "the folder of a finished run with the same --balance, whose recorded lambda is that of "
        "each step in place of an adversary's (a control)",
        only_for=_WITH_ADVERSARY,
    )
    balance_closed_form: bool = setting(
        False,
        "the best lambda of each third of class sizes by its formula, in place of a network (a "
        "control)",
        only_for="balance=class_adversarial",
    )
    balance_permute_sizes: bool = setting(
        False,
        "give each class the size of another one (a control)",
        only_for="balance=class_adversarial",
    )
    balance_learning_rate: float = setting(
        1e-3,
        "Adam's rate of the balancing network; class_adversarial's is five times as large",
        above=0,
        at_most=1e3,
        only_for=f"{_WITH_ADVERSARY} and {_LEARNED} and without balance_closed_form",
    )
    center_features: bool = setting(
        True,
        "subtract the training mean from the teacher's features before the cosine",
        only_for="feature_loss=cosine",
    )
    logit_loss: str = setting(
        "kl",
        "the first loss, between logits: kl (the paper's), standardized (KL of logits with mean 0 "
        "and variance 1) or dist (correlations of rows and columns)",
        choices=LOGIT_LOSSES,
        only_for=CANDLE,
    )
    feature_loss: str = setting(
        "cosine",
        "the second loss: cosine (the paper's), source_kl (KL in the space of the classes that "
        "the teacher was itself trained on) or r2 (squared error relative to the variance)",
        choices=FEATURE_LOSSES,
        only_for=CANDLE,
    )
    source_temperature: float = setting(
        2.0,
        "T of --feature_loss=source_kl",
        at_least=0.01,
        at_most=1e3,
        only_for="feature_loss=source_kl",
    )
    label_weight: str = setting(
        "auto",
        "share of the total loss that is balanced softmax on the labels of the same views, from 0 "
        "to 1; auto: the share of images that the teacher gets wrong, relative to chance: the "
        "calibrated one of validation images, or without any a linear classifier of held-out "
        "training images; adaptive: the same at first, and more after each epoch in which the "
        "student comes closer to its teacher on validation images, half where both are as good",
        only_for=CANDLE,
        nothing="0",
    )
    prior_correction: str = setting(
        "1",
        "correction of the trained student for the classes that it prefers on validation images "
        "(on training images where there are none), folded into its bias: 0 for none, up to 1 for "
        "all of it, auto: what is best on validation images",
        only_for="method=candle",
        nothing="0",
    )
    student_head: str = setting(
        "free",
        "the student's classifier: free (learned), or tied (the teacher's, on the projected "
        "features; one dense layer on the device all the same)",
        choices=STUDENT_HEADS,
        only_for=CANDLE,
    )

    @property
    def largest_lambda(self) -> float:
        """The most that the KL loss weighs in any step; 1 where an adversary gives lambda."""
        given = {
            "fixed": self.fixed_lambda,
            "schedule": max(self.first_lambda, self.last_lambda),
        }
        return given.get(self.balance, 1.0)

    @property
    def leaves_labels_out(self) -> bool:
        """Whether --label_weight is the number 0."""
        return self.label_weight not in (AUTO, ADAPTIVE) and float(self.label_weight) == 0

    def check(self) -> None:
        for name in ("label_weight", "prior_correction"):
            value = getattr(self, name)
            words = (AUTO, ADAPTIVE) if name == "label_weight" else (AUTO,)
            if value not in words and not 0 <= _to_number(value) <= 1:
                raise UserError(
                    f"--{name}={value} is not known; it is {', '.join(words)}, or a number from "
                    "0 to 1."
                )
        if self.balance_floors and self.balance != "class_adversarial":
            raise UserError(
                f"--balance_floors={self.balance_floors} contradicts --balance={self.balance}, "
                "whose losses count from 0. Give --balance=class_adversarial, or leave "
                "--balance_floors out."
            )
        self._check_controls()
        if self.student_head == "tied" and self.feature_loss == "cosine":
            raise UserError(
                "--student_head=tied contradicts --feature_loss=cosine: the teacher's classifier "
                "needs projected features in place and size, not in direction alone. Give "
                "--feature_loss=r2 or source_kl."
            )

    def _check_controls(self) -> None:
        for name in ("balance_closed_form", "balance_permute_sizes"):
            if getattr(self, name) and self.balance != "class_adversarial":
                raise UserError(
                    f"--{name} contradicts --balance={self.balance}, whose lambda is the same for "
                    f"all classes. Give --balance=class_adversarial, or leave --{name} out."
                )
        if not self.balance_replay:
            return
        place = f"--balance_replay={self.balance_replay}"
        if self.balance in ("fixed", "schedule"):
            raise UserError(
                f"{place} contradicts --balance={self.balance}, which gives lambda itself. Give "
                "the --balance of that run, or leave --balance_replay out."
            )
        if self.balance_closed_form:
            raise UserError(
                f"{place} contradicts --balance_closed_form: lambda is either replayed or "
                "computed. Give one of them."
            )


@dataclass(frozen=True)
class MapSettings(SettingsGroup):
    """A loss on feature maps in the middle of teacher and student; see `map_loss`."""

    map_weight: float = setting(
        0.0,
        "weight of each of two losses between maps of teacher and student, at the training's "
        "beginning, e.g. 0.25 (with --teacher_view=same); 0 for none",
        at_least=0,
        at_most=1e3,
        only_for=CANDLE,
    )
    map_fraction: float = setting(
        0.6,
        "fraction of the training in which --map_weight falls linearly to 0",
        above=0,
        at_most=1,
        only_for="map_weight",
    )


def _to_number(text: str) -> float:
    """NaN, which is in no range, where a text is no number."""
    try:
        return float(text)
    except ValueError:
        return math.nan
