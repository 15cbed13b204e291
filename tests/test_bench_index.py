"""The benchmark of the index on small lists, in this process."""

import json

from tests import command
from tools.bench_index import _measure_here, bench_text, write_list


def test_every_entry_is_counted_and_growth_is_told_for_an_entry(tmp_path):
    write_list(tmp_path / "train.txt", 400, 20)
    figures = _measure_here(str(tmp_path / "train.txt"), 400, 20)
    # Of 20 images a class: 4 to test on, and 2 of the other 16 to validate on.
    assert figures["train"] == 20 * 14
    assert figures["peak_mb"] >= figures["before_mb"] > 0
    assert len(figures["hash"]) == 64
    twice = {
        **figures,
        "entries": 800,
        "seconds": {step: 4 * seconds for step, seconds in figures["seconds"].items()},
    }
    last = bench_text([figures, twice]).splitlines()[-1].split()
    # Four times the time for twice the entries is twice the time for an entry.
    assert last[-4:] == ["2.00"] * 4


def test_figures_are_written_and_bad_sizes_refused(tmp_path):
    def start(*arguments):
        return command.start("tools.bench_index", *arguments)

    done = start("--sizes=100", "--classes=5", f"--json={tmp_path / 'f.json'}")
    assert done.returncode == 0, done.stderr
    assert "peak MB" in done.stdout
    (row,) = json.loads((tmp_path / "f.json").read_text())
    assert (row["entries"], row["classes"]) == (100, 5)
    for bad in ("--sizes=x", "--sizes=4"):
        done = start(bad)
        assert done.returncode == 2
        assert "--sizes=" in done.stderr
        assert "Traceback" not in done.stderr
