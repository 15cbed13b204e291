"""The loss on feature maps: its formula, its gradients, and the native forward pass."""

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.errors import UserError
from candle_tf.methods.balance import FixedBalance, TotalLoss
from candle_tf.methods.distillation import DistillationTrainer
from candle_tf.methods.feature_losses import CosineLoss
from candle_tf.methods.label_loss import LabelLoss
from candle_tf.methods.losses import cross_entropy
from candle_tf.methods.map_loss import MapLoss, build_map_loss, find_student_maps
from candle_tf.methods.parameter_groups import build_parameter_groups
from candle_tf.methods.settings import MapSettings, OptimizerSettings
from candle_tf.students.architectures.reactnet import _block
from candle_tf.students.architectures.registry import build_student
from candle_tf.students.compute_policy import PLAIN, ComputePolicy, set_compute_policy
from candle_tf.students.fused_forward import FusedForward
from candle_tf.students.layers.blocks import batch_norm
from tests.methods.test_distillation import FEATURES, MEAN, binary_student, teacher_batch
from tests.native.availability import needs_native

CLASSES, SIDE, D, STEPS = 5, 8, 6, 10


def three_stages(seed: int = 0) -> tf.keras.Model:
    """Maps of 4x4, 2x2 and 1x1 pixels; smooth, so that a small step does what gradients say."""
    tf.keras.utils.set_random_seed(seed)
    layers = tf.keras.layers
    pixels = tf.keras.Input((SIDE, SIDE, 3), name="pixels")
    x = layers.Rescaling(1 / 127.5, offset=-1.0)(pixels)
    for number, channels in enumerate((8, 12, 16)):
        x = layers.Conv2D(channels, 3, 2, padding="same", name=f"stage{number}_conv")(x)
        x = layers.Activation("tanh", name=f"stage{number}")(batch_norm(x, f"stage{number}_bn"))
    features = layers.GlobalAveragePooling2D(name="features")(x)
    logits = layers.Dense(CLASSES, name="logits")(features)
    return tf.keras.Model(pixels, {"features": features, "logits": logits}, name="three_stages")


def map_loss(student: tf.keras.Model, weight: float = 0.25, fraction: float = 0.6) -> MapLoss:
    settings = MapSettings(map_weight=weight, map_fraction=fraction)
    return build_map_loss(student, settings, dimensions=D, steps=STEPS, seed=0)


def trainer_with_maps(
    student: tf.keras.Model,
    maps: MapLoss | None,
    label_loss: LabelLoss | None = None,
    rate: float = 0.01,
) -> DistillationTrainer:
    feature_loss = CosineLoss(MEAN)
    projector = feature_loss.build_projector(student)
    groups = build_parameter_groups(
        student,
        OptimizerSettings(learning_rate=rate, warmup_fraction=0.0, weight_decay=1e-4),
        steps=STEPS,
        projector=projector,
        map_projectors=maps.projectors if maps else (),
    )
    return DistillationTrainer(
        student,
        CLASSES,
        groups,
        projector=projector,
        balancer=FixedBalance(0.5),
        feature_loss=feature_loss,
        total_loss=TotalLoss(),
        temperature=2.0,
        label_loss=label_loss,
        map_loss=maps,
    )


def batch_with_maps(examples: int = 16) -> dict[str, tf.Tensor]:
    rng = np.random.default_rng(7)
    maps = rng.normal(size=(examples, 20, D)).astype(np.float32)
    batch = {**teacher_batch(examples), "teacher_maps": maps}
    assert batch["teacher_features"].shape[1] == FEATURES
    return {name: tf.constant(value) for name, value in batch.items()}


def _losses(trainer, batch) -> dict[str, float]:
    return {name: float(each) for name, each in trainer.compute_losses(batch, True).items()}


