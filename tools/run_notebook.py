"""Runs a notebook's code cells in order, in one process, and keeps what they print.

    python -m tools.run_notebook examples/quickstart.ipynb --out=executed.ipynb

The value of a cell's last expression is kept as Jupyter does, as text. Magics are not known. The
first error ends the run.
"""

import ast
import contextlib
import io
import json
from pathlib import Path
from typing import Any

from absl import flags

from candle_tf import app
from candle_tf.errors import UserError
from candle_tf.files import write_atomically

_OUT = flags.DEFINE_string("out", "", "where to write the executed notebook; over it if empty")


def main(arguments: list[str]) -> None:
    """Runs one notebook."""
    if len(arguments) != 1:
        raise UserError("Give one notebook: python -m tools.run_notebook NOTEBOOK")
    path = Path(arguments[0])
    notebook = json.loads(path.read_text())
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells, start=1):
        cell["execution_count"] = number
        cell["outputs"] = _run("".join(cell["source"]), number, names)
    text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    write_atomically(Path(_OUT.value) if _OUT.value else path, text.encode())


def _run(source: str, number: int, names: dict[str, Any]) -> list[dict[str, Any]]:
    """The outputs of one cell, as notebooks hold them."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    place = f"<cell {number}>"
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, place, "exec"), names)
        value = None
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), place, "eval"), names)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        text = printed.getvalue().splitlines(keepends=True)
        outputs.append({"output_type": "stream", "name": "stdout", "text": text})
    if value is not None:
        outputs.append(
            {
                "output_type": "execute_result",
                "execution_count": number,
                "metadata": {},
                "data": {"text/plain": repr(value).splitlines(keepends=True)},
            }
        )
    return outputs


if __name__ == "__main__":
    app.run(lambda argv: main(argv[1:]), takes_arguments=True, needs_arguments=True)
