"""Refuses what several replicas cannot share, before anything is computed.

refuse_batches(config, replicas)                            # as soon as the devices are known
refuse_shares_of_split(config, split, replicas)             # and the split
refuse_batch("--batch_size=64", size=64, images=1_000, replicas=2)
"""

from candle_tf.config import Config
from candle_tf.data.splits.split import Split
from candle_tf.errors import UserError


def refuse_batches(config: Config, replicas: int) -> None:
    """Refuses batch sizes of a student's training that are no multiples of the replicas' number.

    Args:
        config: the run's settings.
        replicas: devices that train together.

    Raises:
        UserError: names the flag, its value and what to do.
    """
    given = _batch_size(config)
    refuse_batch(given, config.labelled_batch_size, replicas)
    refuse_batch(given, _without_labels(config), replicas, kind="images without labels")
    if config.training.distils:
        size = config.calibration.calibration_batch_size
        refuse_batch(f"--calibration_batch_size={size}", size, replicas, kind="views")


def refuse_shares_of_split(config: Config, split: Split, replicas: int) -> None:
    """Refuses a split that is smaller than a batch, or than the replicas, and cannot be shared.

    Args:
        config: the run's settings.
        split: without images that cannot be read.
        replicas: devices that train together.

    Raises:
        UserError: as `refuse_batch` and `refuse_few`.
    """
    images = len(split.train.ids)
    refuse_batch(_batch_size(config), config.labelled_batch_size, replicas, images)
    refuse_few("validation", len(split.validation.ids), replicas, "--validation_fraction")


def refuse_share_without_labels(config: Config, images: int, replicas: int) -> None:
    """Refuses fewer images without labels than a batch has, which cannot be shared.

    Args:
        config: the run's settings.
        images: without labels, that can be read.
        replicas: devices that train together.

    Raises:
        UserError: as `refuse_batch`.
    """
    size = _without_labels(config)
    refuse_batch(_batch_size(config), size, replicas, images, "images without labels")


def refuse_batch(
    given: str, size: int, replicas: int, images: int | None = None, kind: str = "images"
) -> None:
    """Refuses a batch that cannot be divided equally among the replicas.

    Args:
        given: the flag with its value.
        size: of the batch, of all replicas together.
        replicas: devices that train together.
        images: to learn from; a batch is not larger. None where they are not known yet.
        kind: what the batch is of.

    Raises:
        UserError: names the flag, its value and what to do.
    """
    all_of_them = ""
    if images is not None and images < size:
        size, all_of_them = images, ", which are all that there are"
    if size % replicas:
        raise UserError(
            f"{given} has {size} {kind} in a step{all_of_them}: they cannot be divided among "
            f"{replicas} replicas equally. Give a batch size with a multiple of {replicas} of "
            "them, or --strategy=one."
        )


def refuse_few(kind: str, images: int, replicas: int, flag: str) -> None:
    """Refuses fewer images than replicas: one of them would have nothing to compute.

    Enough images leave no share of any batch empty (`BatchShare.parts`).

    Args:
        kind: of the images.
        images: how many there are; none at all are not refused.
        replicas: devices that train together.
        flag: that gives more of them.

    Raises:
        UserError: with both numbers and what to do.
    """
    if 0 < images < replicas:
        raise UserError(
            f"{images} {kind} images for {replicas} replicas: each computes a share of them. Give "
            f"a larger {flag} or more images, or --strategy=one."
        )


def _batch_size(config: Config) -> str:
    size = f"--batch_size={config.training.batch_size}"
    if not config.unlabelled.unlabelled_dir:
        return size
    return f"{size} with --unlabelled_fraction={config.unlabelled.unlabelled_fraction:g}"


def _without_labels(config: Config) -> int:
    return config.unlabelled.in_batch(config.training.batch_size)
