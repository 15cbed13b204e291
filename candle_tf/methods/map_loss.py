"""A loss on feature maps in the middle of the network: a short way for the student's gradients.

    maps = build_map_loss(student, settings, dimensions=64, steps=10_000, seed=0)
    outputs = maps.forward(images, training=True)           # "features", "logits" and "maps"
    logs, loss = maps(outputs["maps"], teacher_maps, step)

Of teacher and student two maps each, averaged to the same grids (`teachers.feature_maps`):

    L_k   = mean over positions of 1 - cos(q_k(student map k), teacher map k)
    w(t)  = map_weight max(0, 1 - t / (map_fraction T))     step t of T
    total = L + w(t) (L_16 + L_32)

q_k is a 1x1 convolution that is used in training alone. The gradient of the earlier loss reaches
the first blocks through few straight-through estimators, that of the logits through all. Sources:
FitNets (Romero et al., ICLR 2015) for hints in the middle of a network; Real-to-Binary (Martinez et
al., ICLR 2020) for matching the maps of a binary network to a teacher's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from candle_tf.errors import UserError
from candle_tf.methods.losses import feature_distance
from candle_tf.methods.settings import MapSettings
from candle_tf.students.fused_forward import forward_of
from candle_tf.teachers.feature_maps import LEVELS, average_to_grid
from candle_tf.teachers.network_maps import cut_tensors


@dataclass(frozen=True, eq=False)
class MapLoss:
    """The losses of both levels, and what it takes to compute them.

    Attributes:
        network: the student with a further output "maps", a list of `[B, H, W, C]`; its layers are
            the student's own.
        projectors: q_k, 1x1 convolutions to D channels, built.
        weight: at the first step.
        steps: after which the weight is 0.
    """

    network: tf.keras.Model
    projectors: tuple[tf.keras.layers.Conv2D, ...]
    weight: float
    steps: float

    def forward(self, inputs: tf.Tensor, training: bool) -> Mapping[str, Any]:
        """The student's outputs and "maps", by the native operators where its layers say so."""
        outputs: Mapping[str, Any] = forward_of(self.network, training)(inputs)
        return outputs

    def weight_at(self, step: tf.Tensor) -> tf.Tensor:
        """w(t), a float32 scalar, of an int scalar."""
        done = tf.cast(step, tf.float32) / self.steps
        return self.weight * tf.maximum(0.0, 1.0 - done)

    def __call__(
        self, maps: Sequence[tf.Tensor], teacher_maps: tf.Tensor, step: tf.Tensor
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """The losses of a batch.

        Args:
            maps: of the student, float `[B, H, W, C]` of each level.
            teacher_maps: float `[B, P, D]`, see `teachers.feature_maps.store_maps`.
            step: number of the step, int scalar.

        Returns:
            Scalars to log, "map16" and "map32" (in [0, 2]) and "map_weight"; and w(t) times the
            sum of both, to be added to the total loss.
        """
        weight = self.weight_at(step)
        of_levels = tf.split(teacher_maps, [level.positions for level in LEVELS], axis=1)
        logs = {}
        for level, student, teacher, projector in zip(
            LEVELS, maps, of_levels, self.projectors, strict=True
        ):
            projected = projector(average_to_grid(student, level.grid))
            flat = tf.reshape(projected, tf.shape(teacher))
            logs[f"map{level.stride}"] = tf.reduce_mean(feature_distance(flat, teacher))
        added = weight * tf.add_n(list(logs.values()))
        return {**logs, "map_weight": weight}, added


def build_map_loss(
    student: tf.keras.Model, settings: MapSettings, *, dimensions: int, steps: int, seed: int
) -> MapLoss:
    """The loss on maps of a student.

    Args:
        student: functional model with the outputs "features" and "logits".
        settings: weight, above 0, and its fall.
        dimensions: D of the teacher's maps.
        steps: T, of the whole training.
        seed: of the initial weights.

    Raises:
        UserError: as `find_student_maps`.
    """
    maps = find_student_maps(student)
    network = tf.keras.Model(student.inputs, {**student.output, "maps": maps}, name=student.name)
    # The student itself decides which images it takes.
    network.input_spec = [tf.keras.layers.InputSpec(ndim=4)]
    projectors = []
    for number, (level, tensor) in enumerate(zip(LEVELS, maps, strict=True)):
        projector = tf.keras.layers.Conv2D(
            dimensions,
            1,
            kernel_initializer=tf.keras.initializers.GlorotUniform(seed + number),
            name=f"map{level.stride}_projector",
            dtype="float32",
        )
        projector.build([None, level.grid, level.grid, tensor.shape[-1]])
        projectors.append(projector)
    fall = settings.map_fraction * steps
    return MapLoss(network, tuple(projectors), settings.map_weight, fall)


def find_student_maps(student: tf.keras.Model) -> list[tf.Tensor]:
    """The last maps before each of the two last times that the student halves the sides.

    Of ReActNet-A these are the outputs of the last 256-wide and of the last 512-wide block, at any
    width and stride of the stem; of the others likewise the ends of the stages before the last.
    Only maps count that every path through the network passes.

    Args:
        student: functional model from images of one size.

    Returns:
        Keras tensors `[N, H, W, C]`, the earlier first.

    Raises:
        UserError: where there are not as many stages.
    """
    stages: list[tf.Tensor] = []
    if getattr(student, "_is_graph_network", False):
        stages = _last_of_stages(cut_tensors(student), int(student.input_shape[1]))
    if len(stages) < len(LEVELS) + 1:
        sides = [int(tensor.shape[1]) for tensor in stages]
        found = ", ".join(f"{side}x{side}" for side in sides) or "none that can be told"
        raise UserError(
            f"--map_weight needs maps of {len(LEVELS) + 1} sizes below the image's in the "
            f"student, and --student={student.name} has: {found}. Give a larger --image_size, "
            "another --student, or --map_weight=0."
        )
    return stages[-1 - len(LEVELS) : -1]


def _last_of_stages(tensors: Sequence[tf.Tensor], side: int) -> list[tf.Tensor]:
    """The last map of each stage, which begins where sides are halved.

    Args:
        tensors: maps `[N, H, W, C]` in the order of computation.
        side: of the images; no map as large belongs to a stage.
    """
    found: list[tf.Tensor] = []
    for tensor in tensors:
        height = int(tensor.shape[1])
        # Rounded up or down. QuickNet loses a row and a column before it halves, by a pooling.
        if height < side and height <= (side + 1) // 2:
            found.append(tensor)
            side = height
        elif found and height == side:
            found[-1] = tensor
    return found
