"""Images as squares: stretched to one side, whatever their aspect.

square = stretch(image, side=160)       # uint8 [160, 160, 3]
"""

import numpy as np
from PIL import Image


def stretch(image: np.ndarray, side: int) -> np.ndarray:
    """Resizes an image to a square without keeping its aspect, so that nothing is cut off.

    Args:
        image: uint8 [H, W, 3].
        side: pixels.

    Returns:
        uint8 [side, side, 3], antialiased bilinear.
    """
    resized = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.uint8)


def image_aspect(image: np.ndarray) -> float:
    """Width / height of an image [H, W, 3]."""
    return image.shape[1] / image.shape[0]
