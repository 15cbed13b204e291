"""One door for the names of classes, whichever folder, list or file they come from.

canonical_class_name("cat\\u200f ")      # "cat"
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from unicodedata import normalize

from absl import logging

# Characters that show nothing: marks of the writing direction, zero-width spaces, byte order marks,
# soft hyphens. Joiners are kept: scripts and emoji need them.
_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")

# Spaces of other widths or that no line breaks at, such as those that word processors write.
_PLAIN = dict.fromkeys(map(ord, "\t\u00a0\u1680\u202f\u205f\u3000"), " ")
_PLAIN |= dict.fromkeys(range(0x2000, 0x200B), " ")


def canonical_class_name(name: str) -> str:
    """A name in NFC without invisible characters and without space around it.

    So that names which a reader cannot tell apart are one class. A space of any kind within a name
    is a plain one.
    """
    if not name.isascii():
        name = normalize("NFC", _INVISIBLE.sub("", name))
    return name.translate(_PLAIN).strip(" ")


def warn_of_names_alike(names: Iterable[str]) -> None:
    """Warns of classes that differ only in upper and lower case, or in the number of spaces."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        alike[" ".join(name.casefold().split())].append(name)
    groups = [each for each in alike.values() if len(each) > 1]
    in_case = [each for each in groups if len({name.casefold() for name in each}) == 1]
    in_spaces = [each for each in groups if each not in in_case]
    for what, found in (("upper and lower case", in_case), ("the number of spaces", in_spaces)):
        if found:
            logging.warning(
                "classes that differ in %s only: %s%s. If they are the same, rename them",
                what,
                "; ".join(" and ".join(map(repr, each)) for each in found[:5]),
                f" and {len(found) - 5} more" if len(found) > 5 else "",
            )
