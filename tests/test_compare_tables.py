"""CANDLE minus the best other method over several tables, from records by hand, by NumPy."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from candle_tf.errors import UserError
from candle_tf.reporting.bootstrap import ComparedImages, average_difference
from tests.command import start
from tools import compare_tables
from tools.tables.definition import read_definition
from tools.tables.margins import find_margins, margin_rows, method_rows, read_methods, write_margins
from tools.tables.records import cell_config, kept_path

METHODS = {
    "candle": {},
    "candle_t4": {"temperature": 4.0},
    "softmax": {"method": "balanced_softmax"},
    "ldam": {"method": "ldam_drw"},
    "plain": {"method": "plain_distillation"},
    # The first stage of one learns from no teacher, of the other from CANDLE's.
    "second_stage": {"method": "crt"},
    "candle_second_stage": {"method": "candle_crt"},
    "wider": {"method": "balanced_softmax", "width": 0.5},
}
# Each right on so many test images of 100 in each class, and on so many validation images of 20.
TEST = {
    "candle": 60, "candle_t4": 99, "softmax": 58, "ldam": 40, "plain": 55, "second_stage": 10,
    "candle_second_stage": 98, "wider": 97,
}  # fmt: skip
VALIDATION = {
    "candle": 12, "candle_t4": 19, "softmax": 9, "ldam": 10, "plain": 11, "second_stage": 1,
    "candle_second_stage": 19, "wider": 19,
}  # fmt: skip
# What the last epoch has on test images, %.
LAST_EPOCH = {**TEST, "candle": 62, "ldam": 43.5}
GROUPS = {"one": {"many": [0], "medium": [1, 2]}, "two": {"many": [0, 1], "few": [2]}}
SEEDS = (0, 1)


def write_table(folder: Path, name: str, **changes: Any) -> Path:
    (folder / "tiny.cfg").write_text("--dataset=digits\n--epochs=1\n--width=0.25\n")
    starts = {"scratch": {}, "pretrained": {"student_weights": "pretrained"}}
    content = {"flagfile": str(folder / "tiny.cfg"), "seeds": list(SEEDS)}
    content |= {"axes": {"start": starts, "method": METHODS}} | changes
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content))
    return path


def subset(rng: np.random.Generator, right: int, images: int) -> dict[str, list[int]]:
    """Of three classes, with `right` of `images` right in each."""
    correct = [rng.permutation(images) < right for _ in range(3)]
    labels = np.repeat([0, 1, 2], images)
    return {"labels": labels.tolist(), "correct": np.concatenate(correct).astype(int).tolist()}


def write_cells(folder: Path, name: str, leave_out: tuple[str, ...] = (), **changes: Any) -> Path:
    """A table and the records of its cells from scratch, of one test set for all seeds."""
    path = write_table(folder, name, **changes)
    rng = np.random.default_rng(len(name) + ord(name[0]))
    for cell in read_definition(path).cells:
        method = cell.values["method"]
        if cell.values.get("start") == "pretrained" or cell.name in leave_out:
            continue
        record = {
            "values": cell.values,
            "seed": cell.seed,
            "config": cell_config(cell, {}).to_dict(),
            "split": f"split {name} {cell.seed}",
            "test": f"test images {name}",
            "shot_groups": GROUPS[name],
            "validation": subset(rng, VALIDATION[method], 20),
            **{"history": [], "hours": 0, "images_seen": 1},
            "figures": {"student_last_epoch": {"mean": LAST_EPOCH[method] / 100}},
            **subset(rng, TEST[method], 100),
        }
        place = cell.record_path(folder / "runs" / name)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(record))
    return path


def read_tables(folder: Path, *paths: Path, of: str = "candle", start: str = "scratch") -> list:
    return [
        read_methods(read_definition(p), folder / "runs" / p.stem, None, {}, start, of.split(","))
        for p in paths
    ]


def mean_correct(folder: Path, table: str, method: str) -> np.ndarray:
    """Of both seeds, [class, image]."""
    cells = folder / "runs" / table / "cells"
    records = [json.loads((cells / f"scratch-{method}-{s}.json").read_text()) for s in SEEDS]
    return np.mean([np.reshape(r["correct"], [3, 100]) for r in records], axis=0)


def expect(gaps: list[np.ndarray], told: str, points: str | None = None) -> None:
    """Mean and interval of an average over data sets of gaps [class, image], by the variances."""
    mean = np.mean([g.mean() for g in gaps])
    variances = [(g.var(axis=1) / g.shape[1]).sum() / len(g) ** 2 for g in gaps]
    error = np.sqrt(np.sum(variances)) / len(gaps)
    found = [float(each) for each in told.split(" to ")]
    expected = 100 * np.array([mean - 1.96 * error, mean + 1.96 * error])
    assert np.abs(found - expected).max() < 20 * error + 0.05
    assert points in (None, f"{100 * mean:+.1f}")


def test_margins_and_their_average_are_those_of_numpy(tmp_path):
    tables = read_tables(tmp_path, write_cells(tmp_path, "one"), write_cells(tmp_path, "two"))
    rows = margin_rows(find_margins(tables))
    assert [row["table"] for row in rows] == 2 * ["one", "two", "average of 2 of 2 tables"]
    # LDAM is better on validation images, balanced softmax on the test images.
    assert [row.get("method") for row in rows] == ["ldam", "ldam", None, "plain", "plain", None]
    assert [row.get("chosen of") for row in rows[:4]] == ["3 of 3", "3 of 3", None, "1 of 1"]
    for kind, best in enumerate(("ldam", "plain")):
        gaps = [
            mean_correct(tmp_path, name, "candle") - mean_correct(tmp_path, name, best)
            for name in ("one", "two")
        ]
        part = rows[3 * kind : 3 * kind + 3]
        for row, gap in zip(part, ([gaps[0]], [gaps[1]], gaps), strict=True):
            expect(gap, row["95 %"], row["points"])
        many = [gaps[0][:1], gaps[1][:2]]
        points, _, interval = part[2]["many"].removesuffix(")").partition(" (")
        expect(many, interval, points)
        # Groups that one table alone has.
        assert part[0]["medium"].startswith(f"{100 * gaps[0][1:].mean():+.1f} (")
        assert "medium" not in part[1]
        assert part[2]["medium"] == part[0]["medium"] + ", 1 of 2 tables"
        assert part[2]["few"] == part[1]["few"] + ", 1 of 2 tables"
    # 62 minus 43.5 or 55 in each.
    assert [row["last epochs"] for row in rows] == 3 * ["+18.5"] + 3 * ["+7.0"]


def test_last_epochs_are_told_where_all_tables_have_them(tmp_path):
    paths = [write_cells(tmp_path, name) for name in ("one", "two")]
    for seed in SEEDS:
        path = tmp_path / "runs" / "two" / "cells" / f"scratch-ldam-{seed}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "figures": {}}))
    rows = margin_rows(find_margins(read_tables(tmp_path, *paths)))
    assert [row.get("last epochs") for row in rows[:3]] == ["+18.5", None, None]
    # Of a table that chooses settings they are of validation images.
    path = write_cells(tmp_path, "one", choose=True)
    for method, score in (("candle", 0.5), ("ldam", 0.375)):
        for seed in SEEDS:
            cell = tmp_path / "runs" / "one" / "cells" / f"scratch-{method}-{seed}.json"
            history = [{"val_mean_class_accuracy": 0.9}, {"val_mean_class_accuracy": score}]
            cell.write_text(json.dumps({**json.loads(cell.read_text()), "history": history}))
    row = margin_rows(find_margins(read_tables(tmp_path, path)))[0]
    assert (row["method"], row["last epochs"]) == ("ldam", "+12.5")


def test_tables_with_one_test_set_have_the_same_images_in_a_resample():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 500)
    first, second = (rng.random((2, 1000)) < 0.6).astype(float)
    same = ComparedImages(first, second, labels, "images")
    # Twice the same difference is as uncertain as it is once; of other images, it is less so.
    error = np.sqrt(np.sum([(first - second)[labels == c].var() / 500 for c in (0, 1)])) / 2
    for others, factor in ((same, 1.0), (ComparedImages(first, second, labels, "b"), 0.5**0.5)):
        found = average_difference([same, others])
        assert found.mean == pytest.approx(first.mean() - second.mean())
        assert found.high - found.low == pytest.approx(2 * 1.96 * factor * error, rel=0.1)
    with pytest.raises(ValueError, match="no data set"):
        average_difference([])


def test_the_average_over_tables_with_one_test_set_is_that_of_the_averaged_images():
    """Also where the single images of one table vary more than the others, of the other less."""
    labels = np.concatenate([np.arange(40), np.repeat(np.arange(40, 60), 2)])
    nothing = np.zeros(len(labels))
    for seed in range(20):
        rng = np.random.default_rng(seed)
        gaps = rng.choice([-1.0, 0.0, 1.0], (2, len(labels)), p=[0.2, 0.6, 0.2])
        gaps[1] = np.where(rng.random(len(labels)) < 0.1, gaps[1], gaps[0])
        both = average_difference([ComparedImages(each, nothing, labels, "t") for each in gaps])
        mean = average_difference([ComparedImages(gaps.mean(axis=0), nothing, labels, "t")])
        assert (both.mean, both.low, both.high) == pytest.approx((mean.mean, mean.low, mean.high))
    # In a shot group one table may have other classes than another, even a single one.
    gaps, sizes = rng.choice([-1.0, 0.0, 1.0], 30), (1, 10, 30)
    parts = [ComparedImages(gaps[:n], nothing[:n], labels[:n], "t") for n in sizes]
    found = average_difference(parts)
    assert found.mean == pytest.approx(np.mean([gaps[:n].mean() for n in sizes]))
    assert found.low < found.mean < found.high


def test_what_is_missing_is_told_cell_by_cell(tmp_path):
    gone = ("scratch-ldam-0", "scratch-plain-0", "scratch-plain-1", "scratch-softmax-1")
    path = write_cells(tmp_path, "one", leave_out=gone)
    cells = {cell.name: cell for cell in read_definition(path).cells}
    record = cells["scratch-second_stage-1"].record_path(tmp_path / "runs" / "one")
    content = json.loads(record.read_text())
    record.write_text(json.dumps(content | {"config": content["config"] | {"epochs": 9}}))
    (table,) = read_tables(tmp_path, path)
    rows = {row["method"]: row for row in method_rows([table])}
    assert next(iter(rows)) == "candle"
    told = {name: (row["kind"], row["seeds"], row["missing"]) for name, row in rows.items()}
    assert told == {
        "candle": ("compared", "0, 1", ""),
        "candle_t4": ("CANDLE with other settings", "0, 1", ""),
        "softmax": ("not distilled", "0", "1 not run"),
        "ldam": ("not distilled", "1", "0 not run"),
        "plain": ("distilled", "none", "0, 1 not run"),
        "second_stage": ("not distilled", "0", "1 run with other settings: epochs"),
        "candle_second_stage": ("CANDLE with other settings", "0, 1", ""),
        "wider": ("another student", "0, 1", ""),
    }
    assert rows["ldam"]["note"] == "the best of its kind"
    assert rows["candle"]["validation %"] == "60.0"
    labels, distilled = (row for row in margin_rows(find_margins([table])) if "chosen of" in row)
    assert (labels["method"], labels["seeds"]) == ("ldam", "1")
    assert (distilled["chosen of"], distilled["95 %"]) == ("0 of 1", "nothing to compare with")
    average = margin_rows(find_margins([table]))[-1]
    assert average == {"minus the best": "distilled", "table": "average of 0 of 1 tables"}


def test_a_method_is_not_the_best_for_the_seed_that_it_has(tmp_path):
    """Seed 1 is easy: its validation images alone put the worse method first."""
    path = write_cells(tmp_path, "one", leave_out=("scratch-softmax-0",))
    for cell in read_definition(path).cells:
        record = cell.record_path(tmp_path / "runs" / "one")
        if record.exists() and cell.seed == 1:
            content = json.loads(record.read_text())
            right = VALIDATION[cell.values["method"]] + 7
            content["validation"] = subset(np.random.default_rng(1), min(right, 20), 20)
            record.write_text(json.dumps(content))
    margins = find_margins(read_tables(tmp_path, path))
    assert margins[0].best == "ldam"
    assert margins[0].seeds == (0, 1)


def test_methods_without_validation_figures_or_of_another_split_are_not_chosen(tmp_path):
    path = write_cells(tmp_path, "one")
    for cell in read_definition(path).cells:
        record = cell.record_path(tmp_path / "runs" / "one")
        if record.exists():
            content = json.loads(record.read_text())
            if cell.values["method"] == "ldam":
                content.pop("validation")
            if cell.values["method"] == "softmax":
                content["split"] += " of others"
            record.write_text(json.dumps(content))
    (table,) = read_tables(tmp_path, path)
    notes = {row["method"]: row["note"] for row in method_rows([table])}
    assert notes["ldam"] == "no validation figures"
    assert notes["softmax"] == "not on the same split"
    assert notes["second_stage"] == "the best of its kind"
    assert find_margins([table])[0].candidates == 1


@pytest.mark.parametrize(
    ("given", "changes", "message"),
    [
        ({"of": "candel"}, {}, "--of=candel is no method of one with --start=scratch, .*candle"),
        ({"of": "ldam"}, {}, "--method=ldam_drw in one, and none of CANDLE"),
        ({}, {"axes": {"option": {"a": {}}}}, "no axis 'method'"),
        (
            {},
            {"axes": {"method": {"candle": {}}, "epochs": {"1": {}, "2": {"epochs": 2}}}},
            "several rows of method candle .*candle-1, candle-2",
        ),
        ({"start": "pretrained"}, {"axes": {"method": {"candle": {}}}}, "which has no method"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, given, changes, message):
    path = write_table(tmp_path, "one", **changes)
    with pytest.raises(UserError, match=message):
        read_tables(tmp_path, path, **given)


def test_of_several_rows_of_candle_each_table_has_the_best_on_validation_images(tmp_path):
    one = write_cells(tmp_path, "one", leave_out=("scratch-candle_t4-0", "scratch-candle_t4-1"))
    two = write_cells(tmp_path, "two")
    tables = read_tables(tmp_path, one, two, of="missing,candle,candle_t4")
    rows = margin_rows(find_margins(tables))
    assert [row.get("of") for row in rows[:3]] == ["candle", "candle_t4", None]
    for name, path, row in (("candle", one, rows[0]), ("candle_t4", two, rows[1])):
        alone = margin_rows(find_margins(read_tables(tmp_path, path, of=name)))[0]
        assert row == alone
    kinds = {row["method"]: row["kind"] for row in method_rows(tables[1:])}
    assert kinds["candle"] == "CANDLE with other settings"
    # On the seeds that both have: the other one's second seed is better than any.
    for cell in read_definition(two).cells:
        if cell.name == "scratch-candle-1":
            place = cell.record_path(tmp_path / "runs" / "two")
            content = json.loads(place.read_text())
            content["validation"]["correct"] = 60 * [1]
            place.write_text(json.dumps(content))
        if cell.name == "scratch-candle_t4-1":
            cell.record_path(tmp_path / "runs" / "two").unlink()
    (table,) = read_tables(tmp_path, two, of="candle,candle_t4")
    assert table.methods[0].name == "candle_t4"


def test_a_table_that_chooses_is_compared_on_validation_images(tmp_path):
    path = write_cells(tmp_path, "one", choose=True)
    row = margin_rows(find_margins(read_tables(tmp_path, path)))[0]
    assert (row["images"], row["points"]) == ("validation", f"{100 * (12 - 10) / 20:+.1f}")


def test_the_average_is_over_images_of_one_kind(tmp_path):
    paths = [write_cells(tmp_path, name, choose=name == "two") for name in ("one", "two")]
    both = margin_rows(find_margins(read_tables(tmp_path, *paths)))
    for name, images in (("one", "test"), ("two", "validation")):
        (alone,) = read_tables(tmp_path, tmp_path / f"{name}.json")
        expected = [row for row in margin_rows(find_margins([alone])) if "average" in row["table"]]
        found = [row for row in both if "average" in row["table"] and row["images"] == images]
        assert found == expected
        assert [row["table"] for row in found] == 2 * ["average of 1 of 1 tables"]


def test_the_command_prints_and_writes_what_kept_records_say(tmp_path):
    paths = [write_cells(tmp_path, "one"), write_cells(tmp_path, "two")]
    # Of one table what was run here, of the other kept records.
    for cell in read_definition(paths[1]).cells:
        run = cell.record_path(tmp_path / "runs" / "two")
        if run.exists():
            kept = kept_path(tmp_path / "records" / "two", cell)
            kept.parent.mkdir(parents=True, exist_ok=True)
            run.rename(kept)
    tables = f"--tables={paths[0]},{paths[1]}"
    done = start("tools.compare_tables", tables, f"--run_dir={tmp_path / 'runs'}")
    assert done.returncode == 0, done.stderr
    assert "candle minus the best other method, from scratch" in done.stdout
    written = list(csv.DictReader((tmp_path / "runs" / "comparison_scratch_candle.csv").open()))
    assert [row["method"] for row in written] == ["ldam", "ldam", "", "plain", "plain", ""]
    # 60 and 55 of the 100 images of every class, whichever they are.
    assert written[-1]["points"] == "+5.0"
    text = (tmp_path / "runs" / "comparison_scratch_candle.md").read_text()
    assert "| average of 2 of 2 tables" in text
    assert "CANDLE with other settings" in text
    none = start("tools.compare_tables", tables, f"--run_dir={tmp_path / 'runs'}", "--records=none")
    assert "average of 1 of 2 tables" in none.stdout
    wrong = start("tools.compare_tables", tables, "--of=nothing")
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr


def test_the_figures_are_told_with_a_title_and_what_they_are(tmp_path):
    tables = read_tables(tmp_path, write_cells(tmp_path, "one"))
    told = write_margins(tables, "scratch", tmp_path / "out" / "comparison")
    assert told.startswith("candle minus the best other method, from scratch")
    assert (tmp_path / "out" / "comparison.md").read_text().startswith("# candle minus")


def test_a_table_may_have_settings_of_its_own():
    given = ["epochs=3", "t2:epochs=10", "t1:progressive_sizes=48:0.5,64"]
    assert compare_tables.settings_by_table(given, ["t1", "t2"]) == {
        "t1": {"epochs": "3", "progressive_sizes": "48:0.5,64"}, "t2": {"epochs": "10"},
    }  # fmt: skip
    with pytest.raises(UserError, match=r"--set=t3:epochs=1 is for t3, which is none of t1, t2"):
        compare_tables.settings_by_table(["t3:epochs=1"], ["t1", "t2"])
