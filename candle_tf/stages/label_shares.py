"""How often the labels of each class are shown: what balanced softmax on labels corrects for.

With --mix a part of the labels is the partners', which are drawn from all training images alike,
whatever the sampler is.
"""

import numpy as np

from candle_tf.config import Config
from candle_tf.data.augment.settings import PERIOD
from candle_tf.data.samplers import class_probabilities
from candle_tf.stages.prepare import Data
from candle_tf.stages.student_views import student_augmentation, student_views


def label_shares(config: Config, data: Data) -> np.ndarray:
    """The classes' expected shares of the labels in each epoch, float64 [E, C]; rows sum to 1.

    (1 - m) q_c + m n_c / N: q of the sampler, n training images, m the partners' part of labels.

    Args:
        config: the run's settings; --epochs is not 0.
        data: the prepared split.
    """
    epochs = config.training.epochs
    # What is shown: without the validation images, which `data.counts` includes.
    counts = np.bincount(data.train.labels, minlength=data.classes)
    of_images = class_probabilities("instance", counts)
    of_partners = student_augmentation(config).partner_share * _mixed_parts(config, data, counts)
    shares = []
    for epoch in range(epochs):
        sampled = class_probabilities(
            config.data.sampler, counts, epoch, epochs, config.data.sampler_start
        )
        mixes = epoch < config.augment.unmixed_from * epochs
        part = np.sum(sampled * of_partners) if mixes else 0.0
        # In this form nothing is rounded where the sampler takes each image once.
        shares.append(sampled + part * (of_images - sampled))
    return np.stack(shares)


def _mixed_parts(config: Config, data: Data, counts: np.ndarray) -> np.ndarray:
    """The part of the views of each class's images that are mixed, float64 [C]."""
    augmentation, precomputed = student_augmentation(config), student_views(config, data)
    views = precomputed.counts if precomputed else np.full(len(data.train), PERIOD)
    numbers, places = np.unique(views, return_inverse=True)
    parts = np.array([augmentation.is_mixed(np.arange(number)).mean() for number in numbers])
    sums = np.bincount(data.train.labels, parts[places], minlength=data.classes)
    return sums / np.maximum(counts, 1)
