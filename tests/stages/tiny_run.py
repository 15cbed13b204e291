"""Settings of a run that takes seconds: digits of 16 px, hardly any channels, no random views."""

TINY_RUN = {
    "profile": "natural",
    "image_size": 16,
    "stem_stride": 1,
    "width": 0.125,
    "augmentation": "none",
    "batch_size": 128,
}
