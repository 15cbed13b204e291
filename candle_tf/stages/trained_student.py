"""The trained student of a finished run, as a Keras model."""

from pathlib import Path

import tensorflow as tf

from candle_tf.config import Config
from candle_tf.data.splits.split import load_split
from candle_tf.methods.annealing import find_annealed_quantizers, set_exact_signs
from candle_tf.methods.checkpoints import Checkpoints
from candle_tf.run_folder import RunFolder


def load_trained_student(run_dir: Path, epoch: int) -> tf.keras.Model:
    """Builds a run's student and gives it the weights of an epoch.

    Args:
        run_dir: the run's folder.
        epoch: the selected or the last one, counted from 1.

    Returns:
        From pixels float32 `[N, S, S, 3]` in 0..255 to "features" `[N, d_S]` and "logits" `[N, C]`;
        binary kernels are exact signs.

    Raises:
        UserError: where a file of the run is missing or damaged.
    """
    folder = RunFolder(run_dir)
    config = Config.from_json(folder.config_path)
    student = config.student.build(len(load_split(folder.split_path).class_names))
    trainer = tf.Module()
    trainer.network = student
    Checkpoints(run_dir / "student" / "checkpoints", trainer).read_network(epoch)
    set_exact_signs(find_annealed_quantizers(student))
    return student
