"""A training that is interrupted at a chosen moment, as by Ctrl-C.

with interrupt(SupervisedTrainer, "evaluate", call=2):
    train(config)                # ends in place of the second validation, or the test fails
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def interrupt(owner: type, method: str, call: int) -> Iterator[None]:
    """Raises KeyboardInterrupt in place of a call of a class's method, and expects it of the block.

    Args:
        owner: the class.
        method: its method's name.
        call: which call it is, from 1; those before are as always.
    """
    original, calls = getattr(owner, method), []

    def call_or_interrupt(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        if len(calls) == call:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, method, call_or_interrupt)
        with pytest.raises(KeyboardInterrupt):
            yield
