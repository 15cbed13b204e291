"""The field's words in code, messages, docs and configs; functions are named by verbs or nouns.

`WORDS` are patterns of this project's former words, each with the word to use. A use with another
meaning, or one that a file format or flag keeps, is in `ALLOWED` with its reason.
"""

import ast
import re
from pathlib import Path

import pytest

import candle_tf

ROOT = Path(candle_tf.__file__).parents[1]
FOLDERS = ("candle_tf", "tools", "tests", "docs", "configs")
SUFFIXES = (".py", ".md", ".cfg", ".html", ".txt")


def word(pattern: str) -> str:
    """A pattern that matches whole words, also between underscores."""
    return rf"(?<![A-Za-z])(?:{pattern})(?![A-Za-z])"


# Pattern, to be searched in any case: the word to use.
WORDS: dict[str, str] = {
    r"pictures?": "image",
    word(r"answer(s|ed|ing)?"): "teacher outputs, targets; response, reply",
    word(r"look(s|ed|ing)?(?![ -]?up|[ _]like)"): "runs on, reads, is computed once and cached",
    word(r"players?"): "parameter group",
    r"hand(s|ed|ing)?[ _]over": "set, pass",
    word(r"ascen(d|ds|t)"): "maximize",
    r"(?<!in )" + word(r"terms"): "losses",
    word(r"(loss|kl|similarity)[ _]term"): "loss",
    word(r"objectives?"): "total loss",
    r"training[ _]form|" + word(r"forms"): "implementation, compute policy",
    word(r"taps?"): "kn2row; filter weight",
    r"laid[- _]out[ _]windows": "im2col",
    word(r"(test|train|training|validation|two|other|each)[ _]parts?"): "subset",
    word(r"squeezed?"): "stretch",
    r"uncut": "original aspect",
    r"fixed[ _]?views?": "precomputed views",
    word(r"draw(s|n|ing)?[ _](a )?(random |new )?views?"): "sample an augmentation",
    r"canvas": "image array",
    r"StreamedCanvas|TeacherAnswers|SourcePlace": "the class's new name",
    word(r"signs? (that )?turns?|turned[ _]signs?"): "flips",
    word(r"settl(e|es|ed|ing)"): "re-estimate",
    word(r"step[ _](one|two)"): "training phase",
    r"tak(e|es|en|ing)[ _]over": "copy weights",
    r"uninformed": "uniform-prediction baseline",
    word(r"twins?"): "float32 reference model",
    r"(held|holds?)[ _]against": "compared with",
    word(r"anew"): "again",
    word(r"mend(s|ed|ing)?"): "fix",
    word(r"go(es|ne)?[ _]on(?![ _](a|the|to))"): "resumes, continues",
    r"tak(e|es|en)[ _]up": "resumes, uses",
    r"(?<!`)``(?!`)": "single backticks",
    r"(?<=[a-z0-9] )\([NCBHKRS](, [A-Z0-9]+)*,?\)": "shapes as [N, C]",
}

# (start of the path, pattern of the matched line): why the line is allowed.
ALLOWED: dict[tuple[str, str], str] = {
    (
        "candle_tf/data/settings.py",
        r"squeeze",
    ): "accepted flag value, of earlier flagfiles and runs",
    ("tests/test_config.py", r"squeeze"): "the same",
    ("docs/data.md", r"older name"): "the same",
    ("CHANGELOG.md", r"still accepted"): "the same",
    ("", r"\.squeeze\(|squeeze=False"): "NumPy's, TensorFlow's and Matplotlib's name",
    ("", r"(?i)squeeze[-_ ]and[-_ ]excit|gate_squeeze"): "a layer of the literature",
    ("", r"FigureCanvasAgg"): "Matplotlib's name",
    ("candle_tf/reporting/html.py", r"<picture>.*</picture>"): "an element of HTML",
    ("", r"[\"']\w*pictures[\"']"): "keys of model_card.json",
    ("", r"[\"'](epoch_)?objective[\"']|r.objective is nan"): "column of steps.csv",
    ("docs/data.md", r"bad input|^\|"): "messages, compared with the code by a test",
}


# Words that end like a participle and are none, or that are verbs.
NOT_PARTICIPLES = {"seed", "feed", "embed", "need", "token", "then", "open", "len"}
IRREGULAR = {"drawn", "shown", "kept", "found", "built", "told", "given", "taken", "made", "sent",
             "seen", "laid", "put", "worn"}  # fmt: skip
# First words of names that end in a participle: predicates and verbs.
VERBS = {"is", "has", "uses", "assert", "load", "make", "open", "read", "restore", "save", "verify"}


def texts() -> list[Path]:
    found = [path for name in FOLDERS for path in (ROOT / name).rglob("*")]
    found += [ROOT / name for name in ("README.md", "RESULTS.md", "CHANGELOG.md", "Makefile")]
    return sorted(
        path
        for path in found
        if (path.suffix in SUFFIXES or path.name == "Makefile") and path != Path(__file__)
    )


def is_allowed(name: str, line: str) -> bool:
    return any(name.startswith(start) and re.search(pattern, line) for start, pattern in ALLOWED)


@pytest.mark.parametrize("pattern", WORDS, ids=WORDS.values())
def test_the_field_has_a_word_for_it(pattern):
    sought = re.compile(pattern, re.IGNORECASE)
    found = []
    for path in texts():
        name = path.relative_to(ROOT).as_posix()
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            if sought.search(line) and not is_allowed(name, line):
                found.append(f"{name}:{number}: {line.strip()}")
    assert not found, f"write {WORDS[pattern]!r} instead:\n" + "\n".join(found)


def is_participle(name: str) -> bool:
    words = name.strip("_").split("_")
    last = words[-1]
    ends = re.search(r"(ed|en)$", last) is not None and last not in NOT_PARTICIPLES
    return (ends or last in IRREGULAR) and (len(words) == 1 or words[0] not in VERBS)


def test_functions_are_named_by_verbs_or_nouns():
    found = []
    for path in (path for path in texts() if path.suffix == ".py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef) or node.name.startswith("test_"):
                continue
            decorators = " ".join(ast.unparse(each) for each in node.decorator_list)
            exempt = "property" in decorators or "fixture" in decorators
            if is_participle(node.name) and not exempt:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}")
    assert not found, "name them by what they do or return:\n" + "\n".join(found)
