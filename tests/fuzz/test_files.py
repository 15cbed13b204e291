"""Damaged files of every kind that is read; more of them: `python -m tests.fuzz`."""

import pytest

from tests.fuzz.targets import HEALED, list_targets, outcomes, record_targets, weight_targets

INPUTS = 40
# Each is read in a process of its own first.
HDF5_INPUTS = 3


@pytest.mark.parametrize("targets", [record_targets, weight_targets, list_targets])
def test_damaged_files_are_read_refused_or_healed(tmp_path, targets):
    for target in targets(tmp_path):
        inputs = HDF5_INPUTS if target.path.suffix == ".h5" else INPUTS
        counts = outcomes(target, inputs)
        assert counts.total() == inputs
        # Were nothing refused, the damage would not reach what is read.
        assert target.success == HEALED or counts[target.success] < inputs, target.name
