"""Settings of the teacher and of the views that it runs on."""

from dataclasses import dataclass
from typing import NamedTuple

from candle_tf.errors import UserError
from candle_tf.files import expand_home
from candle_tf.methods.registry import WITH_TEACHER
from candle_tf.settings import SettingsGroup, setting
from candle_tf.teachers.registry import OFFLINE_TEACHER, TEACHERS

TEACHER_VIEWS = ("whole", "same")
TEACHER_MODES = ("cached", "online")
EXPORT_TEACHER = ("auto", "off")


class TeacherChoice(NamedTuple):
    """One of the teachers that --teacher names.

    Attributes:
        name: such as "efficientnet_lite0" or "keras_cv:resnet50_imagenet".
        weights: its weights file, "" for its own.
        sha256: what that file's SHA-256 must be, "" for any.
    """

    name: str
    weights: str
    sha256: str


def split_teachers(teacher: str, weights: str = "", sha256: str = "") -> list[TeacherChoice]:
    """The teachers whose names are joined by "+", each with its weights file.

    Args:
        teacher: of --teacher. It is one where a piece between its "+" is no teacher's name, as of a
            registered teacher whose own choices have a "+".
        weights: of --teacher_weights: a path; of several teachers one for each, separated by
            commas, empty for a teacher's own, or "" for that of all.
        sha256: of --teacher_weights_sha256, as `weights`.

    Raises:
        UserError: where there are not as many files as teachers, or a teacher is named twice.
    """
    names = teacher.split("+")
    if TEACHERS.find(teacher) and not all(map(TEACHERS.find, names)):
        names = [teacher]
    if len(names) == 1:
        return [TeacherChoice(teacher, weights, sha256)]
    files, sums = (
        _split(flag, given, names)
        for flag, given in (("teacher_weights", weights), ("teacher_weights_sha256", sha256))
    )
    chosen = [
        TeacherChoice(name, expand_home(file), digest)
        for name, file, digest in zip(names, files, sums, strict=True)
    ]
    for place, choice in enumerate(chosen):
        if choice in chosen[:place]:
            raise UserError(
                f"--teacher={teacher} names {choice.name} twice, which adds nothing; leave one out."
            )
    return chosen


def _split(flag: str, given: str, names: list[str]) -> list[str]:
    each = given.split(",") if given else [""] * len(names)
    if len(each) != len(names):
        raise UserError(
            f"--{flag}={given} gives {len(each)} for the {len(names)} teachers of "
            f"--teacher={'+'.join(names)}: give one for each in their order, separated by commas, "
            f"and nothing for a teacher's own: --{flag}={',' * (len(names) - 2)},<the last one's>."
        )
    return each


def check_teachers(teacher: str, weights: str, sha256: str) -> None:
    """Refuses what names no teachers; arguments are those of `split_teachers`.

    Raises:
        UserError: for an unknown name, a SHA-256 without a file, or as `split_teachers`.
    """
    chosen = split_teachers(teacher, weights, sha256)
    for choice in chosen:
        if TEACHERS.find(choice.name) is None:
            *first, last = TEACHERS
            raise UserError(
                f"--teacher={choice.name} is not known; it is {', '.join(first)} or {last}."
            )
        if choice.sha256 and not choice.weights:
            raise UserError(
                f"--teacher_weights_sha256={choice.sha256} is given, but --teacher_weights, "
                "the file it belongs to, is empty."
            )


@dataclass(frozen=True)
class TeacherSettings(SettingsGroup):
    """Which network teaches, and on which views of an image."""

    teacher: str = setting(
        OFFLINE_TEACHER,
        f"{', '.join(TEACHERS)}; the EfficientNet-Lites work offline; several joined by + teach "
        "with their features side by side",
        only_for=WITH_TEACHER,
    )
    teacher_weights: str = setting(
        "",
        "a weights file for the teacher, instead of its own; of several teachers one for each, "
        "separated by commas, empty for a teacher's own",
        only_for=WITH_TEACHER,
    )
    teacher_weights_sha256: str = setting(
        "",
        "the SHA-256 which that file must have",
        only_for="teacher_weights",
    )
    teacher_layers: int = setting(
        1,
        "layers of the teacher whose pooled features are taken side by side: the last, and as many "
        "before it at ever earlier strides, for images unlike those it was trained on",
        at_least=1,
        at_most=5,
        only_for=WITH_TEACHER,
    )
    teacher_view: str = setting(
        "whole",
        "what the teacher runs on: the whole image, or the same views as the student",
        choices=TEACHER_VIEWS,
    )
    teacher_mode: str = setting(
        "cached",
        "cached: the teacher's outputs on each precomputed view are computed once and cached; "
        "online: it runs on new views in every epoch, at its own cost in every step",
        choices=TEACHER_MODES,
        only_for="teacher_view=same",
    )
    views: int = setting(
        4,
        "precomputed views of each image, used one after the other",
        at_least=1,
        at_most=10_000,
        only_for="teacher_view=same and teacher_mode=cached",
    )
    tail_views: int = setting(
        0,
        "where above --views: most precomputed views of an image of a rare class, which gets "
        "--views times the largest class's images per image of its own",
        at_least=0,
        at_most=10_000,
        only_for="teacher_view=same and teacher_mode=cached",
    )

    teacher_top_k: int = setting(
        0,
        "for thousands of classes: how many of the teacher's logits are stored for each view, with "
        "the probability of all others together; 0 for all logits",
        at_least=0,
        only_for=WITH_TEACHER,
    )
    export_teacher: str = setting(
        "auto",
        "auto: the calibrated teacher is also written as an int8 TFLite file and measured like the "
        "student, to compare what one could ship; off: it is not",
        choices=EXPORT_TEACHER,
        only_for=WITH_TEACHER,
        nothing="off",
    )

    def check(self) -> None:
        check_teachers(self.teacher, self.teacher_weights, self.teacher_weights_sha256)
        if self.teacher_mode == "online" and self.teacher_view == "whole":
            raise UserError(
                "--teacher_mode=online contradicts --teacher_view=whole: the teacher's output on "
                "a whole image is the same in every epoch. Give --teacher_view=same, or "
                "--teacher_mode=cached."
            )
        if self.teacher_top_k and self.teacher_mode == "online":
            raise UserError(
                f"--teacher_top_k={self.teacher_top_k} contradicts --teacher_mode=online, which "
                "stores no logits; give --teacher_mode=cached, or leave --teacher_top_k out."
            )

    @property
    def precomputes_views(self) -> bool:
        """Whether the student sees `views` of each image, on which the teacher's outputs are
        cached; else it sees new views in every epoch."""
        return self.teacher_view == "same" and self.teacher_mode == "cached"
