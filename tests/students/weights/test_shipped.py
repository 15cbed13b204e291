"""The weights that come with the package: whole, small, as their cards say, and of use."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from candle_tf.students.weights import loading
from candle_tf.students.weights.loading import load_weights_file, shipped_weights
from candle_tf.students.weights.packed import describe

FILES = sorted(Path(loading.__file__).parent.glob("*.safetensors"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_card_and_file_agree(path):
    data, card = path.read_bytes(), json.loads(path.with_suffix(".json").read_text())
    spec, class_names, facts = describe(data, str(path))
    assert card["sha256"] == hashlib.sha256(data).hexdigest()
    assert card["bytes"] == len(data)
    assert card["file"] == path.name
    assert card["student"]["name"] == spec.name
    assert card["student"]["width"] == spec.width
    assert path.stem == f"{spec.name}_width_{spec.width:g}"
    assert class_names is None
    assert facts["teacher"] == card["teacher"]["name"]
    assert card["data"]["license"]
    # One bit for each weight and a fourth of that for the rest; ReActNet-A has 28 M at width 1.
    assert len(data) < 8e6 * spec.width**2


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_student_is_made_of_them(path):
    spec, _, _ = describe(path.read_bytes(), str(path))
    found, sha256 = shipped_weights(spec)
    assert found == path
    network = load_weights_file(found, spec, 64, sha256).network
    rng = np.random.default_rng(0)
    pixels = rng.uniform(0, 255, (8, 4, 4, 3)).repeat(16, axis=1).repeat(16, axis=2)
    features = network(pixels.astype(np.float32), training=False)["features"].numpy()
    assert np.isfinite(features).all()
    # Other images have other features.
    assert features.std(axis=0).mean() > 0.05 * np.abs(features).mean()
