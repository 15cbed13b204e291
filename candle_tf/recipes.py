"""Settings that belong together, by name: what a run begins from where nothing else is given.

Config(recipe="paper", epochs=50)              # the paper's settings, but for the epochs

A setting that is given wins over the recipe, and so does one that a data set of the catalog brings.
"""

from collections.abc import Mapping
from typing import Any

DEFAULT = "default"

# "paper": what is known of CANDLE (arXiv 2404.00285) and of its authors' scripts. Settings that are
# defaults today are named as well, so that the recipe stays when defaults change. Epochs and
# learning rates are not published, smoothing differs by data set (`data.catalog`), and views are
# precomputed.
RECIPES: Mapping[str, Mapping[str, Any]] = {
    DEFAULT: {},
    "paper": {
        "calibration_loss": "label_aware_smoothing",
        "calibration_sampler": "class_balanced",
        "calibration_resolutions": (128, 224, 480),
        "combine_resolutions": "mean",
        "image_size": 224,
        "augmentation": "random_resized_crop_flip",
        "crop_area": 0.08,
        "resize": "crop",
        "color_jitter": 0.4,
        "randaugment_magnitude": 0.0,
        "mix": "none",
        "teacher_view": "same",
        # The authors' views are new in every epoch, for which the teacher runs in every step. So
        # many precomputed ones are each shown ten times in 100 epochs.
        "teacher_mode": "cached",
        "views": 10,
        "teacher_layers": 1,
        "method": "candle",
        "binary_steps": 1,
        "batch_size": 128,
        "optimizer": "adam",
        "rate_decay": "cosine",
        "warmup_fraction": 0.02,
        "clip_norm": 0.0,
        "weight_decay": 0.0,
        "clip_latent_weights": True,
        "sampler": "instance",
        "temperature": 2.0,
        "logit_loss": "kl",
        "feature_loss": "cosine",
        "center_features": False,
        "balance": "plain",
        "label_weight": "0",
        "prior_correction": "0",
        "student_head": "free",
        "map_weight": 0.0,
        "weight_average": 0.0,
        "progressive_sizes": "",
        "reestimate_batch_norm": False,
    },
    # A patient and consistent teacher (Beyer et al. 2022): for three times as many epochs, or more.
    "patient": {
        "teacher_view": "same",
        "views": 16,
        "calibration_resolutions": (128,),
        "augmentation": "alternating_crop_flip",
        "mix": "mixup",
        "mix_views": "half",
        "unmixed_from": 0.9,
        # Chosen on validation images: the teacher is sure of its outputs, also on mixtures.
        "temperature": 4.0,
    },
}


def recipe_settings(recipe: str) -> dict[str, Any]:
    """The settings of a recipe by flag name; none of an unknown one, which `Config` refuses."""
    return dict(RECIPES.get(recipe, {}))
