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
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from candle_tf.errors import UserError

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
        self._texts: dict[str, str] = {}
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
        self._texts[name] = target if isinstance(target, str) else ""

    def title(self, name: str) -> str:
        """A registered name and where its part is, for messages: "'mine' (my_parts:build)".

        Where an object that is no function or class was registered, the name alone.
        """
        part = self._targets[name]
        place = self._texts.get(name, "")
        if not place and hasattr(part, "__qualname__"):
            place = f"{part.__module__}:{part.__qualname__}"
        return f"{name!r} ({place})" if place else repr(name)

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
            UserError: for a module that is missing, needs one that is, or lacks the attribute.
        """
        target = self._targets[name]
        if isinstance(target, str):
            target = _import_target(name, target)
            self._targets[name] = target
        return target

    def __contains__(self, name: object) -> bool:
        return name in self._targets

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets)

    def __len__(self) -> int:
        return len(self._targets)


def _import_target(name: str, target: str) -> Any:
    """The object of "module:attribute", which a name stands for."""
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        # An error in a function that the module calls at its top has a traceback to be shown.
        if isinstance(error, AttributeError) and error.name != attribute:
            raise
        raise UserError(
            f"{name!r} stands for {target!r}, which cannot be imported: {error}. Correct the name "
            "where it is registered, or install what is missing."
        ) from error


def refuse_signature(what: str, part: Callable[..., Any], *args: str, **named: Any) -> None:
    """Refuses a function that cannot be called with what it will be called with.

    Args:
        what: the kind and the title of the part, e.g. "student 'mine' (my_parts:build)".
        part: the function; what cannot be inspected is taken.
        args: names of what is passed by place.
        **named: what is passed by name.

    Raises:
        UserError: what it is called with, and what it takes.
    """
    if not callable(part):
        raise UserError(f"{what} is of type {type(part).__name__}, which cannot be called.")
    try:
        signature = inspect.signature(part)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*args, **named)
    except TypeError as error:
        asked = ", ".join([*args, *(f"{name}={value!r}" for name, value in named.items())])
        raise UserError(
            f"{what} is called with ({asked}) and takes {signature}: {error}."
        ) from error
