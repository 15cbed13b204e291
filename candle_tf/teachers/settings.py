"""Settings of the teacher and of the views that it runs on."""

from dataclasses import dataclass

from candle_tf.errors import UserError
from candle_tf.settings import SettingsGroup, setting
from candle_tf.teachers.registry import OFFLINE_TEACHER, TEACHERS

TEACHER_VIEWS = ("whole", "same")
TEACHER_MODES = ("cached", "online")
EXPORT_TEACHER = ("auto", "off")


@dataclass(frozen=True)
class TeacherSettings(SettingsGroup):
    """Which network teaches, and on which views of an image."""

    teacher: str = setting(
        OFFLINE_TEACHER,
        f"{', '.join(TEACHERS)}; the EfficientNet-Lites work offline",
    )
    teacher_weights: str = setting("", "a weights file for the teacher, instead of its own")
    teacher_weights_sha256: str = setting("", "the SHA-256 which that file must have")
    teacher_view: str = setting(
        "whole",
        "what the teacher runs on: the whole image, or the same views as the student",
        choices=TEACHER_VIEWS,
    )
    teacher_mode: str = setting(
        "cached",
        "cached: the teacher's outputs on each precomputed view are computed once and cached; "
        "online: it runs on new views in every epoch, at its own cost in every step (with "
        "--teacher_view=same)",
        choices=TEACHER_MODES,
    )
    views: int = setting(
        4,
        "for --teacher_view=same: precomputed views of each image, used one after the other",
        at_least=1,
        at_most=10_000,
    )
    tail_views: int = setting(
        0,
        "where above --views: most precomputed views of an image of a rare class, which gets "
        "--views times the largest class's images per image of its own",
        at_least=0,
        at_most=10_000,
    )

    teacher_top_k: int = setting(
        0,
        "for thousands of classes: how many of the teacher's logits are stored for each view, with "
        "the probability of all others together; 0 for all logits",
        at_least=0,
    )
    export_teacher: str = setting(
        "auto",
        "auto: the calibrated teacher is also written as an int8 TFLite file and measured like the "
        "student, to compare what one could ship; off: it is not",
        choices=EXPORT_TEACHER,
    )

    def check(self) -> None:
        if TEACHERS.find(self.teacher) is None:
            *first, last = TEACHERS
            raise UserError(
                f"--teacher={self.teacher} is not known; it is {', '.join(first)} or {last}."
            )
        if self.teacher_weights_sha256 and not self.teacher_weights:
            raise UserError(
                f"--teacher_weights_sha256={self.teacher_weights_sha256} is given, but "
                "--teacher_weights, the file it belongs to, is empty."
            )
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
