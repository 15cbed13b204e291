"""The model card beside an export: what it was made of, what it can do, and what it is not for.

card = model_card(results, operations=summary, files=names, versions=versions)
json.dumps(card), card_markdown(card)   # the same figures, for programs and for readers
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, Protocol

from candle_tf.data.catalog import CATALOG
from candle_tf.metrics import Metrics
from candle_tf.reporting.results import TITLES, Results, accuracies
from candle_tf.reporting.shipping import SHIPPABLE, shipping_sentence
from candle_tf.reporting.table import ABSENT, human_bytes, percent, printable

FORMAT = 1
# So many of the least accurate classes are named.
WORST = 5
# What the counts of each class are of; with the validation images, as in published tables.
COUNTED = "training images, validation images included"
SHOTS = {
    "many": f"more than 100 {COUNTED}",
    "medium": "20 to 100",
    "few": "fewer than 20",
}
LATENCY_COMMAND = "python -m tools.bench_latency RUN_DIR"
_USE = (
    "Naming which one of the listed classes an image shows, for images like those of the test "
    "set, on devices where size and energy matter."
)
_LIMITS = (
    "It always names one of its classes, also for an image that shows none of them, or several.",
    "Classes with few training images are recognised less often than the mean suggests: see the "
    "shot groups and the worst classes. A class with few test images has an uncertain figure.",
    "Its scores are not probabilities that one can rely on: see the calibration error.",
    "Nothing was measured on images from another source, by another camera or changed on purpose "
    "to mislead it, and nothing on fairness between groups of people.",
    "It must not decide alone where a mistake harms somebody.",
    "The times are those of one machine that is no phone or board; measure on the device.",
)
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#+\-.!|~&$:@=\"'^/])")


class Operations(Protocol):
    """The figures of `students.analysis.cost.Summary` in a card; all of one image."""

    @property
    def binary_multiply_adds(self) -> int: ...
    @property
    def float_multiply_adds(self) -> int: ...
    @property
    def ops(self) -> float: ...
    @property
    def binary_parameters(self) -> int: ...
    @property
    def float_parameters(self) -> int: ...
    @property
    def frozen_parameters(self) -> int: ...


def model_card(
    results: Results,
    *,
    operations: Operations,
    files: Mapping[str, str],
    starting_weights: Mapping[str, Any] | None,
    precision: str,
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """Gathers the card of one run's export.

    Args:
        results: of the run, with metrics of the LCE file ("tflite").
        operations: of the exported student.
        starting_weights: of the student, see `stages.student_weights.describe_starting_weights`.
        files: names by key of `results.export["bytes"]`; "tflite" is the measured one.
        precision: of binary convolutions in training, as --precision came out on this machine.
        versions: of what trained and exported it.

    Returns:
        "format", "title", "student", "starting_weights" (None for random ones), "data",
        "accuracy", "files" (bytes), "operations", "latency", "compared" (with what else one could
        ship), "made_with", "intended_use" and "limits"; plain values for JSON. Class counts include
        validation images, as "counts_of_classes" says. Accuracies and the
        calibration error are 0 to 1, latency ratios are to the float32 reference model's time.
    """
    config, export = results.config, results.export
    return {
        "format": FORMAT,
        "title": f"{config['student']} on {config['dataset']}",
        "student": {
            "architecture": config["student"],
            "width": config["width"],
            "stem_stride": config["stem_stride"],
            "image_size": config["image_size"],
            "classes": len(results.split["train_counts"]),
            "method": config["method"],
            "prior_correction": _prior_correction(results),
            "teacher": config["teacher"] if "teacher" in results.metrics else None,
        },
        "starting_weights": None if starting_weights is None else dict(starting_weights),
        "data": _data(results),
        "accuracy": {
            "file": files["tflite"],
            "same_class_as_keras": export["agreement"]["tflite"]["argmax_agreement"],
            **_accuracy(results, results.metrics["tflite"]),
        },
        "files": {files[key]: size for key, size in export["bytes"].items()},
        "operations": {
            "binary_multiply_adds": operations.binary_multiply_adds,
            "float_multiply_adds": operations.float_multiply_adds,
            "ops": operations.ops,
            "parameters_1_bit": operations.binary_parameters,
            "parameters_32_bit": operations.float_parameters + operations.frozen_parameters,
        },
        "latency": _latency(export["latency"], files),
        "compared": _compare(results),
        "made_with": {
            "seed": config["seed"],
            "training_precision": precision,
            "selected_epoch": results.selected_epoch,
            "last_epoch": results.last_epoch,
            "versions": dict(versions),
        },
        "intended_use": _USE,
        "limits": list(_LIMITS),
    }


def _prior_correction(results: Results) -> str:
    """As --prior_correction; of "auto" the strength that was found as well."""
    given = str(results.config["prior_correction"])
    if results.config["method"] != "candle":
        # Other methods have none, whatever the flag says.
        return "0"
    found = results.prior_correction
    return given if given != "auto" or found is None else f"{found:g} (auto)"


def _data(results: Results) -> dict[str, Any]:
    config, split = results.config, results.split
    counts = split["train_counts"]
    entry = CATALOG.get(config["dataset"])
    # The name alone, not the folders that lead to it on one machine.
    name = PurePath(config["data_dir"] or config["train_list"]).name
    return {
        "dataset": config["dataset"],
        "source": entry.source if entry else name or config["dataset"],
        "licence": entry.licence if entry else "unknown",
        "split_sha256": split["hash"],
        "profile": split["profile"],
        "selection": split["selection"],
        "imbalance_factor": max(counts.values()) / max(1, min(counts.values())),
        "counts_of_classes": COUNTED,
        "largest_class": max(counts.values()),
        "smallest_class": min(counts.values()),
        "pictures": {subset: split[subset] for subset in ("train", "validation", "test")},
        "classes_by_shots": {group: len(names) for group, names in split["groups"].items()},
        "unlabelled": results.data.get("unlabelled", {}).get("images", 0),
        "left_out": len(results.data.get("left_out", ())),
    }


def _accuracy(results: Results, metrics: Metrics) -> dict[str, Any]:
    counts = results.split["train_counts"]
    tested = [
        {"class": name, "accuracy": accuracy, "training_pictures": count}
        for (name, count), accuracy in zip(counts.items(), metrics.per_class, strict=True)
        if accuracy is not None
    ]
    return {
        "test_pictures": metrics.images,
        "mean": metrics.mean,
        "overall": metrics.overall,
        # Of more than ten classes.
        **({} if metrics.top_5 is None else {"top_5": metrics.top_5}),
        "groups": metrics.groups,
        "expected_calibration_error": metrics.expected_calibration_error,
        "worst_classes": sorted(tested, key=lambda row: row["accuracy"])[:WORST],
        "untested_classes": list(metrics.untested_classes),
    }


def _latency(latency: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
    timed = latency["tflite"]
    return {
        "file": files["tflite"],
        "relative_to": files[latency["baseline"]],
        **{key: timed[key] for key in ("ratio", "ratio_min", "ratio_max")},
        "threads": latency["threads"],
        "machine": latency["machine"],
        "command": LATENCY_COMMAND,
    }


def _compare(results: Results) -> dict[str, Any]:
    """The student's file beside its float32 reference model and the teacher in int8."""
    kinds = [kind for kind in SHIPPABLE if kind in results.metrics]
    models = {
        TITLES[kind]: {"bytes": results.bytes.get(kind), **accuracies(results.metrics[kind])}
        for kind in kinds
    }
    return {"models": models, "summary": shipping_sentence(results)}


