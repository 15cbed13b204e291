"""The whole of a run's settings as one frozen, validated value.

    config = Config(dataset="digits", run_dir="runs/digits")
    config.to_json("runs/digits/config.json")
    again = Config.from_json("runs/digits/config.json")

Each field is a command-line flag of the same name (`candle_tf.app` derives the flags from here), so
a flag's help, default and allowed values stand in one place.
"""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from candle_tf.data.catalog import CATALOG, kind_of
from candle_tf.errors import UserError
from candle_tf.files import write_atomically

DATASETS = ("digits", "folder", "list", "fashion_mnist")
TFDS_PREFIX = "tfds:"
LISTS = ("train_list", "test_list", "validation_list", "class_names")
ON_BAD_IMAGE = ("stop", "skip")
PROFILES = ("natural", "exponential", "step", "counts")
SELECTIONS = ("seeded", "first", "ldam")
AUGMENTATIONS = ("none", "pad_crop", "pad_crop_flip", "random_resized_crop_flip")
RESIZES = ("squeeze", "crop")
STORES = ("auto", "disk", "stream")
SAMPLERS = ("instance", "class_balanced", "square_root", "progressive")
MIXES = ("none", "mixup", "cutmix")
TEACHER_VIEWS = ("whole", "same")
TEACHER_MODES = ("cached", "online")
OFFLINE_TEACHER = "efficientnet_lite0"
TEACHER_KINDS = ("keras_cv", "keras_applications")
CALIBRATION_LOSSES = (
    "cross_entropy",
    "balanced_softmax",
    "logit_adjustment",
    "label_aware_smoothing",
)
METHODS = ("candle", "cross_entropy", "balanced_softmax")
STUDENT_NAMES = (
    "reactnet_a",
    "bnext_t",
    "bnext_s",
    "bnext_m",
    "bnext_l",
    "quicknet_small",
    "quicknet",
    "quicknet_large",
    "birealnet18",
    "real_to_binary",
)
BALANCES = ("adversarial", "relative", "plain", "fixed")
EPOCH_CHOICES = ("best", "last")
OPTIMIZERS = ("adam", "adam_sgd", "bop")
PRECISIONS = ("auto", "float32", "bfloat16")
XLA = ("auto", "on", "off")


