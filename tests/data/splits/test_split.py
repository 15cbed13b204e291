import dataclasses
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from candle_tf.data.sources.registry import LabelledImages, Source, open_source
from candle_tf.data.splits.longtail import profile_counts, shot_groups
from candle_tf.data.splits.split import Split, check_split, load_split, make_split, save_split
from candle_tf.errors import UserError

SHARED = Path(__file__).parents[3] / "../shared/data"

CLASSES = ("ant", "bee", "cat")


def subset(name: str, *sizes: int) -> LabelledImages:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    ids = tuple(f"{name}/{CLASSES[c]}/{i:03d}.png" for i, c in enumerate(labels))
    return LabelledImages(ids, labels)


def source_of(
    train: LabelledImages, test: LabelledImages | None = None, names=CLASSES, validation=None
) -> Source:
    def unread(image_id: str) -> np.ndarray:
        raise AssertionError(f"a split does not read images: {image_id}")

    return Source(
        "folder", names, train, test, unread, lambda image_id: image_id, validation=validation
    )


def split_of(source: Source, **changes) -> Split:
    options = {
        "profile": "exponential",
        "imbalance_factor": 10,
        "validation_fraction": 0.1,
        "test_fraction": 0.2,
        "seed": 0,
    }
    return make_split(source, **(options | changes))


def counts(images: LabelledImages, classes: int = 3) -> list[int]:
    return np.bincount(images.labels, minlength=classes).tolist()


@pytest.fixture
def two_subsets() -> Source:
    return source_of(subset("train", 100, 100, 100), subset("test", 20, 10, 5))


@pytest.fixture
def one_subset() -> Source:
    return source_of(subset("all", 100, 50, 100))


def test_a_given_test_subset_is_kept_whole(two_subsets):
    split = split_of(two_subsets)
    assert split.test.ids == two_subsets.test.ids
    np.testing.assert_array_equal(split.test.labels, two_subsets.test.labels)
    # 100 * 10^(-r / 2), a tenth of each for validation.
    assert split.train_counts.tolist() == [100, 31, 10]
    assert counts(split.validation) == [10, 3, 1]
    assert counts(split.train) == [90, 28, 9]
    assert set(split.train.ids) | set(split.validation.ids) <= set(two_subsets.train.ids)


def test_the_test_subset_is_carved_before_the_long_tail(one_subset):
    split = split_of(one_subset)
    # A fifth of the source, as balanced as the source is.
    assert counts(split.test) == [20, 10, 20]
    # Of the 80, 40, 80 left: ranks 0, 2, 1.
    assert split.train_counts.tolist() == [80, 8, 25]


def test_the_test_subset_does_not_depend_on_the_long_tail(one_subset):
    first = split_of(one_subset)
    others = (
        {"imbalance_factor": 100},
        {"profile": "step"},
        {"profile": "natural", "validation_fraction": 0.5},
    )
    for changes in others:
        assert split_of(one_subset, **changes).test.ids == first.test.ids


@pytest.mark.parametrize("profile", ["natural", "exponential", "step"])
@pytest.mark.parametrize("name", ["one_subset", "two_subsets"])
def test_no_image_is_in_two_subsets_and_labels_stay(request, name, profile):
    source = request.getfixturevalue(name)
    split = split_of(source, profile=profile, validation_fraction=0.3)
    ids = split.train.ids + split.validation.ids + split.test.ids
    assert len(set(ids)) == len(ids)
    for each in (split.train, split.validation, split.test):
        assert [image_id.split("/")[1] for image_id in each.ids] == [
            CLASSES[label] for label in each.labels
        ]
    np.testing.assert_array_equal(
        split.train_counts, np.add(counts(split.train), counts(split.validation))
    )


def test_no_validation_subset_if_none_is_wanted(two_subsets):
    split = split_of(two_subsets, validation_fraction=0)
    assert split.validation.ids == ()
    assert counts(split.train) == [100, 31, 10]