def _cosines(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(ours, axis=-1) * np.linalg.norm(theirs, axis=-1)
    return (ours * theirs).sum(axis=-1) / lengths


def test_the_losses_are_the_mean_over_positions_of_one_minus_the_cosine():
    student, batch = three_stages(), batch_with_maps()
    maps = map_loss(student)
    reference = tf.keras.Model(
        student.input, [student.get_layer(name).output for name in ("stage0", "stage1")]
    )
    early, late = (each.numpy() for each in reference(batch["inputs"], training=True))
    assert (early.shape[1:], late.shape[1:]) == ((4, 4, 8), (2, 2, 12))
    logs = _losses(trainer_with_maps(student, maps), batch)
    teacher = batch["teacher_maps"].numpy()
    for name, values, projector, part in (
        ("map16", early, maps.projectors[0], teacher[:, :16]),
        ("map32", late, maps.projectors[1], teacher[:, 16:]),
    ):
        kernel, bias = (weight.numpy() for weight in projector.weights)
        assert kernel.shape[:2] == (1, 1)
        flat = values.reshape(len(values), -1, values.shape[-1]) @ kernel[0, 0] + bias
        assert logs[name] == pytest.approx((1 - _cosines(flat, part)).mean(), rel=1e-5)


def test_a_larger_map_is_averaged_to_the_grid():
    student = build_student("quicknet_small", (64, 64, 3), CLASSES, width=0.25)
    tensors = find_student_maps(student)
    assert [tensor.shape[1] for tensor in tensors] == [8, 4]
    maps, batch = map_loss(student), batch_with_maps(2)
    inputs = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype(np.float32)
    early, late = tf.keras.Model(student.input, tensors)(inputs, training=False)
    logs, added = maps([early, late], batch["teacher_maps"], tf.constant(0))
    total = 0.0
    for name, values, projector, part in zip(
        ("map16", "map32"), (early, late), maps.projectors,
        np.split(batch["teacher_maps"].numpy(), [16], axis=1), strict=True,
    ):  # fmt: skip
        kernel, bias = (weight.numpy() for weight in projector.weights)
        values = values.numpy()
        cells = values.reshape(2, values.shape[1] // 2, 2, values.shape[2] // 2, 2, -1)
        flat = cells.mean(axis=(2, 4)).reshape(2, part.shape[1], -1) @ kernel[0, 0] + bias
        expected = (1 - _cosines(flat, part)).mean()
        assert float(logs[name]) == pytest.approx(expected, rel=1e-4)
        total += 0.25 * expected
    assert float(added) == pytest.approx(total, rel=1e-4)


def test_the_weight_falls_linearly_to_0_and_stays_there():
    maps = map_loss(three_stages(), weight=0.5, fraction=0.4)
    weights = [float(maps.weight_at(tf.constant(step, tf.int64))) for step in range(STEPS)]
    assert weights == pytest.approx([0.5, 0.375, 0.25, 0.125, *[0.0] * 6])


@pytest.mark.parametrize("labels", [False, True])
def test_they_are_added_to_the_total_loss_by_their_weight(labels):
    label_loss = LabelLoss(lambda z, y, _: cross_entropy(z, y, np.ones(CLASSES)), 0.3, steps=10)
    label_loss = label_loss if labels else None
    batch = batch_with_maps()
    plain = trainer_with_maps(three_stages(), None, label_loss)
    student = three_stages()
    trainer = trainer_with_maps(student, map_loss(student), label_loss)
    without, logs = _losses(plain, batch), _losses(trainer, batch)
    assert set(logs) - set(without) == {"map16", "map32", "map_weight"}
    added = 0.25 * (logs["map16"] + logs["map32"])
    assert logs["objective"] == pytest.approx(without["objective"] + added, rel=1e-5)
    for name in set(without) - {"objective"}:
        assert logs[name] == pytest.approx(without[name], rel=1e-5), name


def test_the_weight_follows_the_steps_of_a_training():
    student, batch = three_stages(), batch_with_maps()
    trainer = trainer_with_maps(student, map_loss(student, weight=0.6, fraction=0.3))
    weights = [float(trainer.train_step(batch)["map_weight"]) for _ in range(5)]
    assert weights == pytest.approx([0.6, 0.4, 0.2, 0.0, 0.0], abs=1e-6)


def _gradients(trainer, batch, losses, variables) -> list[np.ndarray | None]:
    with tf.GradientTape() as tape:
        logs = trainer.compute_losses(batch, True)
        total = tf.add_n([logs[name] for name in losses])
    return [None if g is None else g.numpy() for g in tape.gradient(total, variables)]


def test_each_loss_reaches_the_blocks_before_its_map_and_no_later_ones():
    student, batch = three_stages(), batch_with_maps()
    trainer = trainer_with_maps(student, map_loss(student))
    kernels = [student.get_layer(f"stage{number}_conv").kernel for number in range(3)]
    for losses, reached in ((["map16"], 1), (["map32"], 2), (["objective"], 3)):
        found = _gradients(trainer, batch, losses, kernels)
        assert [each is not None and np.abs(each).max() > 1e-6 for each in found] == [
            number < reached for number in range(3)
        ], losses


def test_a_step_along_their_gradient_lowers_them():
    student, batch = three_stages(), batch_with_maps()
    trainer = trainer_with_maps(student, map_loss(student))
    early = student.get_layer("stage0_conv").kernel
    (gradient,) = _gradients(trainer, batch, ["map16", "map32"], [early])
    before = _losses(trainer, batch)
    early.assign_sub(0.01 * gradient)
    after = _losses(trainer, batch)
    fall = sum(before[name] - after[name] for name in ("map16", "map32"))
    assert fall == pytest.approx(0.01 * float((gradient**2).sum()), rel=0.1)


def test_a_training_step_moves_the_projectors_and_changes_what_the_early_block_learns():
    batch, moved = batch_with_maps(), []
    for weight in (0.0, 100.0):
        student = three_stages()
        maps = map_loss(student, weight or 1.0) if weight else None
        trainer = trainer_with_maps(student, maps)
        kernel = student.get_layer("stage0_conv").kernel
        before = kernel.numpy()
        projectors = maps.projectors if maps else ()
        weights = [each for projector in projectors for each in projector.weights]
        old = [each.numpy() for each in weights]
        trainer.train_step(batch)
        moved.append(kernel.numpy() - before)
        for one, each in zip(old, weights, strict=True):
            assert (one != each.numpy()).any(), each.name
    # Adam's first step is the gradient's sign: some signs are those of the maps' gradient.
    assert (np.sign(moved[0]) != np.sign(moved[1])).mean() > 0.05


def test_without_weight_the_gradients_are_those_of_distillation_alone():
    batch = batch_with_maps()
    student, plain = three_stages(), three_stages()
    trainer = trainer_with_maps(student, map_loss(student))
    trainer.optimizer.iterations.assign(STEPS)
    variables, others = student.trainable_variables, plain.trainable_variables
    actual = _gradients(trainer, batch, ["objective"], variables)
    wanted = _gradients(trainer_with_maps(plain, None), batch, ["objective"], others)
    for variable, one, other in zip(variables, actual, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-7, err_msg=variable.name)


def test_checkpoints_without_the_loss_hold_what_they_always_held(tmp_path):
    student = three_stages()
    path = tf.train.Checkpoint(trainer=trainer_with_maps(student, None)).write(str(tmp_path / "a"))
    names = [name for name, _ in tf.train.list_variables(path)]
    assert not any("map" in name for name in names)
    student = three_stages()
    trainer = trainer_with_maps(student, map_loss(student))
    path = tf.train.Checkpoint(trainer=trainer).write(str(tmp_path / "b"))
    more = [name for name, _ in tf.train.list_variables(path)]
    assert set(names) < set(more)
    kept = {name for name in more if name.startswith("trainer/map_projectors")}
    # Two convolutions with kernel and bias, and Adam's moments of each.
    values = [name for name in kept if name.endswith("/.ATTRIBUTES/VARIABLE_VALUE")]
    assert len(values) == 4
    # The student itself has no further weight.
    assert len(student.weights) == len(three_stages().weights)


# Of ReActNet-A the ends of its 256- and 512-wide stages, whatever the width and the stem.
@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("reactnet_a", {"width": 0.25}, [(8, 64), (4, 128)]),
        ("reactnet_a", {"width": 0.25, "stem_stride": 1}, [(16, 64), (8, 128)]),
        ("quicknet_small", {"width": 0.25}, [(8, 16), (4, 64)]),
        ("birealnet18", {"width": 0.25}, [(8, 32), (4, 64)]),
        ("real_to_binary", {"width": 0.25}, [(8, 32), (4, 64)]),
        ("bnext_t", {"width": 0.25}, [(8, 64), (4, 128)]),
    ],
)
def test_every_family_of_students_has_the_maps(name, options, expected):
    student = build_student(name, (64, 64, 3), CLASSES, **options)
    found = find_student_maps(student)
    assert [(int(each.shape[1]), int(each.shape[3])) for each in found] == expected
    if name == "reactnet_a":
        layers = [each.node.layer.name for each in found]
        assert layers == ["block05_point_rprelu", "block11_point_rprelu"]


