"""The trained student of a finished run, as a Keras model."""

from pathlib import Path

import tensorflow as tf

from candle_tf.config import Config
from candle_tf.errors import UserError
from candle_tf.methods.classifier_file import REMEDY, read_classifier
from candle_tf.methods.trained_checkpoints import finish_network
from candle_tf.reporting.results import read_results
from candle_tf.run_folder import RunFolder
from candle_tf.stages.baselines import adjusts_classifier
from candle_tf.stages.earlier_run import EarlierRun


def load_trained_student(run_dir: Path, epoch: int) -> tf.keras.Model:
    """Builds a run's student and gives it the weights of an epoch, as they were measured.

    Args:
        run_dir: the run's folder.
        epoch: the selected or the last one, counted from 1; of a method that changes its classifier
            after training, the one that was reported.

    Returns:
        From pixels float32 `[N, S, S, 3]` in 0..255 to "features" `[N, d_S]` and "logits" `[N, C]`;
        binary kernels are exact signs.

    Raises:
        UserError: where a file of the run is missing or damaged; for a plugin of the run that is
            not imported yet; for an epoch without a checkpoint, as of a run that was continued
            after its report.
    """
    folder = RunFolder(run_dir)
    config = _reported_settings(folder)
    student = EarlierRun(run_dir, str(run_dir)).load_network(epoch=epoch)
    finish_network(student)
    if adjusts_classifier(config):
        _adjust_classifier(student, epoch, folder.classifier_path)
    return student


def _reported_settings(folder: RunFolder) -> Config:
    """The settings of the run, with the --prior_correction that its report is of: a run that was
    begun once more with another one, and stopped, has the files of the one before."""
    config = Config.from_json(folder.config_path)
    if not folder.report_path.is_file():
        return config
    reported = read_results(folder.report_path).config
    return config.replace(prior_correction=reported.get("prior_correction", "0"))


def _adjust_classifier(student: tf.keras.Model, epoch: int, path: Path) -> None:
    stored, classifier = read_classifier(path)
    layer = student.get_layer("logits")
    if stored != epoch or classifier.kernel.shape != layer.kernel.shape:
        raise UserError(
            f"{path} is of epoch {stored} with {classifier.kernel.shape[-1]} classes, and the "
            f"student is that of epoch {epoch} with {layer.kernel.shape[-1]}. {REMEDY}"
        )
    layer.kernel.assign(classifier.kernel)
    layer.bias.assign(classifier.bias)