def test_a_validation_subset_of_the_source_is_used_and_does_not_count(tmp_path, two_subsets):
    own = subset("val", 5, 5, 5)
    source = source_of(two_subsets.train, two_subsets.test, validation=own)
    split = split_of(source)
    assert split.validation.ids == own.ids
    assert counts(split.train) == split.train_counts.tolist() == [100, 31, 10]
    save_split(split, tmp_path / "split.json")
    check_split(load_split(tmp_path / "split.json"), source)
    assert split_of(source, validation_fraction=0).validation.ids == ()
    with pytest.raises(UserError, match=r"1.*outside \[0, 1\)"):
        split_of(source, validation_fraction=1)


def test_a_changed_validation_subset_is_noticed(two_subsets):
    source = source_of(two_subsets.train, two_subsets.test, validation=subset("val", 5, 5, 5))
    split = split_of(source)
    for own, message in (
        (subset("val", 5, 5, 4), "1 images of the split were removed"),
        (subset("val", 5, 5, 6), "other images were"),
        (None, "15 images of the split were removed"),
    ):
        with pytest.raises(UserError, match=message):
            check_split(split, source_of(two_subsets.train, two_subsets.test, validation=own))


def test_the_hash_tells_splits_apart_and_the_seed_repeats_one(two_subsets):
    splits = [
        split_of(two_subsets, **changes)
        for changes in (
            {},
            {"seed": 1},
            {"imbalance_factor": 11},
            {"profile": "step"},
            {"validation_fraction": 0.2},
        )
    ]
    assert len({split.hash for split in splits}) == len(splits)
    assert split_of(two_subsets).hash == splits[0].hash
    assert splits[0].train.ids != splits[1].train.ids


def test_digits_become_long_tailed():
    with open_source("digits", "") as source:
        split = split_of(source, imbalance_factor=50)
    total = counts(source.train, 10)
    np.testing.assert_array_equal(counts(split.test, 10), np.floor(np.multiply(total, 0.2) + 0.5))
    left = np.subtract(total, counts(split.test, 10))
    np.testing.assert_array_equal(split.train_counts, profile_counts("exponential", left, 50))
    assert set(shot_groups(split.train_counts)) == {"many", "medium", "few"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"profile": "expo"}, "'expo'.*natural, exponential, step"),
        ({"imbalance_factor": 0.1}, "0.1.*>= 1"),
        ({"validation_fraction": 1}, r"1.*outside \[0, 1\)"),
        ({"test_fraction": -0.2}, r"-0.2.*outside \[0, 1\)"),
        ({"test_fraction": 0}, "'folder' has no test subset"),
        ({"seed": -4}, "Seed -4"),
    ],
)
def test_bad_values_are_refused(one_subset, changes, message):
    with pytest.raises(UserError, match=message):
        split_of(one_subset, **changes)


def test_where_no_class_can_give_up_a_test_image_more_images_are_asked_for():
    source = source_of(subset("all", 3, 1, 2))
    for fraction in (0.2, 0.9):
        with pytest.raises(UserError) as caught:
            split_of(source, test_fraction=fraction)
        assert str(caught.value) == (
            "The data set 'folder' has no test subset, and no class has 4 images, of which one can "
            "be held out: the largest class has 3. Add images, or give a test subset."
        )
    assert len(split_of(source_of(subset("all", 4, 1, 2))).test.ids) == 1


def test_an_empty_validation_subset_is_said(caplog):
    split = split_of(source_of(subset("train", 3, 3, 3), subset("test", 1, 1, 1)))
    assert split.validation.ids == ()
    assert "validation subset" in caplog.text


def test_a_split_does_not_hold_an_image_twice(two_subsets):
    split = split_of(two_subsets)
    with pytest.raises(ValueError, match="two subsets"):
        dataclasses.replace(split, test=split.train)
    with pytest.raises(ValueError, match="train_counts"):
        dataclasses.replace(split, train_counts=np.array([90, 28, 9]))
    with pytest.raises(ValueError, match=r"\[0, 2\)"):
        dataclasses.replace(split, class_names=("ant", "bee"))


