"""Pretraining with another number of epochs than before in the same folder.

    refuse_epochs(settings, before)     # before anything is computed
    rewind(settings, before)            # before the training continues

Until the learning rate begins to fall, a training does not depend on its number of epochs. So one
with another number continues from there, and ends as if that had been given at the start.
"""

from pathlib import Path

import tensorflow as tf
from absl import logging

from candle_tf.errors import UserError
from candle_tf.methods.checkpoints import Checkpoints
from candle_tf.stages.pretrain_settings import Pretraining


def student_folder(settings: Pretraining) -> Path:
    """Where the student is trained."""
    return Path(settings.run_dir) / "student"


def refuse_epochs(settings: Pretraining, before: Pretraining | None) -> None:
    """Refuses a number of epochs with which the training cannot continue; changes nothing.

    Args:
        settings: of this call.
        before: the same, with the number of epochs of the call before, as of `open_pretraining`.

    Raises:
        UserError: where the rate fell from the first epoch on, or should have begun to fall before
            the last one.
    """
    if before is not None and before.epochs != settings.epochs:
        _last_usable(settings, before, _open(settings, before).epochs_done)


def rewind(settings: Pretraining, before: Pretraining | None) -> None:
    """Goes back to before the fall of the rate, where the number of epochs has changed since.

    Raises:
        UserError: as `refuse_epochs`, and where the checkpoint is missing.
    """
    if before is None or before.epochs == settings.epochs:
        return
    checkpoints = _open(settings, before)
    last = _last_usable(settings, before, checkpoints.epochs_done)
    if checkpoints.epochs_done > last:
        logging.info("continued from epoch %d, before the learning rate fell", last)
        checkpoints.rewind(last)


def _open(settings: Pretraining, before: Pretraining) -> Checkpoints:
    folder = student_folder(settings) / "checkpoints"
    return Checkpoints(folder, tf.Module(), [before.constant_epochs])


def _last_usable(settings: Pretraining, before: Pretraining, done: int) -> int:
    """The last finished epoch that was trained as it is with the new number of epochs."""
    if done > before.epochs:
        raise UserError(
            f"{done} epochs are done in {settings.run_dir}, whose config.json says "
            f"--epochs={before.epochs}: an older version wrote that where it refused the number. "
            "Write the number of the training that was done into config.json, and give the same "
            "command again."
        )
    last = min(done, before.constant_epochs)
    if done and not last:
        raise UserError(
            f"--epochs was {before.epochs} and is now {settings.epochs}: with "
            f"--decay_fraction={settings.decay_fraction:g} the learning rate fell from the first "
            f"step on, so that nothing in {settings.run_dir} can be continued. Give a new "
            f"--run_dir, or --epochs={before.epochs}."
        )
    if last > settings.constant_epochs:
        raise UserError(
            f"--epochs={settings.epochs} lowers the learning rate from epoch "
            f"{settings.constant_epochs} on, but {last} epochs were trained at the full rate. "
            f"Give more epochs; --epochs={before.epochs} is what was trained with."
        )
    return last
