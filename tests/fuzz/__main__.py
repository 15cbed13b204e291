"""Counts what happens to damaged files, as a table."""

import argparse
import tempfile
from pathlib import Path

from tests.deploy.saved_model.test_writer import real_images
from tests.deploy.test_binarize import SIZE
from tests.fuzz.requests import count_grpc, count_rest
from tests.fuzz.targets import list_targets, outcomes, record_targets, weight_targets
from tests.serving.test_server import running_server


def main() -> None:
    """Prints a row for each kind of file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=2000, help="damaged files of each kind")
    parser.add_argument("--hdf5_inputs", type=int, default=200, help="of HDF5, which is slow")
    parser.add_argument("--requests", type=int, default=2000, help="of each protocol")
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
        with running_server(Path(folder) / "saved_model") as server:
            image = real_images()[0]
            rest = count_rest(server.rest, "small", image, SIZE, given.requests)
            calls = count_grpc(server.channel, "small", image, given.requests)
        for name, counts in (("REST requests", rest), ("gRPC requests", calls)):
            told = ", ".join(f"{count:,} {status}" for status, count in sorted(counts.items()))
            print(f"| {name} | {given.requests:,} | {told} | 0 |")


main()