def test_saving_and_loading_give_the_same_split(tmp_path, one_subset):
    split = split_of(one_subset, imbalance_factor=7.3, seed=12)
    path = tmp_path / "run" / "split.json"
    save_split(split, path)
    loaded = load_split(path)
    assert loaded.hash == split.hash
    for field in dataclasses.fields(Split):
        before, after = getattr(split, field.name), getattr(loaded, field.name)
        if isinstance(before, LabelledImages):
            assert after.ids == before.ids
            before, after = before.labels, after.labels
        np.testing.assert_array_equal(after, before)
    assert loaded.train.labels.dtype == np.int32
    assert loaded.train_counts.dtype == np.int64
    check_split(loaded, one_subset)


def test_the_file_is_readable_and_alone(tmp_path, two_subsets):
    path = tmp_path / "split.json"
    save_split(split_of(two_subsets), path)
    save_split(split_of(two_subsets, seed=1), path)
    assert os.listdir(tmp_path) == ["split.json"]
    content = json.loads(path.read_text())
    assert content["train_counts"] == {"ant": 100, "bee": 31, "cat": 10}
    assert content["seed"] == 1
    assert content["hash"] == load_split(path).hash
    assert ' "test/ant/000.png": 0,\n' in path.read_text()


def test_a_split_that_cannot_be_written_is_a_user_error(tmp_path, two_subsets):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"split\.json cannot be written"):
        save_split(split_of(two_subsets), tmp_path / "file" / "split.json")


def test_counts_are_filled_as_given(two_subsets):
    split = split_of(two_subsets, profile="counts", class_counts=[10, 80, 40], imbalance_factor=100)
    assert split.train_counts.tolist() == [10, 80, 40]
    assert split.imbalance_factor == 8
    with pytest.raises(UserError, match="101 of class 'cat', which has 100"):
        split_of(two_subsets, profile="counts", class_counts=[10, 80, 101])


def test_first_goes_by_name_whatever_the_order_of_the_source(two_subsets):
    train = two_subsets.train
    order = np.random.default_rng(0).permutation(len(train.ids))
    mixed = LabelledImages(tuple(train.ids[i] for i in order), train.labels[order])
    for source in (two_subsets, source_of(mixed, two_subsets.test)):
        split = split_of(source, selection="first", validation_fraction=0)
        expected = {f"train/{CLASSES[c]}/{100 * c + i:03d}.png" for c, n in enumerate((100, 31, 10))
                    for i in range(n)}  # fmt: skip
        assert set(split.train.ids) == expected


@pytest.mark.parametrize("held", ["validation", "test"])
def test_the_seed_decides_what_is_held_out(held, one_subset, two_subsets):
    """Nothing else that the seed draws comes before it: all images are selected."""
    source = one_subset if held == "test" else two_subsets
    splits = [split_of(source, profile="natural", seed=seed) for seed in (3, 3, 4)]
    first, same, other = (set(split.subsets[held].ids) for split in splits)
    assert first == same
    assert len(first) == len(other)
    assert first != other


def test_ldam_goes_by_name_and_does_not_follow_the_seed(two_subsets):
    splits = [
        split_of(two_subsets, selection="ldam", validation_fraction=0, seed=s) for s in (0, 9)
    ]
    assert splits[0].train.ids == splits[1].train.ids
    legacy = np.random.RandomState(0)
    expected = set()
    for c, (name, count) in enumerate(zip(CLASSES, (100, 31, 10), strict=True)):
        members = np.arange(100 * c, 100 * c + 100)
        legacy.shuffle(members)
        expected |= {f"train/{name}/{i:03d}.png" for i in members[:count]}
    assert set(splits[0].train.ids) == expected


@pytest.mark.parametrize("selection", ["first", "ldam"])
def test_a_selection_is_saved_and_is_subset_of_the_hash(tmp_path, two_subsets, selection):
    split = split_of(two_subsets, selection=selection)
    assert split.hash != dataclasses.replace(split, selection="seeded").hash
    save_split(split, tmp_path / "split.json")
    assert load_split(tmp_path / "split.json").selection == selection
    content = json.loads((tmp_path / "split.json").read_text())
    assert (content["format"], content["selection"]) == (2, selection)