def card_markdown(card: Mapping[str, Any]) -> str:
    """The card for readers; no text of a user (class names, folders) can act as Markdown."""
    student, made = card["student"], card["made_with"]
    parts = [
        f"# {_escape(card['title'])}",
        f"## Intended use\n\n{card['intended_use']}",
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in card["limits"]),
        _section("Student", _with_spaces({**student, "teacher": student["teacher"] or "none"})),
        _starting_section(card["starting_weights"]),
        _section("Data", _with_spaces(_data_lines(card["data"]))),
        _accuracy_section(card["accuracy"]),
        _section("Files, bytes", {name: f"{size:,}" for name, size in card["files"].items()}),
        _section("Operations of one image", _with_spaces(_operation_lines(card["operations"]))),
        "OPs are binary multiply-adds / 64 + those in float.",
        _latency_section(card["latency"]),
        _compared_section(card["compared"]),
        _section("Made with", _with_spaces({k: v for k, v in made.items() if k != "versions"})),
        _section("Versions", made["versions"]),
    ]
    return "\n\n".join(parts) + "\n"


def _starting_section(starting: Mapping[str, Any] | None) -> str:
    if starting is None:
        return "## Starting weights\n\nNone: the student began with random weights."
    head = "The student began with weights that were trained before, on data of their own."
    lines = {name: value or "unknown" for name, value in starting.items()}
    return _section("Starting weights", _with_spaces(lines), head)


