"""What a student costs on the device, before it is trained.

python -m candle_tf.summary --student=reactnet_a --image_size=64 --classes=101 --width=0.5

Per layer and in total: parameters of 1 and 32 bits, multiply-adds, OPs, size in the converted file,
size of the maps, and whether each binary layer will convert. --json=PATH writes all of it.
"""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from candle_tf import app
from candle_tf.errors import UserError
from candle_tf.files import write_atomically
from candle_tf.plugins import import_plugins
from candle_tf.reporting.table import human_bytes, text_table
from candle_tf.students.architectures.registry import STUDENTS
from candle_tf.students.settings import StudentSettings

if TYPE_CHECKING:
    from candle_tf.students.analysis.cost import LayerCost, Summary

_COLUMNS = ("layer", "kind", "map", "sees px", "1-bit", "32-bit", "binary MACs", "float MACs",
            "OPs", "bytes", "converts")  # fmt: skip
_TOTALS = ("binary_parameters", "float_parameters", "frozen_parameters", "binary_multiply_adds",
           "float_multiply_adds", "ops", "bytes")  # fmt: skip


def summary_text(summary: "Summary") -> str:
    """The printed form: one row a layer that has weights or changes the map, totals, problems."""
    shown = [layer for layer in summary.layers if _is_shown(layer, summary)]
    rest = summary.bytes - sum(layer.bytes for layer in shown)
    rows = [_row(layer) for layer in shown]
    rows.append({"layer": "(the rest of the file)", "bytes": _number(rest)})
    total = {"layer": "total", **_figures(summary), "converts": _conversion(summary)}
    shape = " x ".join(map(str, summary.input_shape))
    lines = [
        f"{summary.name}, {shape} pixels",
        text_table([*rows, total], _COLUMNS, left=("layer", "kind")),
        _in_words(summary),
    ]
    if summary.problems:
        lines.append("These layers will not be binary on the device:")
        lines += [f"  {name}: {reason}." for name, reason in summary.problems]
    return "\n".join(lines)


def summary_json(summary: "Summary") -> dict[str, Any]:
    """All figures, JSON-ready: "totals", and "layers" with their fields by name."""
    return {
        "student": summary.name,
        "input_shape": list(summary.input_shape),
        "totals": {name: getattr(summary, name) for name in _TOTALS},
        "layers": [{**dataclasses.asdict(layer), "ops": layer.ops} for layer in summary.layers],
    }


def _is_shown(layer: "LayerCost", summary: "Summary") -> bool:
    weights = layer.binary_parameters + layer.float_parameters + layer.frozen_parameters
    return bool(weights or layer.problem) or "Pool" in layer.kind or layer is summary.layers[0]


def _row(layer: "LayerCost") -> dict[str, object]:
    return {
        "layer": layer.name,
        "kind": layer.kind,
        "map": "x".join(map(str, layer.output)),
        "sees px": layer.receptive_field,
        **_figures(layer),
        "converts": {None: None, True: "yes", False: "NO"}[layer.converts],
    }


def _figures(costs: "LayerCost | Summary") -> dict[str, str | None]:
    return {
        "1-bit": _number(costs.binary_parameters),
        "32-bit": _number(costs.float_parameters + costs.frozen_parameters),
        "binary MACs": _number(costs.binary_multiply_adds),
        "float MACs": _number(costs.float_multiply_adds),
        "OPs": _number(costs.ops),
        "bytes": _number(costs.bytes),
    }


def _number(value: float) -> str | None:
    """With thousands separated; None, which a table shows as a dash, for 0."""
    return f"{value:,.0f}" if value else None


def _conversion(summary: "Summary") -> str:
    verdicts = [layer.converts for layer in summary.layers if layer.converts is not None]
    return f"{sum(verdicts)} of {len(verdicts)}"


def _in_words(summary: "Summary") -> str:
    in_float = 4 * (summary.binary_parameters + summary.float_parameters)
    return (
        f"{summary.binary_parameters / 1e6:.2f} M binary and {summary.float_parameters / 1e6:.2f} "
        f"M float parameters (and {summary.frozen_parameters / 1e6:.2f} M that are not trained); "
        f"{summary.binary_multiply_adds / 1e6:,.1f} M binary and "
        f"{summary.float_multiply_adds / 1e6:,.1f} M float multiply-adds; "
        f"{summary.ops / 1e6:.1f} M OPs (binary / 64 + float).\n"
        f"{human_bytes(summary.bytes)} as shipped (predicted), {human_bytes(in_float)} with all "
        f"parameters in float. {_conversion(summary)} binary layers will convert."
    )


def define_flags() -> None:
    """Defines this main's flags: when it runs, as other mains have flags of the same names."""
    defaults = StudentSettings()
    flags.DEFINE_string("plugin", "", "Python modules that register students of your own")
    flags.DEFINE_string("student", defaults.student, f"one of {', '.join(STUDENTS)}")
    flags.DEFINE_integer("image_size", defaults.image_size, "side of the input in pixels")
    flags.DEFINE_integer("classes", 1000, "number of classes")
    flags.DEFINE_float("width", defaults.width, "multiplier of the student's channels")
    flags.DEFINE_integer("stem_stride", defaults.stem_stride, "stride of the stem: 2 or 1")
    flags.DEFINE_string("json", None, "where to write the figures")


def main() -> None:
    """Prints the summary of --student."""
    given = flags.FLAGS
    import_plugins(given.plugin)
    # The same ranges, and the same words, as in a training.
    settings = StudentSettings(
        student=given.student,
        image_size=given.image_size,
        width=given.width,
        stem_stride=given.stem_stride,
    )
    if given.classes < 1:
        raise UserError(f"--classes={given.classes} is out of range; it must be at least 1.")
    from candle_tf.students.analysis.cost import summarize

    summary = summarize(settings.build(given.classes))
    if given.json:
        figures = {**summary_json(summary), "classes": given.classes, **settings.options}
        write_atomically(Path(given.json), (json.dumps(figures, indent=2) + "\n").encode())
    print(summary_text(summary))


def command() -> None:
    """What `candle-summary` and `python -m candle_tf.summary` run."""
    define_flags()
    app.run(lambda _: main())


if __name__ == "__main__":
    command()
