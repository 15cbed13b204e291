"""The whole of a run's settings as one frozen, validated value.

    config = Config(dataset="digits", run_dir="runs/digits")       # by flag name
    config.student.width                                           # by group
    config.to_json("runs/digits/config.json")
    again = Config.from_json("runs/digits/config.json").replace(epochs=3)

Each package has its settings in a group of its own (`settings.py`), with help, default and allowed
values. `Config` holds the groups, and checks what contradicts over two of them. To add a setting,
write its field in its group: flag, help and JSON follow. To add a group, give it a line here.
"""

import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

from candle_tf.data.augment.settings import PERIOD, AugmentSettings
from candle_tf.data.catalog import settings_of
from candle_tf.data.epoch_steps import steps_per_epoch
from candle_tf.data.settings import DataSettings, UnlabelledSettings
from candle_tf.errors import UserError
from candle_tf.files import read_json_object, write_atomically
from candle_tf.folder_kinds import holds_pretraining, holds_whole_settings
from candle_tf.methods.long_tail.settings import BaselineSettings
from candle_tf.methods.registry import LOGIT_LOSSES, METHODS
from candle_tf.methods.settings import (
    BalanceSettings,
    CalibrationSettings,
    MapSettings,
    OptimizerSettings,
    TrainingSettings,
)
from candle_tf.plugins import import_plugins, refuse_new_plugins
from candle_tf.recipes import DEFAULT, RECIPES, recipe_settings
from candle_tf.settings import SettingsGroup, convert_setting, setting
from candle_tf.settings_without_effect import settings_without_effect
from candle_tf.students.settings import ComputeSettings, StudentSettings
from candle_tf.teachers.settings import TeacherSettings

# What gives lambda in an adversary's place, or what its losses count from.
_CONTROLS = (
    "balance_floors",
    "balance_replay",
    "balance_closed_form",
    "balance_permute_sizes",
)


# What a setting was of runs that were begun before there was such a setting, where the default or
# a recipe has another one.
OLDER_VALUES = {"prior_correction": "0", "crop_area": 0.35}


@dataclasses.dataclass(frozen=True)
class RunSettings(SettingsGroup):
    """The seed of a run, and where it writes."""

    seed: int = setting(0, "seed of everything random", at_least=0, below=2**31)
    run_dir: str = setting("runs/run", "folder of everything the run writes")
    cache_dir: str = setting(
        "",
        "folder of decoded images and teacher features, shared by runs; run_dir/cache if empty",
    )
    recipe: str = setting(
        DEFAULT,
        "settings to begin from, where none are given: default; paper (CANDLE's losses, balance, "
        "optimizer, resolutions and crops as published); or patient (teacher and student on the "
        "same views, half of them mixed: for photographs, and long trainings)",
        choices=tuple(RECIPES),
    )
    plugin: str = setting(
        "", "Python modules, separated by commas, that register parts of your own (docs/plugins.md)"
    )

    @property
    def cache_path(self) -> Path:
        """Folder of decoded images and teacher features."""
        return Path(self.cache_dir) if self.cache_dir else Path(self.run_dir) / "cache"