def test_a_student_with_too_few_sizes_is_refused():
    with pytest.raises(UserError) as caught:
        find_student_maps(binary_student())
    for words in ("--map_weight", "--student=tiny has: 4x4, 2x2", "--image_size"):
        assert words in str(caught.value)


def small_binary_student() -> tf.keras.Model:
    """A stem and three binary blocks, whose chains end where maps are read."""
    tf.keras.utils.set_random_seed(0)
    pixels = tf.keras.Input((32, 32, 3), name="pixels")
    x = tf.keras.layers.Rescaling(1 / 127.5, offset=-1.0)(pixels)
    x = tf.keras.layers.Conv2D(8, 3, 2, padding="same", use_bias=False, name="stem_conv")(x)
    x = batch_norm(x, "stem_bn")
    for number, channels in enumerate((16, 32, 32, 64), start=1):
        x = _block(x, channels, 1 if number == 3 else 2, f"block{number:02d}")
    features = tf.keras.layers.GlobalAveragePooling2D(name="features")(x)
    logits = tf.keras.layers.Dense(CLASSES, name="logits")(features)
    return tf.keras.Model(pixels, {"features": features, "logits": logits}, name="small")


@needs_native
def test_native_operators_give_the_losses_and_gradients_of_plain_keras():
    rng = np.random.default_rng(1)
    student = small_binary_student()
    maps = map_loss(student)
    layers = [each.node.layer.name for each in find_student_maps(student)]
    assert layers == ["block01_point_rprelu", "block03_point_rprelu"]
    weights = student.get_weights()
    batch = batch_with_maps(6)
    batch["inputs"] = tf.constant(rng.uniform(0, 255, (6, 32, 32, 3)), tf.float32)
    found = []
    for policy in (PLAIN, ComputePolicy(native=True)):
        set_compute_policy(student, policy)
        student.set_weights(weights)
        trainer = trainer_with_maps(student, maps)
        variables = [*student.trainable_variables, *trainer.map_projectors[0].variables]

        @tf.function(autograph=False)
        def step(trainer=trainer, variables=variables):
            with tf.GradientTape() as tape:
                logs = trainer.compute_losses(batch, True)
            return logs, tape.gradient(logs["objective"], variables)

        logs, gradients = step()
        moving = [variable.numpy() for variable in student.non_trainable_variables]
        found.append((logs, gradients, moving))
    plain, native = found
    for name in ("map16", "map32", "kl", "objective"):
        assert float(native[0][name]) == pytest.approx(float(plain[0][name]), rel=1e-4), name
    largest = max(float(tf.norm(gradient)) for gradient in plain[1])
    for variable, one, other in zip(variables, native[1], plain[1], strict=True):
        error = float(tf.norm(one - other) / max(float(tf.norm(other)), 1e-3 * largest))
        assert error < 2e-3, variable.name
    for one, other in zip(native[2], plain[2], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


@needs_native
def test_reading_maps_leaves_all_batch_norms_in_native_operators():
    student = small_binary_student()
    set_compute_policy(student, ComputePolicy(native=True))
    assert FusedForward(map_loss(student).network).fused == FusedForward(student).fused > 8


def test_images_of_another_size_are_taken_too():
    """The student decides which sizes it takes: its maps are averaged to the same grids."""
    student = three_stages()
    maps = map_loss(student)
    student.input_spec = [tf.keras.layers.InputSpec(ndim=4)]
    outputs = maps.forward(tf.zeros([2, 12, 12, 3]), training=True)
    assert [each.shape[1] for each in outputs["maps"]] == [6, 3]
    logs, _ = maps(outputs["maps"], tf.ones([2, 20, D]), tf.constant(0))
    assert 0 <= float(logs["map16"]) <= 2