def _data_lines(data: Mapping[str, Any]) -> dict[str, Any]:
    shots = {
        f"classes of {group} shots ({SHOTS[group]})": number
        for group, number in data["classes_by_shots"].items()
    }
    images = {f"{subset} images": number for subset, number in data["pictures"].items()}
    skipped = ("pictures", "classes_by_shots", "imbalance_factor")
    lines = {name: value for name, value in data.items() if name not in skipped}
    return {**lines, "imbalance factor": f"{data['imbalance_factor']:.2f}", **images, **shots}


def _accuracy_section(accuracy: Mapping[str, Any]) -> str:
    lines = {
        "mean over classes": accuracy["mean"],
        "mean over images": accuracy["overall"],
        **({"top-5, mean over classes": accuracy["top_5"]} if "top_5" in accuracy else {}),
        **{f"{group} shots": value for group, value in accuracy["groups"].items()},
        "expected calibration error": accuracy["expected_calibration_error"],
        "same class as Keras": accuracy["same_class_as_keras"],
    }
    worst = [
        {
            "worst class": row["class"],
            COUNTED: row["training_pictures"],
            "%": percent(row["accuracy"]),
        }
        for row in accuracy["worst_classes"]
    ]
    untested = accuracy["untested_classes"]
    head = (
        f"Of `{accuracy['file']}`, on {accuracy['test_pictures']} test images, which were used "
        "only for these figures."
    )
    return "\n\n".join(
        [
            _section("Accuracy, %", {k: percent(v) for k, v in lines.items()}, head),
            _table(worst, ("worst class", COUNTED, "%")),
            f"Classes without test images: {', '.join(map(_escape, untested)) or 'none'}.",
        ]
    )


def _operation_lines(operations: Mapping[str, Any]) -> dict[str, str]:
    names = {"ops": "OPs", "parameters_1_bit": "parameters, 1 bit",
             "parameters_32_bit": "parameters, 32 bits"}  # fmt: skip
    return {names.get(key, key): f"{value:,.0f}" for key, value in operations.items()}


def _latency_section(latency: Mapping[str, Any]) -> str:
    return (
        f"## Latency\n\n`{latency['file']}` took {latency['ratio']:.2f} of the time of "
        f"`{latency['relative_to']}` ({latency['ratio_min']:.2f} to {latency['ratio_max']:.2f} in "
        f"single rounds; threads: {latency['threads']}), in turn on this machine: "
        f"{_escape(latency['machine'])}. `{latency['command']}` measures it again."
    )


def _compared_section(compared: Mapping[str, Any]) -> str:
    rows = [
        {
            "file": name,
            "size": ABSENT if model["bytes"] is None else human_bytes(model["bytes"]),
            **{f"{key} %": percent(value) for key, value in model.items() if key != "bytes"},
        }
        for name, model in compared["models"].items()
    ]
    parts = ["## What else could be shipped", _table(rows, list(rows[0]))]
    return "\n\n".join(filter(None, [*parts, _escape(compared["summary"])]))


def _with_spaces(lines: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of the card as words; names of files and packages stay as they are."""
    return {name.replace("_", " "): value for name, value in lines.items()}


def _section(title: str, lines: Mapping[str, Any], head: str = "") -> str:
    rows = [{"": name, "value": value} for name, value in lines.items()]
    parts = [f"## {title}", *([head] if head else []), _table(rows, ("", "value"))]
    return "\n\n".join(parts)


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """As `table.text_table`, whose escaping is not enough for emphasis, links and entities."""
    lines = [list(columns), ["---"] * len(columns)]
    lines += [[_escape(str(row.get(name, ABSENT))) for name in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escape(text: str) -> str:
    """On one line, with a backslash before whatever Markdown could take for its own."""
    return _MARKDOWN.sub(r"\\\1", printable(text))