@dataclasses.dataclass(frozen=True, init=False)
class Config:
    """Settings of a run, in groups.

    Args:
        **settings: values by flag name, e.g. epochs=3; what is not given is as in the recipe, or
            has its default.

    Raises:
        UserError: for a value out of range, an unknown name, or two values that contradict each
            other; the message names the flag, the value and what is allowed.
        TypeError: for a name that is no setting.
    """

    data: DataSettings
    unlabelled: UnlabelledSettings
    augment: AugmentSettings
    teacher: TeacherSettings
    calibration: CalibrationSettings
    student: StudentSettings
    training: TrainingSettings
    compute: ComputeSettings
    optimizer: OptimizerSettings
    balance: BalanceSettings
    maps: MapSettings
    baseline: BaselineSettings
    run: RunSettings

    def __init__(self, **settings: Any) -> None:
        unknown = sorted(set(settings) - set(self.fields()))
        if unknown:
            raise TypeError(f"{unknown[0]!r} is not a setting")
        settings = recipe_settings(settings.get("recipe", DEFAULT)) | settings
        # What they register is a choice of the groups below.
        import_plugins(settings.get("plugin", ""))
        for name, group in self.groups().items():
            names = [field.name for field in dataclasses.fields(group)]
            given = {name: settings[name] for name in names if name in settings}
            object.__setattr__(self, name, group(**given))
        self._check_across_groups()

    @classmethod
    def groups(cls) -> dict[str, type[SettingsGroup]]:
        """The groups by attribute name."""
        return {field.name: cast(type, field.type) for field in dataclasses.fields(cls)}

    @classmethod
    def fields(cls) -> dict[str, "dataclasses.Field[Any]"]:
        """The fields of all groups, by flag name."""
        groups = cls.groups().values()
        return {field.name: field for group in groups for field in dataclasses.fields(group)}

    def __getitem__(self, name: str) -> Any:
        """The value of a setting, by flag name."""
        return self._values()[name]

    def replace(self, **changes: Any) -> "Config":
        """The same settings with some of them changed, by flag name; a recipe changes its own."""
        return Config(**(self._values() | recipe_settings(changes.get("recipe", "")) | changes))

    def without_effect(self) -> dict[str, str]:
        """Settings that were given and have no effect, each with what it is for.

        Values that are the default, or that the recipe or the data set of the catalog brings, were
        not given. Of settings for a method, a balance or the like none where plugins are used: one
        of theirs may read them.
        """
        values, fields = self._values(), self.fields()
        sources = recipe_settings(self.run.recipe), settings_of(self.data.dataset)
        brought = {name: [source[name] for source in sources if name in source] for name in fields}
        found = settings_without_effect(
            values, fields, brought=brought, has_plugins=bool(self.run.plugin)
        )
        views = self.teacher
        if 0 < views.tail_views <= views.views and "tail_views" not in found:
            found["tail_views"] = f"views below {views.tail_views}"
        # Who asks for no label loss has one with these methods.
        none_given = values["label_weight"] == "0" and "0" not in brought["label_weight"]
        if none_given and self.training.has_label_loss:
            found["label_weight"] = fields["label_weight"].metadata["only_for"]
        return found

    @property
    def labelled_batch_size(self) -> int:
        """Images with labels in a step of the student; an epoch shows each of them at most once."""
        batch_size = self.training.batch_size
        return batch_size - self.unlabelled.in_batch(batch_size)

    def images_in_epoch(self, labelled: int) -> int:
        """Images that an epoch shows the student, those without labels among them.

        Args:
            labelled: training images with labels; a last batch that is not full is left out.
        """
        size = min(self.labelled_batch_size, labelled)
        unlabelled = self.unlabelled.in_batch(self.training.batch_size)
        return steps_per_epoch(labelled, self.labelled_batch_size) * (size + unlabelled)

    def _values(self) -> dict[str, Any]:
        groups = [getattr(self, name) for name in self.groups()]
        return {
            field.name: getattr(group, field.name)
            for group in groups
            for field in dataclasses.fields(group)
        }

    def _check_across_groups(self) -> None:
        if self.training.select_epoch == "best" and self.data.validation_fraction == 0:
            raise UserError(
                "--select_epoch=best contradicts --validation_fraction=0: there is nothing to "
                "choose by. Give --select_epoch=last or a --validation_fraction above 0."
            )
        if self.balance.prior_correction == "auto" and self.data.validation_fraction == 0:
            raise UserError(
                "--prior_correction=auto contradicts --validation_fraction=0: what is best is "
                "measured on validation images. Give a --validation_fraction above 0, or a number "
                "for --prior_correction."
            )
        if self.balance.label_weight == "adaptive" and self.data.validation_fraction == 0:
            raise UserError(
                "--label_weight=adaptive contradicts --validation_fraction=0: teacher and student "
                "are compared on validation images. Give a --validation_fraction above 0, or "
                "--label_weight=auto."
            )
        precomputed = self.teacher.precomputes_views
        if self.augment.mix_views == "half" and precomputed and self.teacher.views < PERIOD:
            raise UserError(
                f"--mix_views=half contradicts --views={self.teacher.views}: of each {PERIOD} "
                f"precomputed views the last two are mixed; give at least {PERIOD}."
            )
        mixed = self.augment.mix != "none"
        # In this order: whether a method distils is known by importing it, and TensorFlow with it.
        if mixed and self.teacher.teacher_view == "whole" and self.training.distils:
            raise UserError(
                f"--mix={self.augment.mix} contradicts --teacher_view=whole: the teacher's outputs "
                "on whole images are not its outputs on their mixture; give --teacher_view=same."
            )
        self._check_options_of_candle()
        self._check_tail_views()
        if self.teacher.teacher_top_k:
            self._check_top_k()
        if self.unlabelled.unlabelled_dir:
            self._check_unlabelled_images()
        if self.unlabelled.unlabelled_views:
            self._check_unlabelled_views()
        if self.maps.map_weight:
            self._check_maps()
        if self.training.binary_steps == 2:
            self._check_two_phases()

    def _check_options_of_candle(self) -> None:
        """Refuses what a method would leave out."""
        correction, method = self.balance.prior_correction, self.training.method
        default = self.fields()["prior_correction"].default
        if method != "candle" and correction not in ("0", default):
            raise UserError(
                f"--prior_correction={correction} contradicts --method={method}: the correction is "
                "of the classifier that CANDLE trains. Give --method=candle, or "
                "--prior_correction=0."
            )
        if self.balance.student_head == "tied" and not self.training.is_candle:
            raise UserError(
                f"--student_head=tied contradicts --method={method}, which does not project the "
                "student's features to the teacher's. Give --method=candle, or "
                "--student_head=free."
            )
        for name in ("logit_loss", "feature_loss"):
            if self[name] != Config.fields()[name].default and not self.training.is_candle:
                raise UserError(
                    f"--{name}={self[name]} contradicts --method={method}, which has losses of its "
                    f"own. Give --method=candle, or leave --{name} out."
                )
        for name in _CONTROLS:
            if self[name] and not self.training.is_candle:
                raise UserError(
                    f"--{name} contradicts --method={method}, which has no lambda. Give "
                    f"--method=candle, or leave --{name} out."
                )

    def _check_tail_views(self) -> None:
        if self.teacher.tail_views > self.teacher.views:
            self._refuse_new_views("tail_views")

    def _refuse_new_views(self, name: str) -> None:
        """Refuses a number of precomputed views where all views are new in every epoch."""
        if self.teacher.precomputes_views:
            return
        online = self.teacher.teacher_mode == "online"
        setting = "teacher_mode=online" if online else "teacher_view=whole"
        remedy = "teacher_mode=cached" if online else "teacher_view=same"
        raise UserError(
            f"--{name}={self[name]} contradicts --{setting}, by which all images have "
            f"new views in every epoch. Give --{remedy}, or leave --{name} out."
        )

    def _check_top_k(self) -> None:
        """Refuses losses that need more than the probability of the other classes together."""
        given, method = f"--teacher_top_k={self.teacher.teacher_top_k}", self.training.method
        stored = (
            "of the classes that are not stored their probability together is kept, under "
            "softmax(z / T) alone"
        )
        # What a loss needs is known by importing it, and TensorFlow with it.
        loss = self.balance.logit_loss
        kept = loss == "kl" or not self.training.is_candle
        if of := "" if kept else getattr(LOGIT_LOSSES[loss], "needs_all_logits", ""):
            raise UserError(
                f"{given} contradicts --logit_loss={loss}, which is of {of}: {stored}. Give "
                "--logit_loss=kl, or leave --teacher_top_k out."
            )
        needs = None if method == "candle" else getattr(METHODS[method], "needs_all_logits", None)
        if needs and (of := needs(self.baseline)):
            raise UserError(
                f"{given} contradicts --method={method}, whose loss is of {of}: {stored}. Leave "
                "--teacher_top_k out, or give another --method."
            )

    def _check_unlabelled_images(self) -> None:
        place = f"--unlabelled_dir={self.unlabelled.unlabelled_dir}"
        if not self.training.is_candle:
            raise UserError(
                f"{place} contradicts --method={self.training.method}, which needs the labels of "
                "its images; give --method=candle, or leave --unlabelled_dir out."
            )
        if self.training.batch_size == 1:
            raise UserError(
                f"--batch_size=1 contradicts {place}: a batch holds images with and without "
                "labels; give a --batch_size of 2 or more."
            )

    def _check_unlabelled_views(self) -> None:
        views = f"--unlabelled_views={self.unlabelled.unlabelled_views}"
        if not self.unlabelled.unlabelled_dir:
            raise UserError(
                f"{views} is for images without labels, and there are none. Give "
                "--unlabelled_dir, or leave --unlabelled_views out."
            )
        self._refuse_new_views("unlabelled_views")
        needed, why = 1, ""
        if self.augment.mix_views == "half":
            needed, why = PERIOD, f"mix_views=half: the last two of each {PERIOD} views are mixed"
        elif self.augment.augmentation.startswith("alternating"):
            kind = self.augment.augmentation
            needed, why = 2, f"augmentation={kind}: whole images and crops take turns"
        if self.unlabelled.unlabelled_views < needed:
            raise UserError(
                f"{views} contradicts --{why}. Give at least {needed}, so that images without "
                "labels have all kinds of view."
            )

    def _check_maps(self) -> None:
        weight = f"--map_weight={self.maps.map_weight:g}"
        if not self.training.is_candle:
            raise UserError(
                f"{weight} contradicts --method={self.training.method}: the loss is an option of "
                "CANDLE. Give --method=candle, or --map_weight=0."
            )
        if self.teacher.teacher_view == "whole":
            raise UserError(
                f"{weight} contradicts --teacher_view=whole: teacher and student see different "
                "boxes of an image, and places in their maps do not correspond. Give "
                "--teacher_view=same, or --map_weight=0."
            )
        if self.teacher.teacher_mode == "online":
            raise UserError(
                f"{weight} contradicts --teacher_mode=online: the teacher's maps are stored for "
                "precomputed views. Give --teacher_mode=cached, or --map_weight=0."
            )

    def _check_two_phases(self) -> None:
        if self.balance.balance_replay:
            raise UserError(
                f"--balance_replay={self.balance.balance_replay} contradicts --binary_steps=2: "
                "each training phase has a lambda of its own. Give --binary_steps=1."
            )
        if self.optimizer.optimizer == "bop":
            raise UserError(
                "--binary_steps=2 contradicts --optimizer=bop: the first training phase has float "
                "kernels, which Bop cannot change; give --optimizer=adam or --binary_steps=1."
            )
        if self.optimizer.binary_weight_decay:
            raise UserError(
                f"--binary_weight_decay={self.optimizer.binary_weight_decay:g} contradicts "
                "--binary_steps=2: the first training phase has no binary kernels, and the second "
                "no decay; --weight_decay is for the kernels of the first."
            )

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON-ready values, by flag name."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in self._values().items()
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
        fields = cls.fields()
        unknown = sorted(set(values) - set(fields))
        if unknown:
            raise UserError(f"{origin} holds {unknown[0]!r}, which is not a setting.")
        return cls(
            **{name: convert_setting(fields[name], value, origin) for name, value in values.items()}
        )

    @classmethod
    def with_catalog(
        cls, given: dict[str, Any], origin: str, before: Mapping[str, Any] | None = None
    ) -> "Config":
        """Settings that a user gave: a data set of the catalog brings more of them.

        What is given wins over what the data set brings, and that wins over the recipe and over
        settings of before.

        Args:
            given: JSON values by flag name, of what was given and of nothing else.
            origin: where they are from, for messages.
            before: settings of a file that what is given changes.

        Raises:
            UserError: as `from_dict`; for an imbalance factor or a label weight without effect,
                and a classifier that no loss would train.
        """
        dataset = given.get("dataset")
        # What is no text is refused with the other values of a wrong type.
        brought = settings_of(dataset) if isinstance(dataset, str) else {}
        if before and before.get("dataset") == dataset:
            brought = {}  # it has them, or others that were chosen
        config = cls.from_dict({**(before or {}), **brought, **given}, origin)
        _refuse_unused_imbalance(config, given)
        _refuse_other_label_weight(config, given)
        refuse_random_classifier(config)
        return config

    @classmethod
    def from_json(cls, path: str | Path) -> "Config":
        """Reads what `to_json` wrote.

        Raises:
            UserError: where the file is missing, is not JSON, is of a pretraining, or holds what no
                run can use; where it names a plugin that is not imported yet.
        """
        if not Path(path).exists():
            raise UserError(f"There is no settings file {path}.")
        values = read_json_object(Path(path), "It is to hold settings, as a run's config.json.")
        if holds_pretraining(values):
            raise UserError(
                f"{path} holds the settings of a pretraining (python -m candle_tf.pretrain), not "
                "of a training. Give another folder, and what was pretrained by --student_weights."
            )
        if isinstance(plugin := values.get("plugin"), str):
            refuse_new_plugins(plugin, Path(path))
        if holds_whole_settings(values):
            values = {**OLDER_VALUES, **values}
        return cls.from_dict(values, str(path))


