"""The restricted reader: exact on files written as PyTorch wrote them, deaf to hostile ones."""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from candle_tf.errors import UserError
from candle_tf.weight_files.torch_pickle import read_state_dict

MAGIC = 0x1950A86A20F9469CFC6C
SYSTEM = {
    "protocol_version": 1001,
    "little_endian": True,
    "type_sizes": {"short": 2, "int": 4, "long": 4},
}


class Named:
    """Pickled as a global of the given module and name, whether or not that exists here."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    """Pickled as a call of a global."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def zip_of(state, storages, folder="archive", protocol=2, **options):
    """A file as PyTorch 1.6 and later write it."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", **options) as archive:
        archive.writestr(f"{folder}/data.pkl", pickle_bytes(state, protocol))
        archive.writestr(f"{folder}/byteorder", "little")
        for storage in storages:
            archive.writestr(f"{folder}/data/{storage.key}", storage.values.tobytes())
        archive.writestr(f"{folder}/version", "3\n")
    return stream.getvalue()


# Newer files do not say whether a storage is a view.
NO_VIEW = object()


class Storage:
    def __init__(self, key, values, kind="FloatStorage", elements=None, view=None):
        self.key, self.values, self.kind, self.view = key, values, kind, view
        self.elements = values.size if elements is None else elements


class Writer(pickle._Pickler):
    """Writes `Storage` as a persistent id, and `Named` as a global it need not find."""

    dispatch: ClassVar[dict] = dict(pickle._Pickler.dispatch)

    def persistent_id(self, obj):
        if isinstance(obj, Storage):
            kind = Named("torch", obj.kind)
            identity = ("storage", kind, obj.key, "cpu", obj.elements)
            return identity if obj.view is NO_VIEW else (*identity, obj.view)
        return None

    def save_named(self, obj):
        if self.proto >= 4:
            self.save(obj.module)
            self.save(obj.name)
            self.write(pickle.STACK_GLOBAL)
        else:
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())

    dispatch[Named] = save_named

    def save_call(self, obj):
        self.save(obj.function)
        self.save(obj.arguments)
        self.write(pickle.REDUCE)

    dispatch[Call] = save_call


def pickle_bytes(value, protocol=2):
    stream = io.BytesIO()
    Writer(stream, protocol).dump(value)
    return stream.getvalue()


def tensor(storage, offset, size, stride):
    rebuild = Named("torch._utils", "_rebuild_tensor_v2")
    return Call(rebuild, storage, offset, size, stride, False, OrderedDict())


def file_of(state, storages, protocol=2):
    parts = [pickle_bytes(value, protocol) for value in (MAGIC, 1001, SYSTEM, state)]
    parts.append(pickle_bytes([storage.key for storage in storages], protocol))
    for storage in storages:
        parts += [struct.pack("<q", storage.values.size), storage.values.tobytes()]
    return b"".join(parts)


@pytest.fixture
def storages():
    rng = np.random.default_rng(0)
    return [
        Storage("7", rng.normal(size=24).astype("<f4")),
        Storage("8", np.array([-(2**62), 5, 2**62], "<i8"), "LongStorage"),
    ]


@pytest.fixture
def simple_file(storages):
    state = OrderedDict(
        kernel=tensor(storages[0], 0, (2, 3, 4), (12, 4, 1)),
        transposed=tensor(storages[0], 2, (4, 2), (1, 8)),
        count=tensor(storages[1], 0, (3,), (1,)),
        scalar=tensor(storages[1], 1, (), ()),
    )
    return file_of(state, storages)


@pytest.mark.parametrize("protocol", [2, 4])
def test_reads_back_what_was_written(storages, protocol):
    floats, integers = storages
    state = OrderedDict(
        kernel=tensor(floats, 0, (2, 3, 4), (12, 4, 1)),
        transposed=tensor(floats, 2, (4, 2), (1, 8)),
        count=tensor(integers, 0, (3,), (1,)),
        scalar=tensor(integers, 1, (), ()),
    )
    read = read_state_dict(file_of(state, storages, protocol), "test")

    assert list(read) == ["kernel", "transposed", "count", "scalar"]
    np.testing.assert_array_equal(read["kernel"], floats.values.reshape(2, 3, 4))
    expected = [[floats.values[2 + i + 8 * j] for j in range(2)] for i in range(4)]
    np.testing.assert_array_equal(read["transposed"], expected)
    np.testing.assert_array_equal(read["count"], integers.values)
    assert read["scalar"].shape == ()
    assert read["scalar"] == 5
    assert read["kernel"].dtype == np.float32
    assert read["count"].dtype == np.int64


def test_the_metadata_attribute_of_a_state_dict_is_passed_over(storages):
    state = OrderedDict(kernel=tensor(storages[0], 0, (24,), (1,)))
    stream = pickle_bytes(state)[: -len(pickle.STOP)]
    # As the pickler writes an object's __dict__: the state, then BUILD.
    metadata = pickle_bytes({"_metadata": OrderedDict(a={"version": 1})})[2 : -len(pickle.STOP)]
    head = b"".join(map(pickle_bytes, (MAGIC, 1001, SYSTEM)))
    values = storages[0].values
    data = head + stream + metadata + pickle.BUILD + pickle.STOP + pickle_bytes(["7"])
    data += struct.pack("<q", values.size) + values.tobytes()

    np.testing.assert_array_equal(read_state_dict(data, "test")["kernel"], values)


HOSTILE = {
    "posix.system": lambda command: Call(Named("posix", "system"), command),
    "os.system": lambda command: Call(Named("os", "system"), command),
    "builtins.eval": lambda command: Call(
        Named("builtins", "eval"), f"__import__('os').system({command!r})"
    ),
    "builtins.getattr": lambda command: Call(
        Call(Named("builtins", "getattr"), Call(Named("builtins", "__import__"), "os"), "system"),
        command,
    ),
    "collections.OrderedDict.fromkeys": lambda command: Call(
        Named("collections", "OrderedDict.fromkeys"), command
    ),
    "torch.load": lambda command: Call(Named("torch", "load"), command),
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("position", range(5))
@pytest.mark.parametrize("named", HOSTILE)
def test_hostile_pickles_are_refused_by_name_and_do_nothing(tmp_path, named, position, protocol):
    marker = tmp_path / "marker"
    hostile = HOSTILE[named](f"touch {marker}")
    values = [MAGIC, 1001, SYSTEM, OrderedDict(), []]
    values[position] = OrderedDict(a=hostile) if position == 3 else hostile
    data = b"".join(pickle_bytes(value, protocol) for value in values)

    with pytest.raises(UserError, match=r"weights\.pth.*forbidden") as refusal:
        read_state_dict(data, "weights.pth")
    assert named in str(refusal.value)
    assert not marker.exists()


def test_the_hostile_pickles_above_would_have_run(tmp_path):
    marker = tmp_path / "marker"
    pickle.loads(pickle_bytes(HOSTILE["os.system"](f"touch {marker}")))
    assert marker.exists()


@pytest.mark.parametrize(
    "body",
    [
        b"(S'touch marker'\nios\nsystem\n.",  # INST
        b"cos\nsystem\n(S'touch marker'\no.",  # a global, then OBJ
        b"\x80\x02ccollections\nOrderedDict\n)\x81.",  # NEWOBJ
        b"\x80\x02\x82\x01.",  # EXT1
    ],
)
def test_other_ways_to_make_objects_are_refused(body, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"opcode|forbidden"):
        read_state_dict(b"".join(map(pickle_bytes, (MAGIC, 1001, SYSTEM))) + body, "test")
    assert not Path("marker").exists()


def test_every_truncation_is_refused(simple_file):
    for length in range(len(simple_file)):
        with pytest.raises(UserError):
            read_state_dict(simple_file[:length], "test")


def test_trailing_bytes_are_refused(simple_file):
    with pytest.raises(UserError, match="follow its last storage"):
        read_state_dict(simple_file + b"\0", "test")


def test_flipped_bits_never_do_worse_than_a_refusal(simple_file):
    whole = read_state_dict(simple_file, "test")
    refused = 0
    for position in range(len(simple_file)):
        for bit in range(8):
            damaged = bytearray(simple_file)
            damaged[position] ^= 1 << bit
            try:
                read = read_state_dict(bytes(damaged), "test")
            except UserError:
                refused += 1
            else:
                # What cannot be told from a good file is of a good file's size.
                assert sum(v.nbytes for v in read.values()) <= 4 * len(simple_file)
    # All but a few flips in the pickles are caught; those in the raw numbers are sha256's business.
    raw = whole["kernel"].nbytes + whole["count"].nbytes
    assert refused > 8 * (len(simple_file) - raw) // 2


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (24, (1,), (1,)),
        (1, (24,), (1,)),
        (0, (2, 3, 4), (13, 4, 1)),
        (0, (10**12,), (0,)),
        (0, (2**40, 2**40), (2**40, 1)),
        (0, (0, 2**62), (1, 1)),
        (2**70, (1,), (1,)),
        (-1, (2,), (1,)),
        (4, (2,), (-1,)),
        (0, (-2,), (1,)),
        (0, (2, 2), (1,)),
        (0, (True,), (1,)),
        (0, (1,) * 33, (1,) * 33),
    ],
)
def test_no_tensor_reaches_outside_its_storage(storages, offset, size, stride):
    state = OrderedDict(a=tensor(storages[0], offset, size, stride))
    with pytest.raises(UserError, match="tensor"):
        read_state_dict(file_of(state, storages[:1]), "test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"elements": 23}, "count"),
        ({"elements": 10**9}, "truncated"),
        ({"elements": -1}, "size"),
        ({"kind": "QUInt8Storage"}, "torch.QUInt8Storage"),
        ({"view": ("9", 0, 4)}, "view"),
    ],
)
def test_storages_that_are_not_what_they_say_are_refused(storages, change, message):
    storage = Storage("7", storages[0].values, **change)
    state = OrderedDict(a=tensor(storage, 0, (4,), (1,)))
    with pytest.raises(UserError, match=message):
        read_state_dict(file_of(state, [storage]), "test")


@pytest.mark.parametrize("stride", [2**61, 2**63, 10**300])
def test_the_stride_of_a_single_element_may_be_anything(storages, stride):
    state = {"a": tensor(storages[0], 4, (1, 20), (stride, 1))}
    for data in (file_of(state, storages[:1]), zip_of(state, storages[:1])):
        array = read_state_dict(data, "a.pth")["a"]
        np.testing.assert_array_equal(array, storages[0].values[None, 4:])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(value):
    storage = Storage("0", np.array([1, value], "<f4"))
    state = {"a": tensor(storage, 0, (2,), (1,))}
    for data in (file_of(state, [storage]), zip_of(state, [storage])):
        with pytest.raises(UserError, match="tensor 'a' holds NaN or infinity"):
            read_state_dict(data, "a.pth")


def test_one_storage_cannot_have_two_types(storages):
    again = Storage("7", storages[0].values, "IntStorage")
    state = OrderedDict(a=tensor(storages[0], 0, (4,), (1,)), b=tensor(again, 0, (4,), (1,)))
    with pytest.raises(UserError, match="two types"):
        read_state_dict(file_of(state, storages[:1]), "test")


def test_storages_must_be_those_of_the_tensors(storages):
    state = OrderedDict(a=tensor(storages[0], 0, (4,), (1,)))
    with pytest.raises(UserError, match="list of storages"):
        read_state_dict(file_of(state, storages), "test")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([1, 2], "no mapping"),
        (OrderedDict(epoch=3), "'epoch' is not a tensor"),
        (OrderedDict(state_dict=3), "'state_dict' is not a tensor"),
        ({3: 4}, "3 is not a tensor"),
        ({2.5: 4}, "neither names nor numbers"),
    ],
)
def test_what_is_no_state_dict_is_refused(state, message):
    with pytest.raises(UserError, match=message):
        read_state_dict(file_of(state, []), "test")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "truncated"),
        (b"PK\x03\x04rest", "ZIP archive is truncated or damaged"),
        (b"\x89HDF\r\n\x1a\n", "damaged"),
        (pickle_bytes(3), "magic"),
        (pickle_bytes(MAGIC) + pickle_bytes(1000), "protocol"),
        (
            pickle_bytes(MAGIC) + pickle_bytes(1001) + pickle_bytes({"little_endian": False}),
            "little-endian",
        ),
    ],
)
def test_other_files_are_refused(data, message):
    with pytest.raises(UserError, match=message):
        read_state_dict(data, "test")


def test_a_nest_of_shared_tuples_does_not_unfold():
    # Each level holds the one below twice: 2^60 leaves, were they ever walked or printed.
    body = (
        b"\x80\x04)" + b"".join(b"\x94h%c\x86" % level for level in range(60)) + b"\x8c\x01a\x93."
    )
    with pytest.raises(UserError, match="global"):
        read_state_dict(b"".join(map(pickle_bytes, (MAGIC, 1001, SYSTEM))) + body, "test")


def as_in_zip(storages):
    return [Storage(s.key, s.values, s.kind, view=NO_VIEW) for s in storages]


@pytest.mark.parametrize("protocol", [2, 4])
def test_the_zip_layout_gives_the_same_arrays(storages, simple_file, protocol):
    floats, integers = as_in_zip(storages)
    state = OrderedDict(
        kernel=tensor(floats, 0, (2, 3, 4), (12, 4, 1)),
        transposed=tensor(floats, 2, (4, 2), (1, 8)),
        count=tensor(integers, 0, (3,), (1,)),
        scalar=tensor(integers, 1, (), ()),
    )
    read = read_state_dict(zip_of(state, [floats, integers], protocol=protocol), "test")
    expected = read_state_dict(simple_file, "test")
    assert list(read) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(read[name], value)
        assert read[name].dtype == value.dtype


@pytest.mark.parametrize("write", [file_of, zip_of])
def test_of_a_training_the_weights_are_read(storages, write):
    floats, integers = storages if write is file_of else as_in_zip(storages)
    rebuild = Named("torch._utils", "_rebuild_parameter")
    parameter = Call(rebuild, tensor(floats, 0, (24,), (1,)), True, OrderedDict())
    checkpoint = {
        "epoch": 3,
        "best": 61.5,
        "state_dict": OrderedDict(kernel=parameter),
        "optimizer": {"state": {0: {"step": 7, "moments": tensor(integers, 0, (3,), (1,))}},
                      "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999), "params": [0]}]},
    }  # fmt: skip
    read = read_state_dict(write(checkpoint, [floats, integers]), "test")
    assert list(read) == ["kernel"]
    np.testing.assert_array_equal(read["kernel"], floats.values)


def test_every_truncation_of_a_zip_is_refused(storages):
    floats, _ = as_in_zip(storages)
    whole = zip_of(OrderedDict(a=tensor(floats, 0, (24,), (1,))), [floats])
    for length in range(len(whole)):
        with pytest.raises(UserError):
            read_state_dict(whole[:length], "test")


def test_a_flipped_byte_among_the_numbers_of_a_zip_is_found(storages):
    floats, _ = as_in_zip(storages)
    whole = zip_of(OrderedDict(a=tensor(floats, 0, (24,), (1,))), [floats])
    place = whole.index(floats.values.tobytes())
    damaged = bytearray(whole)
    damaged[place + 5] ^= 1
    with pytest.raises(UserError, match="damaged"):
        read_state_dict(bytes(damaged), "test")


def test_zips_that_are_not_what_pytorch_writes_are_refused(storages):
    floats, _ = as_in_zip(storages)
    state = OrderedDict(a=tensor(floats, 0, (24,), (1,)))
    packed = zip_of(state, [floats], compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="compressed"):
        read_state_dict(packed, "test")
    with pytest.raises(UserError, match="storage 7 is not 96 bytes"):
        read_state_dict(zip_of(state, []), "test")
    short = Storage("7", floats.values[:20], view=NO_VIEW)
    with pytest.raises(UserError, match="storage 7 is not 96 bytes"):
        read_state_dict(zip_of(state, [short]), "test")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/other", b"")
    with pytest.raises(UserError, match=r"no single data\.pkl"):
        read_state_dict(stream.getvalue(), "test")


def test_a_hostile_pickle_in_a_zip_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    attack = Call(Named("builtins", "eval"), "open('marker', 'w')")
    with pytest.raises(UserError, match=r"builtins\.eval.*forbidden"):
        read_state_dict(zip_of(OrderedDict(a=attack), []), "test")
    assert not Path("marker").exists()
