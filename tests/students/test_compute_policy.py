import pytest
import tensorflow as tf

from candle_tf.students.architectures.reactnet import reactnet_a
from candle_tf.students.compute_policy import (
    PLAIN,
    Step,
    TrainingForm,
    resolve_precision,
    resolve_step,
    set_training_form,
)
from candle_tf.students.layers.blocks import Shift


@pytest.mark.parametrize(
    ("flags", "form"),
    [("fpu avx512f avx512_bf16", "bfloat16"), ("amx_bf16", "bfloat16"), ("avx512f", "float32")],
)
def test_auto_goes_by_what_the_cpu_can_do(tmp_path, flags, form):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"model name : some\nflags : {flags}\n")
    assert resolve_precision("auto", cpuinfo) == form
    assert resolve_precision("auto", tmp_path / "none") == "float32"


@pytest.mark.parametrize("named", ["float32", "bfloat16"])
def test_a_named_precision_is_taken_as_it_is(named, tmp_path):
    assert resolve_precision(named, tmp_path / "none") == named


@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_xla_compiles_the_plain_composition(tmp_path, precision):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags : amx_bf16\n")
    step = resolve_step(precision, "on", cpuinfo)
    assert step == Step(PLAIN, xla=True)
    assert step.precision == "float32"


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="there is a GPU")
@pytest.mark.parametrize("xla", ["auto", "off"])
def test_xla_is_off_on_a_cpu(tmp_path, xla):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags : amx_bf16\n")
    assert resolve_step("auto", xla, cpuinfo) == Step("bfloat16", xla=False)
    assert resolve_step("float32", xla, cpuinfo) == Step("float32", xla=False)
    assert resolve_step("auto", xla, cpuinfo).precision == "bfloat16"


def test_a_form_reaches_every_layer_that_has_one():
    model = reactnet_a((32, 32, 3), 5, width=0.25)
    set_training_form(model, "bfloat16")
    layers = [layer for layer in model.layers if isinstance(layer, TrainingForm)]
    # 31 convolutions, 26 shifts and as many signs and RPReLUs.
    assert len(layers) == 31 + 3 * 26
    assert {layer.training_form for layer in layers} == {"bfloat16"}
    assert Shift().training_form == "float32"


def test_unknown_forms_are_refused():
    with pytest.raises(ValueError, match="float16"):
        set_training_form(reactnet_a((32, 32, 3), 5, width=0.25), "float16")


def test_mixed_precision_keeps_the_plain_composition():
    layer = Shift(dtype=tf.keras.mixed_precision.Policy("mixed_float16"))
    assert layer.operands(training=True) is None
    assert Shift().operands(training=True) == tf.float32
    assert Shift().operands(training=False) is None
