"""Fingerprints of pixels, stored beside the version numbers that caches depend on.

A fingerprint is the means of 4 x 4 blocks of some images. It is coarse on purpose: another CPU may
round the last bit of a pixel differently, which moves a mean by far less than the tolerance; a
change of the code moves many means by far more.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

_BLOCKS = 4
_TOLERANCE = 0.25  # of 0..255

Fingerprint = Mapping[str, np.ndarray]


def block_means(images: np.ndarray) -> np.ndarray:
    """Means of 4 x 4 blocks of images [B, H, W, 3], sides divisible by 4; float [B, 48]."""
    count, height, width, channels = images.shape
    shape = (count, _BLOCKS, height // _BLOCKS, _BLOCKS, width // _BLOCKS, channels)
    return images.astype(np.float64).reshape(shape).mean(axis=(2, 4)).reshape(count, -1)


def differences(found: Fingerprint, stored: Mapping[str, list[list[float]]]) -> list[str]:
    """Names whose fingerprints differ, or that only one side has."""
    return sorted(
        name
        for name in set(found) | set(stored)
        if name not in found
        or name not in stored
        or found[name].shape != np.shape(stored[name])
        or np.abs(found[name] - np.array(stored[name])).max() > _TOLERANCE
    )


def check(path: Path, version: str, constant: str, found: Fingerprint) -> None:
    """Fails if the pixels changed without a new version.

    Args:
        path: of the stored fingerprints, by version.
        version: the present one.
        constant: where it is written, for the message.
        found: the fingerprint of the present code.
    """
    command = f"python -m tests.{'.'.join(path.with_suffix('').parts[-3:])}"
    stored = json.loads(path.read_text())
    assert version in stored, (
        f"There is no fingerprint of version {version} ({constant}): store it with `{command}`."
    )
    changed = differences(found, stored[version])
    assert not changed, (
        f"The pixels of {', '.join(changed)} changed, but {constant} did not, so caches of the old "
        f"pixels would be used: raise {constant}, then store the new fingerprint with `{command}`."
    )


def store(path: Path, version: str, constant: str, found: Fingerprint) -> None:
    """Adds the fingerprint of a new version; refuses to change that of an old one."""
    stored = json.loads(path.read_text()) if path.exists() else {}
    if version in stored and differences(found, stored[version]):
        raise SystemExit(f"The pixels of version {version} are stored: raise {constant} first.")
    stored.setdefault(version, {name: np.round(v, 1).tolist() for name, v in found.items()})
    lines = [
        f'"{number}": {{\n'
        + ",\n".join(f'"{name}": {json.dumps(rows)}' for name, rows in values.items())
        + "\n}"
        for number, values in stored.items()
    ]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{path}: version {version}")
