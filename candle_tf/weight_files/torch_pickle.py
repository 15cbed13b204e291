"""Reads tensors out of PyTorch's weights files, of the old and of the zip layout, with NumPy alone.

    state = read_state_dict(Path("efficientnet-lite0.pth").read_bytes(), "efficientnet-lite0.pth")
    state["_conv_stem.weight"].shape    # (32, 3, 3, 3)

An old file (before PyTorch 1.6) is five pickles in a row (a magic number, the protocol's version,
the writing machine's sizes, the state dict, the keys of the storages) and then, for each key, an
int64 count and that many raw little-endian elements. A newer one is a ZIP archive, not compressed,
with one pickle (data.pkl) and a member of raw elements for each storage (data/<key>).

What a training saved beside its weights (epoch, optimizer) is passed over: of a mapping with the
entry "state_dict", that entry is read.

A pickle is a program. This one is not given to Python's unpickler: a small stack machine reads its
opcodes and knows only how to build numbers, strings, tuples, lists, mappings and the two things a
state dict is made of, storages and strided tensors on them. A global it does not know is refused by
name, nothing is ever imported or called, and every tensor is compared with its storage's bounds.
"""

import io
import math
import pickletools
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from candle_tf.errors import UserError

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_ZIP_MAGIC = b"PK\x03\x04"

_ELEMENT_TYPES = {
    "torch DoubleStorage": "<f8",
    "torch FloatStorage": "<f4",
    "torch HalfStorage": "<f2",
    "torch LongStorage": "<i8",
    "torch IntStorage": "<i4",
    "torch ShortStorage": "<i2",
    "torch CharStorage": "|i1",
    "torch ByteStorage": "|u1",
    "torch BoolStorage": "|b1",
}
_MAPPING = "collections OrderedDict"
_TENSOR = "torch._utils _rebuild_tensor_v2"
_PARAMETER = "torch._utils _rebuild_parameter"
# Where a training's checkpoint keeps the weights.
_STATE = "state_dict"

# NumPy's own limit on an array's dimensions.
_MOST_DIMENSIONS = 32


@dataclass(frozen=True)
class _Global:
    """Stands for an admitted global; `name` is "module attribute"."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """`elements` numbers of type `dtype`, stored under `key` in the file's last part."""

    key: str
    dtype: str
    elements: int


