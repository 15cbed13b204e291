"""The teachers by name. To add one: its function, and its line here."""

from collections.abc import Callable
from typing import Any

from candle_tf.registry import Registry

# (what follows the colon, weights file or "", its SHA-256 or "") -> `backbones.Backbone`
TEACHERS: Registry[Callable[[str, str, str], Any]] = Registry(
    {
        "efficientnet_lite0": "candle_tf.teachers.backbones:load_efficientnet_lite0",
        "efficientnet_lite1": "candle_tf.teachers.backbones:load_efficientnet_lite1",
        "efficientnet_lite2": "candle_tf.teachers.backbones:load_efficientnet_lite2",
        "keras_cv:<name>": "candle_tf.teachers.backbones:load_keras_cv",
        "keras_applications:<name>": "candle_tf.teachers.backbones:load_keras_applications",
    }
)
# Of an earlier run; registered by `stages`, which open runs.
RUN_TEACHER = "run:<folder>"
# Those whose code is this package's.
OWN_TEACHERS = frozenset({*TEACHERS, RUN_TEACHER})
# Its weights come with an installed package.
OFFLINE_TEACHER = "efficientnet_lite0"
