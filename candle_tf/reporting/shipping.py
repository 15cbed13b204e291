"""Which file to ship: the binary student, or the teacher it learned from in 8 bits.

print(shipping_sentence(results))
"""

from candle_tf.metrics import Metrics
from candle_tf.reporting.results import Results
from candle_tf.reporting.table import human_bytes, percent

STUDENT, TEACHER = "tflite", "teacher_int8"
# What can run on a device.
SHIPPABLE = (STUDENT, "tflite_float", TEACHER)
NO_FILES = (
    "No files were written (--export_student=off); the same command with --export_student=auto "
    "writes them without training again."
)
# The rarest classes that a split has.
_RAREST = ("few", "medium", "many")
# What --label_weight is beside a number.
_WORDS = ("auto", "adaptive")
# Methods with --label_weight.
_CANDLE = ("candle", "candle_crt")


def shipping_sentence(results: Results) -> str:
    """The student's accuracy, and beside the int8 teacher: which is smaller, faster here, better.

    Args:
        results: of a run.

    Returns:
        One sentence; where there is no int8 teacher, a second one says why. Of a method without a
        teacher the accuracy alone. Empty where no student was measured.
    """
    student = results.metrics.get(STUDENT, results.metrics.get("student"))
    if student is None:
        return ""
    reaches = f"The student reaches {percent(student.mean)} % mean class accuracy"
    if is_export_off(results):
        return f"{reaches}. {NO_FILES}"
    if "teacher" not in results.metrics or STUDENT not in results.metrics:
        return f"{reaches}."
    record = results.export.get(TEACHER)
    if record is None:
        return f"{reaches}. The teacher was not written as an int8 file (--export_teacher=off)."
    if "error" in record:
        return f"{reaches}. The teacher could not be written as an int8 file: {record['error']}"
    teacher = results.metrics[TEACHER]
    parts = (
        _compare_sizes(results.bytes[STUDENT], results.bytes[TEACHER]),
        _compare_times(record["latency"][STUDENT]["ratio"]),
        _compare_accuracies(student, teacher),
    )
    beside = f"its teacher in int8 ({record['resolution']} px, {percent(teacher.mean)} %)"
    return f"{reaches}; beside {beside}, it {'; '.join(parts)}."


def is_export_off(results: Results) -> bool:
    """Whether a run has no files because none were asked for."""
    off = results.config.get("export_student") == "off"
    return off and STUDENT not in results.metrics and not results.refused


def weaker_teacher_sentence(results: Results) -> str:
    """Says so where the student is more accurate than the teacher that it learned from; or "".

    A second sentence says how much the run learned from labels, or how it could.
    """
    if "teacher" not in results.metrics or "student" not in results.metrics:
        return ""
    student, teacher = results.metrics["student"].mean, results.metrics["teacher"].mean
    if student <= teacher:
        return ""
    return (
        f"The teacher was the weaker one: {percent(teacher)} % over all classes, its student "
        f"{percent(student)} %. {_labels_sentence(results)}"
    )


def _labels_sentence(results: Results) -> str:
    given = str(results.config.get("label_weight", "0"))
    is_candle = results.config.get("method", "candle") in _CANDLE
    weight = results.label_weight
    if weight is None and is_candle and given not in _WORDS:
        weight = float(given)
    flag = f" (--label_weight={given})" if is_candle else ""
    if weight:
        return f"Labels had {weight:.2g} of the total loss{flag}."
    if not is_candle:
        return "The labels know more than this teacher."
    if weight is None:
        return f"Labels had a part of the total loss{flag}."
    advice = "a number for --label_weight" if given in _WORDS else "--label_weight=auto"
    return f"The labels know more than this teacher: {advice} learns from them, too."


def _compare_sizes(student: int, teacher: int) -> str:
    word = "smaller" if student < teacher else "larger"
    factor = max(student, teacher) / min(student, teacher)
    return f"is {factor:.1f} times {word} ({human_bytes(student)} against {human_bytes(teacher)})"


def _compare_times(ratio: float) -> str:
    if ratio < 1:
        return f"takes {1 / ratio:.1f} times less time an image on this machine"
    return f"takes {ratio:.1f} times more time an image on this machine"


def _compare_accuracies(student: Metrics, teacher: Metrics) -> str:
    group = next((name for name in _RAREST if name in student.groups), None)
    ours, its = (
        (student.groups[group], teacher.groups[group]) if group else (student.mean, teacher.mean)
    )
    where = f"on {group}-shot classes" if group else "on the mean over classes"
    points = 100 * (ours - its)
    if abs(points) < 0.05:
        return f"is as accurate {where} ({percent(ours)} %)"
    word = "better" if points > 0 else "worse"
    return f"is {abs(points):.1f} points {word} {where} ({percent(ours)} against {percent(its)} %)"