def test_seeded_splits_keep_the_hash_and_the_file_of_format_1(tmp_path, one_subset):
    split = split_of(one_subset)
    path = tmp_path / "split.json"
    save_split(split, path)
    # As written before there were other selections: one text, in this order.
    content = {
        "format": 1,
        "source": "folder",
        "source_hash": split.source_hash,
        "profile": "exponential",
        "imbalance_factor": 10.0,
        "seed": 0,
        "train_counts": {"ant": 80, "bee": 8, "cat": 25},
    }
    for name in ("train", "validation", "test"):
        subset = getattr(split, name)
        content[name] = dict(zip(subset.ids, subset.labels.tolist(), strict=True))
    text = json.dumps(content, separators=(",", ":"))
    assert split.hash == hashlib.sha256(text.encode()).hexdigest()
    whole = json.dumps({"hash": split.hash} | content, indent=1, ensure_ascii=False) + "\n"
    assert path.read_text() == whole
    named = dict(sorted(zip(one_subset.train.ids, one_subset.train.labels.tolist(), strict=True)))
    text = json.dumps({"class_names": CLASSES, "test": None, "train": named},
                      separators=(",", ":"))  # fmt: skip
    assert split.source_hash == hashlib.sha256(text.encode()).hexdigest()


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def move_a_test_image_to_train(content):
    image_id, label = content["test"].popitem()
    content["train"][image_id] = label
    content["train_counts"]["cat"] += 1


@pytest.mark.parametrize(
    "change",
    [
        move_a_test_image_to_train,
        lambda content: content["test"].popitem(),
        lambda content: content["test"].update({"test/ant/000.png": 1}),
        lambda content: content["test"].update({"test/ant/000.png": 0.5}),
        lambda content: content["test"].update({"test/ant/000.png": 7}),
        lambda content: content["train_counts"].update(ant=99),
        lambda content: content.update(seed=3),
        lambda content: content.update(imbalance_factor=11.0),
        lambda content: content.update(profile="step"),
        lambda content: content.update(source_hash="0" * 64),
        lambda content: content.update(hash="0" * 64),
        lambda content: content.update(note="added"),
        lambda content: content.update(format=99),
        lambda content: content.update(format=2),
        lambda content: content.update(format=2, selection="seeded", own_validation=False),
        lambda content: content.update(selection="first"),
        lambda content: content.update(train=[1, 2]),
        lambda content: content.pop("validation"),
        lambda content: content.pop("hash"),
    ],
)
def test_an_edited_file_is_refused(tmp_path, two_subsets, change):
    path = tmp_path / "split.json"
    save_split(split_of(two_subsets), path)
    edit(path, dict.copy)
    load_split(path)
    edit(path, change)
    with pytest.raises(UserError, match=r"split\.json.*(edited|damaged).*new run folder"):
        load_split(path)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b'{"format": 1}'])
def test_a_damaged_file_is_refused(tmp_path, data):
    path = tmp_path / "split.json"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"split\.json: the split is damaged"):
        load_split(path)


def test_a_truncated_file_is_refused(tmp_path, two_subsets):
    path = tmp_path / "split.json"
    save_split(split_of(two_subsets), path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match="damaged"):
        load_split(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"split\.json: the split cannot be read"):
        load_split(tmp_path / "split.json")


def without(images: LabelledImages, *gone: str) -> LabelledImages:
    rows = [i for i, image_id in enumerate(images.ids) if image_id not in gone]
    return LabelledImages(tuple(images.ids[i] for i in rows), images.labels[rows])


def relabel(images: LabelledImages, image_id: str, label: int) -> LabelledImages:
    labels = images.labels.copy()
    labels[images.ids.index(image_id)] = label
    return LabelledImages(images.ids, labels)