@dataclass(frozen=True)
class _Tensor:
    """A strided view of `storage`; `offset`, `size` and `stride` count elements."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _MalformedError(Exception):
    """What is wrong inside the file; `read_state_dict` adds which file it is."""


def read_state_dict(data: bytes, origin: str) -> dict[str, np.ndarray]:
    """Reads every tensor of a state dict, or of a training's checkpoint that holds one.

    Args:
        data: the whole file, of either layout.
        origin: where `data` came from, for messages.

    Returns:
        Names, in the file's order, and read-only arrays with the shapes and element types they were
        saved with (float16/32/64, int8/16/32/64, uint8 or bool, little-endian). The arrays
        are views of `data`; those of one storage share its memory.

    Raises:
        UserError: `data` is truncated, damaged, of neither layout, or asks for a global that a
            state dict has no need of; or a number is not finite.
    """
    try:
        state = _read_zip(data) if data.startswith(_ZIP_MAGIC) else _read_old(data)
        for name, array in state.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                _refuse(f"tensor {name!r} holds NaN or infinity")
        return state
    except _MalformedError as error:
        raise UserError(
            f"{origin} is not a PyTorch state dict that can be read safely: {error}. Use an "
            "undamaged weights file from a source you trust, saved as a plain state dict."
        ) from error


def _read_zip(data: bytes) -> dict[str, np.ndarray]:
    # What zipfile raises for archives that are damaged, encrypted or of an unknown kind.
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _read_archive(archive)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise _MalformedError(f"its ZIP archive is truncated or damaged ({error})") from error


def _read_archive(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    members = {member.filename: member for member in archive.infolist()}
    if len(members) < len(archive.infolist()):
        _refuse("its archive holds a member twice")
    for member in members.values():
        # PyTorch does not compress; and what is not compressed cannot unpack to more than it is.
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            _refuse(f"its member {member.filename} is compressed")
    pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        _refuse("its archive holds no single data.pkl")
    folder = pickles[0].removesuffix("data.pkl")
    order = f"{folder}byteorder"
    if order in members and archive.read(order) != b"little":
        _refuse("it was not written on a little-endian machine")
    state, _ = _read_pickle_and_storages(io.BytesIO(archive.read(pickles[0])))
    tensors = _checked_tensors(state)
    storages: dict[str, bytes] = {}
    for storage in {tensor.storage for tensor in tensors.values()}:
        name = f"{folder}data/{storage.key}"
        size = storage.elements * np.dtype(storage.dtype).itemsize
        if name not in members or members[name].file_size != size:
            _refuse(f"its storage {storage.key} is not {size} bytes in {name}")
        storages[storage.key] = archive.read(name)
    return {name: _array(storages[t.storage.key], 0, t) for name, t in tensors.items()}


def _read_old(data: bytes) -> dict[str, np.ndarray]:
    stream = io.BytesIO(data)
    if _read_pickle(stream) != _MAGIC:
        _refuse("it does not start with the magic number of PyTorch's old layout")
    if _read_pickle(stream) != _PROTOCOL:
        _refuse(f"its protocol version is not {_PROTOCOL}")
    system = _read_pickle(stream)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        _refuse("it was not written on a little-endian machine")
    state, storages = _read_pickle_and_storages(stream)
    tensors = _checked_tensors(state)
    keys = _read_pickle(stream)
    offsets = _storage_offsets(data, stream.tell(), keys, storages)
    return {name: _array(data, offsets[t.storage.key], t) for name, t in tensors.items()}


def _refuse(reason: str) -> NoReturn:
    raise _MalformedError(reason)


def _read_pickle(stream: io.BytesIO) -> Any:
    """What the pickle at `stream` stands for; leaves `stream` behind it."""
    return _read_pickle_and_storages(stream)[0]


def _read_pickle_and_storages(stream: io.BytesIO) -> tuple[Any, dict[str, _Storage]]:
    """Runs the stack machine over the pickle at `stream`; also the storages it names, by key."""
    machine = _StackMachine()
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                return machine.result(), machine.storages
            machine.step(opcode.name, argument)
    # What pickletools raises on bytes that are no pickle; UnicodeDecodeError is a ValueError.
    except (ValueError, struct.error, OverflowError) as error:
        raise _MalformedError(f"it is truncated or damaged ({error})") from error
    _refuse("it is truncated or damaged (a pickle without an end)")


_CONSTANTS = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
}
_LITERALS = frozenset(
    {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
    | {"BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING"}
)
_IGNORED = frozenset({"PROTO", "FRAME"})
_SMALL_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()


class _StackMachine:
    """The part of the pickle language that state dicts are written in; it builds inert values.

    Attributes:
        storages: those it was told of, by key.
    """

    def __init__(self) -> None:
        self.storages: dict[str, _Storage] = {}
        self._stack: list[Any] = []
        # A dict and not a list: a damaged index must not make it large.
        self._memo: dict[int, Any] = {}
        self._actions: dict[str, Callable[[Any], None]] = {
            "MARK": lambda _: self._stack.append(_MARK),
            "TUPLE": lambda _: self._stack.append(tuple(self._pop_to_mark())),
            "EMPTY_LIST": lambda _: self._stack.append([]),
            "EMPTY_DICT": lambda _: self._stack.append({}),
            "APPEND": lambda _: self._extend([self._pop()]),
            "APPENDS": lambda _: self._extend(self._pop_to_mark()),
            "SETITEM": lambda _: self._update(self._pop_many(2)),
            "SETITEMS": lambda _: self._update(self._pop_to_mark()),
            "BINPUT": self._memorise,
            "LONG_BINPUT": self._memorise,
            "MEMOIZE": lambda _: self._memorise(len(self._memo)),
            "BINGET": self._recall,
            "LONG_BINGET": self._recall,
            "GLOBAL": self._global,
            "STACK_GLOBAL": lambda _: self._global(_join_names(self._pop_many(2))),
            "REDUCE": lambda _: self._stack.append(_rebuild(*self._pop_many(2))),
            "BINPERSID": lambda _: self._stack.append(self._known(_storage(self._pop()))),
            "BUILD": lambda _: self._discard_attributes(),
        }

    def step(self, opcode: str, argument: Any) -> None:
        """Obeys one opcode, or refuses it."""
        if opcode in _LITERALS:
            self._stack.append(argument)
        elif opcode in _CONSTANTS:
            self._stack.append(_CONSTANTS[opcode])
        elif opcode in _SMALL_TUPLES:
            self._stack.append(tuple(self._pop_many(_SMALL_TUPLES[opcode])))
        elif opcode in self._actions:
            self._actions[opcode](argument)
        elif opcode not in _IGNORED:
            _refuse(f"it uses the pickle opcode {opcode}, which no state dict needs")

    def result(self) -> Any:
        """What the pickle stands for."""
        value = self._pop()
        if self._stack:
            _refuse("it is damaged (a pickle leaves values behind)")
        return value

    def _pop(self) -> Any:
        return self._pop_many(1)[0]

    def _pop_many(self, count: int) -> list[Any]:
        if count == 0:
            return []
        values = self._stack[-count:]
        if len(values) < count or any(value is _MARK for value in values):
            _refuse("it is damaged (a pickle takes more values than it has)")
        del self._stack[-count:]
        return values

    def _pop_to_mark(self) -> list[Any]:
        for index in range(len(self._stack) - 1, -1, -1):
            if self._stack[index] is _MARK:
                values = self._stack[index + 1 :]
                del self._stack[index:]
                return values
        _refuse("it is damaged (a pickle misses a mark)")

    def _top(self, kind: type) -> Any:
        if not self._stack or not isinstance(self._stack[-1], kind):
            _refuse(f"it is damaged (a pickle changes what is not a {kind.__name__})")
        return self._stack[-1]

    def _extend(self, values: list[Any]) -> None:
        self._top(list).extend(values)

    def _update(self, items: list[Any]) -> None:
        mapping = self._top(dict)
        # Numbers name the parameters in an optimizer's state.
        if len(items) % 2 or not all(type(key) in (str, int) for key in items[::2]):
            _refuse("it holds a mapping whose keys are neither names nor numbers")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if key in mapping:
                _refuse(f"it holds the name {key!r} twice")
            mapping[key] = value

    def _memorise(self, index: int) -> None:
        self._memo[index] = self._top(object)

    def _recall(self, index: int) -> None:
        if index not in self._memo:
            _refuse("it is damaged (a pickle recalls what it did not store)")
        self._stack.append(self._memo[index])

    def _global(self, name: str) -> None:
        if name not in (_MAPPING, _TENSOR, _PARAMETER, *_ELEMENT_TYPES):
            _refuse(f"it asks for the global {name.replace(' ', '.')!r}, which is forbidden")
        self._stack.append(_Global(name))

    def _known(self, storage: _Storage) -> _Storage:
        if self.storages.setdefault(storage.key, storage) != storage:
            _refuse(f"its storage {storage.key} has two types or sizes")
        return storage

    def _discard_attributes(self) -> None:
        # A state dict carries one attribute, `_metadata`: the versions of the modules it came from.
        self._pop()
        self._top(dict)


def _join_names(names: list[Any]) -> str:
    if not all(isinstance(name, str) for name in names):
        _refuse("it asks for a global whose name is not a string")
    return " ".join(names)


def _rebuild(function: Any, arguments: Any) -> Any:
    """What calling the global `function` would have made."""
    if function == _Global(_MAPPING) and arguments == ():
        return {}
    if function == _Global(_TENSOR) and isinstance(arguments, tuple) and len(arguments) == 6:
        storage, offset, size, stride = arguments[:4]
        if isinstance(storage, _Storage) and _is_count(offset) and _are_counts(size, stride):
            return _Tensor(storage, offset, size, stride)
        _refuse("it holds a tensor whose storage, offset, size or stride is not one")
    if function == _Global(_PARAMETER) and isinstance(arguments, tuple) and len(arguments) == 3:
        if isinstance(arguments[0], _Tensor):
            return arguments[0]
        _refuse("it holds a parameter that is no tensor")
    _refuse("it makes a call that no state dict needs")


def _storage(identity: Any) -> _Storage:
    """The storage a persistent id ('storage', type, key, device, elements[, None]) names."""
    if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
        _refuse("it holds a persistent id that is not a storage's")
    _, kind, key, _, elements, *rest = identity
    view = rest[0] if rest else None
    if not isinstance(kind, _Global) or kind.name not in _ELEMENT_TYPES:
        _refuse("it holds a storage of unknown type")
    if not isinstance(key, str) or not _is_count(elements):
        _refuse("it holds a storage without a key or a size")
    if view is not None:
        _refuse(f"its storage {key} is a view of another one, which is not supported")
    return _Storage(key, _ELEMENT_TYPES[kind.name], elements)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _are_counts(*sequences: Any) -> bool:
    return all(
        isinstance(sequence, tuple) and all(map(_is_count, sequence)) for sequence in sequences
    )


def _checked_tensors(state: Any) -> dict[str, _Tensor]:
    """The state dict, if it is a flat mapping of names to tensors that fit their storages."""
    if isinstance(state, dict) and isinstance(state.get(_STATE), dict):
        state = state[_STATE]
    if not isinstance(state, dict):
        _refuse("it holds no mapping of names to tensors")
    for name, tensor in state.items():
        if not isinstance(tensor, _Tensor) or not isinstance(name, str):
            _refuse(f"its entry {name!r} is not a tensor")
        _check_bounds(name, tensor)
    return state


def _check_bounds(name: str, tensor: _Tensor) -> None:
    dimensions, available = len(tensor.size), tensor.storage.elements
    if dimensions != len(tensor.stride) or dimensions > _MOST_DIMENSIONS:
        _refuse(f"tensor {name!r} has {dimensions} sizes and {len(tensor.stride)} strides")
    last = tensor.offset + sum(
        (size - 1) * stride for size, stride in zip(tensor.size, tensor.stride, strict=True)
    )
    # The second condition keeps a tensor of stride 0 from standing for more than the file holds.
    if 0 in tensor.size or last >= available or math.prod(tensor.size) > available:
        _refuse(
            f"tensor {name!r} (offset {tensor.offset}, size {tensor.size}, stride {tensor.stride}) "
            f"is empty or reaches beyond its storage of {available} elements"
        )


def _storage_offsets(
    data: bytes, position: int, keys: Any, storages: dict[str, _Storage]
) -> dict[str, int]:
    """Where in `data` each storage's elements start; `position` is where the storages do."""
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        _refuse("its list of storages is not one")
    if len(set(keys)) != len(keys) or set(keys) != set(storages):
        _refuse("its list of storages is not that of its tensors")
    offsets = {}
    for key in keys:
        storage = storages[key]
        start = position + 8
        end = start + storage.elements * np.dtype(storage.dtype).itemsize
        if end > len(data):
            _refuse(f"it is truncated: {len(data)} bytes, while storage {key} ends at byte {end}")
        if int.from_bytes(data[position:start], "little", signed=True) != storage.elements:
            _refuse(f"it is damaged: storage {key} should count {storage.elements} elements")
        offsets[key], position = start, end
    if position != len(data):
        _refuse(f"{len(data) - position} bytes follow its last storage")
    return offsets


def _array(data: bytes, start: int, tensor: _Tensor) -> np.ndarray:
    dtype = np.dtype(tensor.storage.dtype)
    # The stride of a single element has no effect, and may be any number.
    steps = (
        stride if size > 1 else 1 for size, stride in zip(tensor.size, tensor.stride, strict=True)
    )
    return np.ndarray(
        tensor.size,
        dtype,
        buffer=data,
        offset=start + tensor.offset * dtype.itemsize,
        strides=tuple(step * dtype.itemsize for step in steps),
    )
