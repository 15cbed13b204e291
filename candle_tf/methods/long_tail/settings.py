"""Settings of the published long-tail methods that CANDLE is compared with."""

from dataclasses import dataclass

from candle_tf.methods.registry import WITH_LABEL_LOSS, WITH_SECOND_STAGE
from candle_tf.settings import SettingsGroup, setting


@dataclass(frozen=True)
class BaselineSettings(SettingsGroup):
    """What other methods than candle take; each has its paper's value as default."""

    focal_gamma: float = setting(
        2.0,
        "gamma",
        at_least=0,
        only_for="method=focal",
    )
    class_balanced_beta: float = setting(
        0.9999,
        "beta of the effective number of images",
        at_least=0,
        below=1,
        only_for="method=class_balanced|ldam_drw",
    )
    ldam_margin: float = setting(
        0.5,
        "margin of the smallest class, as a cosine",
        above=0,
        only_for="method=ldam_drw",
    )
    ldam_scale: float = setting(
        30.0,
        "factor of the cosines",
        above=0,
        only_for="method=ldam_drw",
    )
    deferred_fraction: float = setting(
        0.8,
        "fraction of the epochs before classes are re-weighted",
        at_least=0,
        below=1,
        only_for="method=ldam_drw",
    )
    method_tau: float = setting(
        1.0,
        "tau of the logit adjustment",
        at_least=0,
        only_for="method=*logit_adjustment",
    )
    distillation_label_weight: float = setting(
        0.5,
        "weight of the label loss; the teacher's losses have the rest",
        at_least=0,
        at_most=1,
        only_for=WITH_LABEL_LOSS,
    )
    dive_power: float = setting(
        0.5,
        "power of the teacher's probabilities",
        above=0,
        at_most=1,
        only_for="method=dive",
    )
    ltkd_cross_weight: float = setting(
        1.0,
        "weight of the KL between class groups",
        at_least=0,
        only_for="method=ltkd",
    )
    ltkd_within_weight: float = setting(
        1.0,
        "weight of the KL within class groups",
        at_least=0,
        only_for="method=ltkd",
    )
    paco_queue: int = setting(
        8192,
        "keys of earlier batches that are kept",
        at_least=1,
        at_most=2**20,
        only_for="method=paco",
    )
    paco_momentum: float = setting(
        0.999,
        "share of its weights that the momentum encoder keeps in a step",
        at_least=0,
        below=1,
        only_for="method=paco",
    )
    paco_temperature: float = setting(
        0.2,
        "T of the similarities to keys",
        at_least=0.01,
        at_most=1e3,
        only_for="method=paco",
    )
    paco_alpha: float = setting(
        0.05,
        "weight of each key of the same class",
        at_least=0,
        at_most=1e3,
        only_for="method=paco",
    )
    paco_beta: float = setting(
        1.0,
        "weight of the class centre",
        above=0,
        at_most=1e3,
        only_for="method=paco",
    )
    classifier_epochs: int = setting(
        10,
        "epochs of the second stage, of the classifier alone",
        at_least=1,
        only_for=WITH_SECOND_STAGE,
    )
    classifier_learning_rate: float = setting(
        1e-3,
        "Adam's peak rate in the second stage",
        above=0,
        only_for=WITH_SECOND_STAGE,
    )
