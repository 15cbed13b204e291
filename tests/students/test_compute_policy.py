import pytest
import tensorflow as tf

from candle_tf.errors import UserError
from candle_tf.students import compute_policy
from candle_tf.students.architectures.reactnet import reactnet_a
from candle_tf.students.compute_policy import (
    PLAIN,
    ComputePolicy,
    ComputePolicyLayer,
    resolve_compute_policy,
    resolve_precision,
    set_compute_policy,
)
from candle_tf.students.layers.binary_conv import BinaryConv2D
from candle_tf.students.layers.blocks import binary_layers
from tests.native.availability import needs_native


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ("fpu avx512f avx512_bf16", "bfloat16"),
        ("amx_bf16", "bfloat16"),
        ("avx avx2 fma", "bfloat16"),
        ("fpu sse4_2 avx", "float32"),
    ],
)
def test_auto_goes_by_what_the_cpu_can_do(tmp_path, flags, dtype):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"model name : some\nflags : {flags}\n")
    assert resolve_precision("auto", cpuinfo) == dtype
    assert resolve_precision("auto", tmp_path / "none") == "float32"


@pytest.mark.parametrize("named", ["float32", "bfloat16"])
def test_a_named_precision_is_taken_as_it_is(named, tmp_path):
    assert resolve_precision(named, tmp_path / "none") == named


@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_xla_compiles_the_plain_composition(tmp_path, precision):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags : amx_bf16\n")
    policy = resolve_compute_policy(precision, "on", cpuinfo)
    assert policy == ComputePolicy(native=False, dtype="float32", xla=True)


def test_several_devices_go_without_xla():
    assert resolve_compute_policy("auto", "auto", kernels="plain", replicas=2) == PLAIN
    with pytest.raises(UserError, match="--strategy=one"):
        resolve_compute_policy("auto", "on", kernels="auto", replicas=2)


@needs_native
@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="there is a GPU")
@pytest.mark.parametrize("xla", ["auto", "off"])
def test_xla_is_off_on_a_cpu(tmp_path, xla):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags : amx_bf16\n")
    for precision, dtype in (("auto", "bfloat16"), ("float32", "float32")):
        policy = resolve_compute_policy(precision, xla, cpuinfo, kernels="auto")
        assert policy == ComputePolicy(native=True, dtype=dtype, xla=False)


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="there is a GPU")
def test_plain_kernels_compute_in_float32(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags : amx_bf16\n")
    assert resolve_compute_policy("auto", "off", cpuinfo, kernels="plain") == PLAIN
    with pytest.raises(UserError, match=r"--precision=bfloat16: .*--kernels=auto"):
        resolve_compute_policy("bfloat16", "off", cpuinfo, kernels="plain")


@pytest.mark.parametrize(
    ("gpu", "xla", "reason"),
    [(True, "auto", "with XLA"), (True, "off", "with a GPU"), (False, "on", "with XLA")],
)
def test_bfloat16_is_refused_where_it_would_not_be_used(monkeypatch, gpu, xla, reason):
    monkeypatch.setattr(compute_policy, "_has_gpu", lambda: gpu)
    assert resolve_compute_policy("auto", xla, kernels="auto").dtype == "float32"
    with pytest.raises(UserError, match=f"--precision=bfloat16: .* {reason}"):
        resolve_compute_policy("bfloat16", xla, kernels="auto")


def test_bfloat16_is_refused_where_the_operators_cannot_be_built(monkeypatch):
    monkeypatch.setattr(compute_policy, "native_operators", lambda _: None)
    with pytest.raises(UserError, match=r"--precision=bfloat16: .* cannot be built or loaded"):
        resolve_compute_policy("bfloat16", "off", kernels="auto")


def test_a_policy_reaches_every_layer_that_has_one():
    model = reactnet_a((32, 32, 3), 5, width=0.25)
    policy = ComputePolicy(native=True, dtype="bfloat16")
    set_compute_policy(model, policy)
    layers = [layer for layer in model.layers if isinstance(layer, ComputePolicyLayer)]
    assert len(layers) == len(binary_layers(model)) == 31
    assert {layer.compute_policy for layer in layers} == {policy}
    assert BinaryConv2D(8, 3).compute_policy == PLAIN


def test_unknown_dtypes_are_refused():
    with pytest.raises(ValueError, match="float16"):
        ComputePolicy(dtype="float16")


def test_the_plain_composition_has_no_bfloat16():
    with pytest.raises(ValueError, match="bfloat16"):
        ComputePolicy(native=False, dtype="bfloat16")


def test_native_operators_are_not_for_xla():
    assert not resolve_compute_policy("float32", "on", kernels="auto").native
    with pytest.raises(UserError, match=r"--kernels=native: .*--xla=off"):
        resolve_compute_policy("float32", "on", kernels="native")


@needs_native
@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="there is a GPU")
@pytest.mark.parametrize(
    ("kernels", "native"), [("auto", True), ("native", True), ("plain", False)]
)
def test_native_operators_are_used_where_they_can_be_had(kernels, native):
    assert resolve_compute_policy("float32", "off", kernels=kernels).native == native


def test_mixed_precision_keeps_the_plain_composition():
    policy = ComputePolicy(native=True)
    mixed = BinaryConv2D(8, 3, dtype=tf.keras.mixed_precision.Policy("mixed_float16"))
    usual = BinaryConv2D(8, 3)
    mixed.compute_policy = usual.compute_policy = policy
    assert not mixed.uses_native()
    assert usual.uses_native()
