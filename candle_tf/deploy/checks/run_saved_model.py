"""Runs both signatures of a SavedModel, with TensorFlow and NumPy alone.

`candle_tf.deploy.checks.saved_model` starts it in a folder with pixels.npy, uint8 `[N, H, W, 3]`,
and images.npy, uint8 `[N, side, side, 3]`; its arguments are the folder of the SavedModel and the
number of images in a batch. It writes outputs.npz with

- all_scores: float `[N, classes]`, of the signature "pixels";
- class_names, class_ids, scores: `[N, best]`, of "serving_default" on the images as PNG files.
"""

import sys
from collections import defaultdict

import numpy as np
import tensorflow as tf


def run_signatures(
    folder: str, pixels: np.ndarray, images: np.ndarray, batch_size: int
) -> dict[str, np.ndarray]:
    """The outputs named above.

    Args:
        folder: of the SavedModel.
        pixels: uint8 `[N, H, W, 3]`.
        images: uint8 `[N, side, side, 3]`.
        batch_size: images in a call.
    """
    signatures = tf.saved_model.load(folder).signatures
    batches: dict[str, list[np.ndarray]] = defaultdict(list)
    for start in range(0, len(pixels), batch_size):
        batch = slice(start, start + batch_size)
        scores = signatures["pixels"](pixels=tf.constant(pixels[batch]))["scores"]
        batches["all_scores"].append(scores.numpy())
        files = tf.stack([tf.io.encode_png(image) for image in images[batch]])
        for name, value in signatures["serving_default"](image_bytes=files).items():
            batches[name].append(value.numpy())
    batches["class_names"] = [np.array(names, "S") for names in batches["class_names"]]
    return {name: np.concatenate(values) for name, values in batches.items()}


def main() -> None:
    pixels, images = np.load("pixels.npy"), np.load("images.npy")
    outputs = run_signatures(sys.argv[1], pixels, images, int(sys.argv[2]))
    np.savez("outputs.npz", **outputs)
    foreign = {"larq", "candle_tf"} & {name.partition(".")[0] for name in sys.modules}
    assert not foreign, f"imported {foreign}"


if __name__ == "__main__":
    main()
