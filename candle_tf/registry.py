"""Names and what they stand for, loaded when it is first asked for.

    STUDENTS: Registry[Callable[..., Any]] = Registry(
        {"reactnet_a": "candle_tf.students.architectures.reactnet:reactnet_a"}
    )
    STUDENTS.register("mine", "my_package.my_student:build")     # from anywhere, before the flags
    list(STUDENTS)                                               # names: nothing is imported
    STUDENTS["mine"]                                             # imports my_package.my_student

A registry is the choices of its flag. So a name is written once, and flags wait for no TensorFlow.
"""

import importlib
from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """A mapping from names to objects.

    A name that ends in "<...>", such as "keras_cv:<name>", stands for all names that begin as it
    does; see `find`.

    Args:
        targets: to each name "module:attribute", or the object itself.
    """

    def __init__(self, targets: Mapping[str, "str | T"]) -> None:
        self._targets: dict[str, Any] = {}
        for name, target in targets.items():
            self.register(name, target)

    def register(self, name: str, target: "str | T") -> None:
        """Adds a name.

        Raises:
            ValueError: for a name that is taken, or a text that is not "module:attribute".
        """
        if name in self._targets:
            raise ValueError(f"the name {name!r} is taken by {self._targets[name]!r}")
        if isinstance(target, str) and not all(target.partition(":")):
            raise ValueError(f"{target!r}, for the name {name!r}, is not 'module:attribute'")
        self._targets[name] = target

    def find(self, given: str) -> tuple[str, str] | None:
        """The registered name that a user's text stands for, and what it adds to it.

        Args:
            given: e.g. "digits", or "tfds:dtd:3.0.1" where "tfds:<builder>" is registered.

        Returns:
            E.g. ("digits", "") or ("tfds:<builder>", "dtd:3.0.1"); None for an unknown name.
        """
        for name in self:
            prefix, opens, _ = name.partition("<")
            if given == name and not opens:
                return name, ""
            if opens and given.startswith(prefix) and given != prefix:
                return name, given.removeprefix(prefix)
        return None

    def __getitem__(self, name: str) -> T:
        """The object of a name, imported where that has not happened yet.

        Raises:
            KeyError: for a name that is not registered.
        """
        target = self._targets[name]
        if isinstance(target, str):
            module, _, attribute = target.partition(":")
            target = getattr(importlib.import_module(module), attribute)
            self._targets[name] = target
        return target

    def __contains__(self, name: object) -> bool:
        return name in self._targets

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets)

    def __len__(self) -> int:
        return len(self._targets)