def settings_of_older_runs() -> dict[str, Any]:
    """What a setting was of runs that were begun before there was such a setting, by flag name."""
    return {**Config().to_dict(), **OLDER_VALUES}


def refuse_random_classifier(config: Config) -> None:
    """Refuses a training of CANDLE in which no loss reaches the student's classifier.

    `Config` itself takes such settings: they are those of the first stage of --method=candle_crt,
    and of older runs, which are still read.

    Raises:
        UserError: where lambda is 0 at every step, and no part of the total loss is on labels.
    """
    balance = config.balance
    if config.training.method != "candle" or balance.student_head == "tied":
        return
    if balance.largest_lambda > 0 or not balance.leaves_labels_out:
        return
    names = {"fixed": ("fixed_lambda",), "schedule": ("first_lambda", "last_lambda")}
    given = " ".join(f"--{name}=0" for name in names[balance.balance])
    raise UserError(
        f"{given} with --label_weight=0 leaves the feature loss alone, which does not reach the "
        "student's classifier: it would keep its random weights. Give --method=candle_crt, which "
        f"trains it afterwards, or a --label_weight or --{names[balance.balance][-1]} above 0."
    )


def _refuse_unused_imbalance(config: Config, given: Collection[str]) -> None:
    """An imbalance factor that was given, while the profile that keeps all images was not."""
    is_given = "imbalance_factor" in given and "profile" not in given
    if is_given and config.data.profile == "natural":
        raise UserError(
            f"--imbalance_factor={config.data.imbalance_factor:g} has no effect on "
            f"--dataset={config.data.dataset}, which keeps all images: give --profile=exponential "
            "or step too, or leave it out."
        )


def _refuse_other_label_weight(config: Config, given: Collection[str]) -> None:
    """The weight of CANDLE's label loss, given to a method with one of its own.

    0 is told alone (`without_effect`): a table may give it to all of its rows.
    """
    weight, method = config.balance.label_weight, config.training.method
    if "label_weight" not in given or not config.training.has_label_loss:
        return
    if weight == Config.fields()["label_weight"].default or config.balance.leaves_labels_out:
        return
    raise UserError(
        f"--label_weight={weight} contradicts --method={method}: it is of CANDLE's total loss. "
        f"The weight of the label loss of {method} is --distillation_label_weight "
        f"({config.baseline.distillation_label_weight:g} here): give that, or leave "
        "--label_weight out."
    )
