"""Counts what happens to damaged files, as a table."""

import argparse
import tempfile
from pathlib import Path

from tests.fuzz.targets import list_targets, outcomes, record_targets, weight_targets


def main() -> None:
    """Prints a row for each kind of file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=2000, help="damaged files of each kind")
    parser.add_argument("--hdf5_inputs", type=int, default=200, help="of HDF5, which is slow")
    given = parser.parse_args()
    print("| file | damaged | outcome | other errors |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for number, targets in enumerate((record_targets, weight_targets, list_targets)):
            for target in targets(Path(folder) / str(number)):
                is_hdf5 = target.path.suffix == ".h5"
                inputs = given.hdf5_inputs if is_hdf5 else given.inputs
                counts = outcomes(target, inputs).items()
                told = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(counts))
                print(f"| {target.name} | {inputs:,} | {told} | 0 |", flush=True)


main()