def setting(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    at_least: float = -math.inf,
    above: float = -math.inf,
    at_most: float = math.inf,
    below: float = math.inf,
) -> Any:
    """A field of `Config` with its help text and the values it may take."""
    bounds = {"at_least": at_least, "above": above, "at_most": at_most, "below": below}
    metadata = {"help": help, "choices": choices, "bounds": bounds}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a run. See each field's help; `__post_init__` refuses what cannot work.

    Raises:
        UserError: for a value out of range, an unknown name, or two values that contradict each
            other; the message names the flag, the value and what is allowed.
    """

    # Data.
    dataset: str = setting(
        "digits",
        f"where the images come from: {', '.join(DATASETS)}, "
        f"{TFDS_PREFIX}<builder>[/<config>][:<version>] of TensorFlow Datasets, or a name of the "
        "catalog (python -m candle_tf.datasets), which brings settings of its own",
    )
    data_dir: str = setting(
        "",
        "folder: a folder, ZIP or TAR of images; list: the folder, ZIP or TAR that the lists' "
        "paths are relative to; fashion_mnist: a folder of IDX files; tfds: its data folder",
    )
    train_list: str = setting(
        "", "for --dataset=list: a CSV, a TSV or lines of <path> <label>; images to learn from"
    )
    test_list: str = setting("", "for --dataset=list: the same of the test part, if there is one")
    validation_list: str = setting(
        "", "for --dataset=list: the same of the data's own validation part, if there is one"
    )
    class_names: str = setting(
        "", "for --dataset=list: a file with the name of a class on each line, in label order"
    )
    on_bad_image: str = setting(
        "stop",
        "when images cannot be read: stop before training and list them, or skip: leave them "
        "out and list them in the report",
        choices=ON_BAD_IMAGE,
    )
    profile: str = setting(
        "exponential", "how the training set is made long-tailed", choices=PROFILES
    )
    imbalance_factor: float = setting(
        100.0, "images of the largest class per image of the smallest", at_least=1
    )
    class_counts: str = setting(
        "",
        "for --profile=counts: 500,300,20 by class, or a .json, .csv or .tsv file of counts",
    )
    selection: str = setting(
        "seeded",
        "which images of a class are kept: drawn by --seed, the first by name, or as LDAM-DRW's "
        "code draws them (CIFAR; it counts by class index)",
        choices=SELECTIONS,
    )
    validation_fraction: float = setting(
        0.1, "part of each training class held out to choose the epoch", at_least=0, below=1
    )
    test_fraction: float = setting(
        0.2, "part of each class held out as test set where the data has none", above=0, below=1
    )
    split: str = setting(
        "",
        "a saved split.json to use instead of drawing one; the flags of the draw play no part then",
    )
    image_size: int = setting(64, "side of the student's input in pixels", at_least=8)
    augmentation: str = setting(
        "pad_crop_flip", "the student's training views", choices=AUGMENTATIONS
    )
    color_jitter: float = setting(
        0.0,
        "brightness, contrast and saturation of the views change by up to this part (the paper: "
        "0.4); 0 for none",
        at_least=0,
        at_most=1,
    )
    randaugment_magnitude: float = setting(
        0.0, "strength of RandAugment's operations on the views; 0 for none", at_least=0, at_most=10
    )
    randaugment_layers: int = setting(
        2, "for --randaugment_magnitude: operations on each view", at_least=1, at_most=14
    )
    mix: str = setting(
        "none", "whether a second image is mixed into each training view, and how", choices=MIXES
    )
    mix_alpha: float = setting(
        1.0, "for --mix: the ratio is drawn from Beta(alpha, alpha)", above=0
    )

    resize: str = setting(
        "squeeze",
        "squeeze the whole image to a square, or crop: the centre of 7/8 of the shorter side is "
        "evaluated, and training views are cut from the uncut image",
        choices=RESIZES,
    )
    store: str = setting(
        "auto",
        "decoded images: on disk, or stream (decoded whenever needed); auto: on disk where they "
        "take at most half of what is free",
        choices=STORES,
    )
    sampler: str = setting(
        "instance",
        "how often the student's epochs show each class: as often as it has images "
        "(instance), all alike (class_balanced), by the root of its images (square_root), or "
        "from the first to the second (progressive)",
        choices=SAMPLERS,
    )

    # Teacher and calibration.
    teacher: str = setting(
        OFFLINE_TEACHER,
        f"{OFFLINE_TEACHER} (offline), keras_cv:<preset> or keras_applications:<Name>",
    )
    teacher_weights: str = setting("", "a weights file for the teacher, instead of its own")
    teacher_weights_sha256: str = setting("", "the SHA-256 which that file must have")
    teacher_view: str = setting(
        "whole",
        "what the teacher looks at: the whole image, or the same views as the student",
        choices=TEACHER_VIEWS,
    )
    teacher_mode: str = setting(
        "cached",
        "cached: the teacher looks at each fixed view once; online: it looks at new views in every "
        "epoch, at its own cost in every step (with --teacher_view=same)",
        choices=TEACHER_MODES,
    )
    views: int = setting(
        4, "for --teacher_view=same: fixed views of each image, taken in turn", at_least=1
    )
    tail_views: int = setting(
        0,
        "where above --views: most fixed views of an image of a rare class, which gets --views "
        "times the largest class's images per image of its own",
        at_least=0,
    )
    calibration_resolutions: tuple[int, ...] = setting(
        (96, 128, 160), "sides in pixels at which the teacher sees each view", at_least=32
    )
    calibration_loss: str = setting(
        "balanced_softmax", "loss of the teacher's new classifier", choices=CALIBRATION_LOSSES
    )
    calibration_epochs: int = setting(30, "epochs of calibration", at_least=1)
    calibration_batch_size: int = setting(256, "batch size of calibration", at_least=1)
    calibration_learning_rate: float = setting(1e-3, "Adam's peak rate in calibration", above=0)
    logit_adjustment_tau: float = setting(1.0, "tau of the logit adjustment", at_least=0)
    smoothing_head: float = setting(
        0.2, "label_aware_smoothing of the largest class", at_least=0, below=1
    )
    smoothing_tail: float = setting(
        0.0, "label_aware_smoothing of the smallest class", at_least=0, below=1
    )

    # Student.
    student: str = setting("reactnet_a", "architecture of the student", choices=STUDENT_NAMES)
    width: float = setting(1.0, "multiplier of the student's channels", above=0, at_most=4)
    stem_stride: int = setting(
        2,
        "stride of the student's stem: 2 as published, 1 for small images",
        at_least=1,
        at_most=2,
    )

    # Training of the student.
    method: str = setting("candle", "how the student learns", choices=METHODS)
    epochs: int = setting(100, "epochs of the student", at_least=1)
    batch_size: int = setting(64, "images in a step", at_least=1)
    precision: str = setting(
        "auto",
        "of binary convolutions in training: bfloat16 (in which -1 and +1 are exact), float32, or "
        "auto: bfloat16 where the CPU has instructions for it",
        choices=PRECISIONS,
    )
    xla: str = setting(
        "auto",
        "whether XLA compiles the training step: on, off, or auto: on where there is a GPU",
        choices=XLA,
    )
    optimizer: str = setting(
        "adam",
        "adam for all weights; adam_sgd: Adam on binary kernels, SGD with momentum on the rest "
        "(QuickNet's); bop: Bop on binary kernels, Adam on the rest",
        choices=OPTIMIZERS,
    )
    learning_rate: float = setting(
        5e-3,
        "peak rate, falling along a cosine, of all that --binary_learning_rate is not for "
        "(QuickNet's adam_sgd: 0.1)",
        above=0,
    )
    binary_learning_rate: float = setting(
        0.0,
        "peak rate on binary kernels, falling likewise; of bop: gamma. 0 for the published one "
        "(adam_sgd: 0.01, bop: 0.0001)",
        at_least=0,
    )
    bop_threshold: float = setting(
        1e-8, "for --optimizer=bop: mean gradient beyond which a weight turns", above=0
    )
    weight_decay: float = setting(
        0.0,
        "decay of float kernels in a step, times the rate (AdamW's); of nothing else",
        at_least=0,
    )
    binary_weight_decay: float = setting(
        0.0, "the same of the latent weights of binary kernels (BNext: 1e-8)", at_least=0
    )
    clip_latent_weights: bool = setting(
        True, "hold latent weights where the student's straight-through gradient lives"
    )
    binary_steps: int = setting(
        1,
        "2 for ReActNet's: --epochs with float kernels first, then as many with binary ones and "
        "without weight decay",
        at_least=1,
        at_most=2,
    )
    anneal_fraction: float = setting(
        0.8,
        "of students with annealed weights (BNext): part of the epochs before they are exact signs",
        at_least=0,
        below=1,
    )
    warmup_fraction: float = setting(
        0.02, "part of the training in which the rate rises linearly", at_least=0, below=1
    )
    select_epoch: str = setting(
        "best",
        "which epoch is exported: best by mean class accuracy on the validation part, or last",
        choices=EPOCH_CHOICES,
    )
    temperature: float = setting(2.0, "T of the KL term", above=0)
    balance: str = setting(
        "adversarial",
        "lambda: adversarial (the paper's objective and an entropy barrier), relative (terms "
        "relative to an uniform-prediction baseline's, and entropy), plain (no barrier) or fixed",
        choices=BALANCES,
    )
    fixed_lambda: float = setting(
        0.5, "for --balance=fixed: weight of the KL term", at_least=0, at_most=1
    )
    balance_entropy: float = setting(
        0.2,
        "weight of lambda's entropy, relative to the uniform prediction's KL loss",
        above=0,
    )
    balance_learning_rate: float = setting(1e-3, "Adam's rate of the balancing network", above=0)
    center_features: bool = setting(
        True, "subtract the training mean from the teacher's features before the cosine"
    )
    seed: int = setting(0, "seed of everything random", at_least=0, below=2**31)

    # Where results go.
    run_dir: str = setting("runs/run", "folder of everything the run writes")
    cache_dir: str = setting(
        "",
        "folder of decoded images and teacher features, shared by runs; run_dir/cache if empty",
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_setting(field, getattr(self, field.name))
        self._check_combinations()

    def _check_combinations(self) -> None:
        self._check_data()
        kind, _, choice = self.teacher.partition(":")
        if self.teacher != OFFLINE_TEACHER and not (kind in TEACHER_KINDS and choice):
            raise UserError(
                f"--teacher={self.teacher} is not known; it is {OFFLINE_TEACHER}, "
                f"{' or '.join(f'{kind}:<name>' for kind in TEACHER_KINDS)}."
            )
        if self.teacher_weights_sha256 and not self.teacher_weights:
            raise UserError(
                f"--teacher_weights_sha256={self.teacher_weights_sha256} is given, but "
                "--teacher_weights, the file it belongs to, is empty."
            )
        if not self.calibration_resolutions:
            raise UserError("--calibration_resolutions is empty; give one or more sides in pixels.")
        if self.teacher_mode == "online" and self.teacher_view == "whole":
            raise UserError(
                "--teacher_mode=online contradicts --teacher_view=whole: the answer to a whole "
                "image is the same in every epoch. Give --teacher_view=same, or "
                "--teacher_mode=cached."
            )
        if self.select_epoch == "best" and self.validation_fraction == 0:
            raise UserError(
                "--select_epoch=best contradicts --validation_fraction=0: there is nothing to "
                "choose by. Give --select_epoch=last or a --validation_fraction above 0."
            )

        self._check_views()
        self._check_recipe()

    def _check_data(self) -> None:
        if (self.profile == "counts") != bool(self.class_counts):
            raise UserError(
                f"--profile={self.profile} contradicts --class_counts={self.class_counts}: "
                "--profile=counts and --class_counts need each other."
            )
        if self.dataset in CATALOG:
            missing = CATALOG[self.dataset].missing(self.data_dir, self.train_list)
            if missing:
                raise UserError(missing)
        kind = kind_of(self.dataset, self.data_dir, self.train_list)
        builder = kind.removeprefix(TFDS_PREFIX)
        if kind not in DATASETS and not (builder != kind and builder):
            raise UserError(
                f"--dataset={self.dataset} is not known; it is {', '.join(DATASETS)}, "
                f"{TFDS_PREFIX}<builder> or one of the catalog: {', '.join(CATALOG)}."
            )
        if kind in ("folder", "list") and not self.data_dir:
            raise UserError(
                f"--data_dir is empty, but --dataset={self.dataset} needs the path of a folder, "
                "ZIP or TAR."
            )
        if self.dataset == "digits" and self.data_dir:
            raise UserError(
                f"--data_dir={self.data_dir} contradicts --dataset=digits, which ships with "
                "scikit-learn; give --dataset=folder or leave --data_dir empty."
            )
        given = [name for name in LISTS if getattr(self, name)]
        if given and kind != "list":
            raise UserError(
                f"--{given[0]}={getattr(self, given[0])} contradicts --dataset={self.dataset}; it "
                "is for --dataset=list."
            )
        if kind == "list" and not self.train_list:
            raise UserError("--train_list is empty, but --dataset=list needs it.")

    def _check_views(self) -> None:
        if self.mix != "none" and self.method == "candle" and self.teacher_view == "whole":
            raise UserError(
                f"--mix={self.mix} contradicts --teacher_view=whole: the teacher's answer to whole "
                "images is not its answer to their mixture; give --teacher_view=same."
            )
        if self.randaugment_layers != 2 and not self.randaugment_magnitude:
            raise UserError(
                f"--randaugment_layers={self.randaugment_layers} contradicts "
                "--randaugment_magnitude=0, which is no RandAugment; give a magnitude up to 10."
            )
        if self.mix_alpha != 1.0 and self.mix == "none":
            raise UserError(
                f"--mix_alpha={self.mix_alpha:g} contradicts --mix=none; give --mix=mixup or "
                "cutmix."
            )

    def _check_recipe(self) -> None:
        bop = self.optimizer == "bop"
        if self.xla == "on" and self.precision == "bfloat16":
            raise UserError(
                "--precision=bfloat16 contradicts --xla=on: what XLA compiles is the plain step in "
                "float32; give --xla=off, or --precision=auto."
            )
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
        if self.binary_steps == 2 and bop:
            raise UserError(
                "--binary_steps=2 contradicts --optimizer=bop: the first step has float kernels, "
                "which Bop cannot move; give --optimizer=adam or --binary_steps=1."
            )
        if self.binary_weight_decay and self.binary_steps == 2:
            raise UserError(
                f"--binary_weight_decay={self.binary_weight_decay:g} contradicts "
                "--binary_steps=2: the first step has no binary kernels, and the second no decay; "
                "--weight_decay is for the kernels of the first."
            )

    @property
    def cache_path(self) -> Path:
        """Folder of decoded images and teacher features."""
        return Path(self.cache_dir) if self.cache_dir else Path(self.run_dir) / "cache"

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON-ready values, by flag name."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }

    def to_json(self, path: str | Path) -> None:
        """Writes the settings as readable JSON."""
        write_atomically(Path(path), (json.dumps(self.to_dict(), indent=2) + "\n").encode())

    @classmethod
    def from_dict(cls, values: dict[str, Any], origin: str) -> "Config":
        """Settings from JSON values, e.g. those of a run's config.json.

        Raises:
            UserError: for a name that is no setting or a value of the wrong type; names `origin`.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(fields))
        if unknown:
            raise UserError(f"{origin} holds {unknown[0]!r}, which is not a setting.")
        return cls(**{name: _typed(fields[name], value, origin) for name, value in values.items()})

    @classmethod
    def from_json(cls, path: str | Path) -> "Config":
        """Reads what `to_json` wrote.

        Raises:
            UserError: where the file is missing, is not JSON, or holds what no run can use.
        """
        try:
            values = json.loads(Path(path).read_text())
        except FileNotFoundError as error:
            raise UserError(f"There is no settings file {path}.") from error
        except (OSError, ValueError) as error:
            raise UserError(f"The settings file {path} cannot be read: {error}.") from error
        if not isinstance(values, dict):
            raise UserError(f"The settings file {path} does not hold one JSON object.")
        return cls.from_dict(values, str(path))


