"""student.json: what a program on the device must know to use the TFLite files beside it.

metadata = describe_files(files, labels=names, side=64, image_side=160)
write_atomically(path, encode_metadata(metadata))
"""

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from typing import Any

import candle_tf

FORMAT = 1
_RUNTIMES = {"tflite": "larq-compute-engine", "tflite_float": "ai-edge-litert"}


def describe_files(
    files: Mapping[str, Mapping[str, Any]],
    *,
    labels: Sequence[str],
    side: int,
    image_side: int,
    crop: bool = False,
    groups: Mapping[str, Iterable[int]] | None = None,
) -> dict[str, Any]:
    """Describes the TFLite files of one export.

    Args:
        files: by kind ("tflite", "tflite_float"): "name", "sha256", "bytes", "argmax_agreement"
            with Keras (0 to 1) and "accuracy" ("mean", "groups") on the whole test set.
        labels: class names in the order of the logits.
        side: of the files' input in pixels.
        image_side: of the square to which images are first resized, in pixels.
        crop: whether the centre square of the image is cut out of that (--resize=crop).
        groups: of each shot group the positions of its classes in `labels`.

    Returns:
        Plain Python values for JSON.
    """
    versions = {name: metadata.version(name) for name in ("tensorflow", *_RUNTIMES.values())}
    return {
        "format": FORMAT,
        "files": {
            file["name"]: {
                "runtime": f"{_RUNTIMES[kind]} {versions[_RUNTIMES[kind]]}",
                **{key: value for key, value in file.items() if key != "name"},
            }
            for kind, file in files.items()
        },
        "input": {
            "name": "pixels",
            "dtype": "uint8",
            "shape": [1, side, side, 3],
            "layout": "batch, height, width, colour",
            "colours": "red, green, blue in 0..255",
            # As "preprocessing" describes it, for programs.
            "resizing": {"stored_side": image_side, "resize": "crop" if crop else "stretch"},
        },
        "output": {
            "name": "logits",
            "dtype": "float32",
            "shape": [1, len(labels)],
            "scores": "softmax of the logits",
        },
        "preprocessing": preprocessing(side, image_side, crop),
        "labels": list(labels),
        # By how many images of a class were trained on; positions in "labels".
        "shot_groups": {
            group: [int(place) for place in places] for group, places in (groups or {}).items()
        },
        "versions": {
            "candle_tf": candle_tf.__version__,
            "python": platform.python_version(),
            **versions,
        },
    }


def preprocessing(side: int, image_side: int, crop: bool = False) -> list[str]:
    """From an encoded image to the files' input, step by step."""
    steps = [
        "decode; turn as the EXIF orientation says; to RGB, transparency on white",
        f"resize to {image_side} x {image_side}, ignoring the aspect: bilinear, antialiased "
        "(Pillow's BILINEAR)",
    ]
    if crop:
        steps.append("of that, keep the square about the image's centre whose side is 7/8 of the "
                     "shorter side of the image before it was resized")  # fmt: skip
    if crop or side != image_side:
        steps.append(
            f"resize to {side} x {side}: bilinear, antialiased; round to whole numbers. Resizing "
            "at once to this size differs a little from what was measured."
        )
    return [*steps, "give the uint8 pixels as they are: the file scales them itself"]


def encode_metadata(content: Mapping[str, Any]) -> bytes:
    """As JSON text. Class names may hold bytes that were no UTF-8; ASCII keeps them readable."""
    return (json.dumps(content, indent=2) + "\n").encode()