def test_changed_data_are_noticed_and_counted(two_subsets):
    split = split_of(two_subsets)
    train, test = two_subsets.train, two_subsets.test
    used = split.train.ids[0], split.validation.ids[0]
    unused = min(set(train.ids) - {*split.train.ids, *split.validation.ids})
    extra = LabelledImages((*train.ids, "train/cat/new.png"), np.append(train.labels, 2))
    others = "but other images were added, removed or relabelled"
    for changed, message in (
        (source_of(without(train, *used), test), "2 images of the split were removed"),
        (source_of(train, without(test, test.ids[0])), "1 images of the split were removed"),
        (source_of(relabel(train, used[0], 2), test), "1 images of the split have another"),
        (source_of(without(train, unused), test), others),
        (source_of(relabel(train, unused, 2), test), others),
        (source_of(extra, test), others),
        (source_of(train, test, ("ant", "bee", "dog")), "classes have other names"),
        (source_of(train, test, ("ant", "cat", "bee")), "another order"),
        (source_of(train, test, (*CLASSES, "dog")), "3 classes before, 4 now"),
        (source_of(train), "35 images of the split were removed"),
    ):
        with pytest.raises(UserError, match=f"{message}.*[Rr]estore the data.*new run folder"):
            check_split(split, changed)


def test_added_images_are_counted_where_all_were_used(two_subsets):
    split = split_of(two_subsets, profile="natural")
    train = two_subsets.train
    extra = LabelledImages((*train.ids, "train/cat/new.png"), np.append(train.labels, 2))
    with pytest.raises(UserError, match="1 images were added"):
        check_split(split, source_of(extra, two_subsets.test))


def test_the_same_data_in_another_order_are_no_change(two_subsets):
    split = split_of(two_subsets)
    backwards = LabelledImages(two_subsets.train.ids[::-1], two_subsets.train.labels[::-1])
    check_split(split, source_of(backwards, two_subsets.test))


def test_another_data_set_is_refused(two_subsets):
    with open_source("digits", "") as digits, pytest.raises(UserError, match=r"'folder'.*'digits'"):
        check_split(split_of(two_subsets), digits)


@pytest.mark.parametrize(("factor", "total"), [(10, 19573), (50, 12608), (100, 10847), (200, 9502)])
def test_totals_of_the_shared_cifar100(factor, total):
    path = SHARED / "cifar100_lt10.zip"
    if not path.exists():
        pytest.skip(f"{path.name} is not at hand")
    with open_source("folder", str(path)) as source:
        split = split_of(source, imbalance_factor=factor)
    assert split.train_counts.sum() == total
    assert len(split.train.ids) + len(split.validation.ids) == total
    assert counts(split.test, 100) == [100] * 100


@pytest.mark.parametrize("factor", [10, 100])
def test_the_first_n_rule_of_the_shared_cifar100(factor):
    path = SHARED / "cifar100_lt10.zip"
    if not path.exists():
        pytest.skip(f"{path.name} is not at hand")
    with open_source("folder", str(path)) as source:
        split = split_of(source, imbalance_factor=factor, selection="first", validation_fraction=0)
    ranks = {name: [] for name in split.class_names}
    for image_id in split.train.ids:
        _, name, file = image_id.split("/")
        ranks[name].append(int(file.partition("_")[0]))
    for c, name in enumerate(split.class_names):
        # Files are named <rank>_<index of the original>.
        assert sorted(ranks[name]) == list(range(int(500 * factor ** (-c / 99)))), name


def test_natural_counts_of_the_shared_caltech101():
    path = SHARED / "caltech101.zip"
    if not path.exists():
        pytest.skip(f"{path.name} is not at hand")
    expected = json.loads(path.with_suffix(".counts.json").read_text())
    with open_source("folder", str(path)) as source:
        split = split_of(source, profile="natural")
    assert dict(zip(split.class_names, split.train_counts, strict=True)) == expected["train"]
    assert dict(zip(split.class_names, counts(split.test, 101), strict=True)) == expected["test"]