def _typed(field: "dataclasses.Field[Any]", value: Any, origin: str) -> Any:
    """`value` as the field's type, refusing what JSON cannot mean by it."""
    kind: type[Any] = type(field.default)
    accepts: Callable[[Any], bool] = {
        bool: lambda v: isinstance(v, bool),
        int: lambda v: isinstance(v, int) and not isinstance(v, bool),
        float: lambda v: isinstance(v, int | float) and not isinstance(v, bool),
        str: lambda v: isinstance(v, str),
        tuple: lambda v: (
            isinstance(v, list)
            and all(isinstance(item, int) and not isinstance(item, bool) for item in v)
        ),
    }[kind]
    if not accepts(value):
        raise UserError(f"{origin} gives {field.name}={value!r}, which is no {kind.__name__}.")
    return kind(value)


def _check_setting(field: "dataclasses.Field[Any]", value: Any) -> None:
    choices, bounds = field.metadata["choices"], field.metadata["bounds"]
    if choices and value not in choices:
        raise UserError(f"--{field.name}={value} is not known; it is one of {', '.join(choices)}.")
    if not isinstance(value, tuple | int | float) or isinstance(value, bool):
        return
    for number in value if isinstance(value, tuple) else (value,):
        # "above" and "below" are strict and infinite by default: NaN and infinity never pass.
        allowed = (
            bounds["above"] < number < bounds["below"]
            and bounds["at_least"] <= number <= bounds["at_most"]
        )
        if not allowed:
            raise UserError(
                f"--{field.name}={number} is out of range; it must be {_range(bounds)}."
            )


def _range(bounds: dict[str, float]) -> str:
    words = {"at_least": "at least", "above": "above", "at_most": "at most", "below": "below"}
    said = [f"{words[name]} {bound:.10g}" for name, bound in bounds.items() if math.isfinite(bound)]
    return " and ".join(said) or "finite"
