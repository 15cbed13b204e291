"""The usual names of the subsets of a data set: train, Training_set, seg_train, valid, test2017.

subset_names(["training_set", "test_set"])     # {"training_set": "train", "test_set": "test"}
subset_of_value("Valid")                       # "validation"
"""

import re
from collections import defaultdict
from collections.abc import Iterable

_WORDS = {
    "train": ("train", "training", "trainset", "trainingset", "traindata", "trn"),
    "test": ("test", "testing", "testset", "testingset", "testdata", "tst"),
    "validation": (
        "val", "valid", "validation", "valset", "validset", "validationset", "dev", "eval",
        "evaluation",
    ),
}  # fmt: skip
_SUBSETS = {word: subset for subset, words in _WORDS.items() for word in words}
# Say nothing about which subset it is.
FILLERS = frozenset(
    {"set", "sets", "data", "dataset", "image", "images", "img", "imgs", "seg", "split", "folder",
     "subset", "files", "jpg", "jpeg", "png"}
)  # fmt: skip


def subset_names(names: Iterable[str]) -> dict[str, str]:
    """Finds the names of subsets among names of folders.

    A name has one word for a subset, in any case. Its other words say nothing ("set", "images",
    numbers), or are those of another subset too: "alphabet_train" and "alphabet_test".

    Args:
        names: Of folders beside each other.

    Returns:
        "train", "test" or "validation" by name; other names are left out.
    """
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for name in names:
        words = split_words(name)
        subsets = [word for word in words if word in _SUBSETS]
        if len(subsets) == 1:
            others = tuple(w for w in words if w not in _SUBSETS and w not in FILLERS)
            found[name] = _SUBSETS[subsets[0]], others
    shared: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for subset, others in found.values():
        shared[others].add(subset)
    return {
        name: subset
        for name, (subset, others) in found.items()
        if not others or len(shared[others]) > 1
    }


def subset_of_value(value: str) -> str:
    """The subset that a cell of a table names: "train", "test", "validation", or "" if none."""
    return subset_names([value]).get(value, "")


def named_subsets(name: str) -> set[str]:
    """The subsets that any of a name's words names: of "PublicTest" it is {"test"}."""
    return {_SUBSETS[word] for word in split_words(name) if word in _SUBSETS}


def split_words(name: str) -> list[str]:
    """The words of a name in lower case, without numbers: "SegTrain_2" has "seg" and "train"."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return re.findall(r"[^\W\d_]+", apart.casefold())
