"""From images on disk to long-tailed splits and the views a network sees."""
