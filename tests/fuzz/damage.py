"""Damages files, reproducibly: bytes of any file, and values of JSON."""

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

# Texts that stand for themselves, as JSON's encoder would not write some of them.
_HOSTILE_JSON = (
    *("null", "true", "-1", "0", "1.5", "NaN", "-Infinity", "1e999", "1" + "0" * 400, "9" * 5000),
    *('""', '"\\ud800"', '"\\u0000"', '"\\u001b[2J"', '"../../x"', "[]", "{}", "[[]]", '{"": {}}'),
    *("[" * 2000 + "]" * 2000, '{"a":' * 2000 + "1" + "}" * 2000, "99999999999999999999"),
)
_PLACE = "\u2603 a value goes here \u2603"


def damaged_bytes(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Yields a file with bytes replaced, cut off, left out, repeated or inserted."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        yield _DAMAGES[random.integers(len(_DAMAGES))](bytearray(data), random)


def _replace(data: bytearray, random: np.random.Generator) -> bytes:
    for place in random.integers(0, len(data), int(random.integers(1, 9))):
        data[place] = random.choice([0, 255, 0x7F, 0x80, int(random.integers(256))])
    return bytes(data)


def _cut_off(data: bytearray, random: np.random.Generator) -> bytes:
    return bytes(data[: random.integers(len(data))])


def _leave_out(data: bytearray, random: np.random.Generator) -> bytes:
    start = int(random.integers(len(data)))
    del data[start : start + int(random.integers(1, 64))]
    return bytes(data)


def _repeat(data: bytearray, random: np.random.Generator) -> bytes:
    start = int(random.integers(len(data)))
    piece = data[start : start + int(random.integers(1, 64))]
    data[start:start] = piece * int(random.integers(1, 9))
    return bytes(data)


def _insert(data: bytearray, random: np.random.Generator) -> bytes:
    start = int(random.integers(len(data)))
    data[start:start] = random.bytes(int(random.integers(1, 9)))
    return bytes(data)


_Damage = Callable[[bytearray, np.random.Generator], bytes]
# Replaced bytes twice as often: what is read goes furthest with them.
_DAMAGES: tuple[_Damage, ...] = (_replace, _replace, _cut_off, _leave_out, _repeat, _insert)


def damaged_json(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Yields JSON with one value replaced or left out; every third time, damaged bytes."""
    random = np.random.default_rng([seed, 1])
    content = json.loads(data)
    plain = damaged_bytes(data, count, seed)
    for number in range(count):
        if number % 3 == 2:
            yield next(plain)
            continue
        changed = copy.deepcopy(content)
        holder, key = random_place(changed, random)
        if random.random() < 0.1:
            del holder[key]
            yield json.dumps(changed).encode()
            continue
        holder[key] = _PLACE
        hostile = str(random.choice(_HOSTILE_JSON))
        yield json.dumps(changed, ensure_ascii=False).replace(f'"{_PLACE}"', hostile).encode()


def random_place(content: Any, random: np.random.Generator) -> tuple[Any, Any]:
    """A container inside of JSON's values, and one of its keys; deep ones as often as others."""
    holder, key = content, _any_key(content, random)
    while isinstance(holder[key], dict | list) and holder[key] and random.random() < 0.8:
        holder = holder[key]
        key = _any_key(holder, random)
    return holder, key


def _any_key(holder: Any, random: np.random.Generator) -> Any:
    keys = list(holder) if isinstance(holder, dict) else range(len(holder))
    return keys[random.integers(len(keys))]
