"""Settings of the data: the data set, its split, its images, and the order of an epoch."""

import codecs
from dataclasses import dataclass

from candle_tf.data.catalog import CATALOG, kind_of
from candle_tf.data.samplers import SAMPLERS
from candle_tf.data.sources.registry import SOURCES
from candle_tf.data.splits.longtail import PROFILES, SELECTIONS
from candle_tf.errors import UserError
from candle_tf.methods.registry import CANDLE
from candle_tf.settings import SettingsGroup, setting

# The settings that sources of `LISTED` alone have.
LISTS = ("train_list", "test_list", "validation_list", "class_names")
LISTED = ("list", "coco")
AUTO = "auto"
# Balanced, so that --profile=auto makes them long-tailed, as the literature does.
_BALANCED = ("digits", "fashion_mnist", "tfds:cifar10", "tfds:cifar100", "tfds:mnist",
             "tfds:fashion_mnist", "tfds:kmnist", "tfds:svhn_cropped")  # fmt: skip
ON_BAD_IMAGE = ("stop", "skip")
RESIZES = ("stretch", "crop")
STORES = ("auto", "disk", "stream")


@dataclass(frozen=True)
class DataSettings(SettingsGroup):
    """Which images are trained, validated and tested on, and how they are stored."""

    dataset: str = setting(
        "digits",
        f"where the images come from: {', '.join(SOURCES)}[/<config>][:<version>] of TensorFlow "
        "Datasets, or a name of the catalog (python -m candle_tf.datasets), which brings settings "
        "of its own; folder where --data_dir alone is given",
    )
    data_dir: str = setting(
        "",
        "folder: a folder, ZIP or TAR of images; list: the folder, ZIP or TAR that the lists' "
        "paths are relative to; fashion_mnist: a folder of IDX files; tfds: its data folder",
    )
    train_list: str = setting(
        "",
        "images to learn from; for --dataset=list: a CSV, a TSV or lines of <path> <label>; for "
        "--dataset=coco: annotations in COCO's JSON",
    )
    test_list: str = setting("", "the same of the test subset, if there is one")
    validation_list: str = setting(
        "", "the same of the data's own validation subset, if there is one"
    )
    class_names: str = setting(
        "",
        "for --dataset=list or coco: a file with the name of a class on each line, in label order",
    )
    archive_encoding: str = setting(
        "",
        "encoding of the names in a ZIP or TAR that does not say it, e.g. cp932 for one from a "
        "Japanese Windows; if empty, such names must be UTF-8",
    )
    on_bad_image: str = setting(
        "stop",
        "when images cannot be read: stop before training and list them, or skip: leave them "
        "out and list them in the report",
        choices=ON_BAD_IMAGE,
    )
    near_duplicates: int = setting(
        -1,
        "warn of test images that look like a training image: whose perceptual hashes differ in at "
        "most so many of 64 bits, e.g. 4; -1 for no such check (needs the package ImageHash)",
        at_least=-1,
        at_most=16,
    )
    profile: str = setting(
        AUTO,
        "how the training set is made long-tailed; natural keeps all images, auto is natural for "
        "folder, list, coco and tfds, and exponential for the balanced benchmarks",
        choices=(AUTO, *PROFILES, "counts"),
    )
    imbalance_factor: float = setting(
        100.0,
        "images of the largest class per image of the smallest",
        at_least=1,
        at_most=1e9,
        only_for="profile=exponential|step",
    )
    class_counts: str = setting(
        "",
        "500,300,20 by class, or a .json, .csv or .tsv file of counts",
        only_for="profile=counts",
    )
    selection: str = setting(
        "seeded",
        "which images of a class are kept: drawn by --seed, the first by name, or as LDAM-DRW's "
        "code draws them (CIFAR; it counts by class index)",
        choices=SELECTIONS,
        only_for="profile=exponential|step|counts",
    )
    validation_fraction: float = setting(
        0.1, "fraction of each training class held out to choose the epoch", at_least=0, below=1
    )
    test_fraction: float = setting(
        0.2,
        "fraction of each class held out as test set where the data has none",
        above=0,
        below=1,
    )
    split: str = setting(
        "",
        "a saved split.json to use instead of drawing one; the flags of the draw have no effect "
        "then",
    )
    resize: str = setting(
        "stretch",
        "stretch the whole image to a square (squeeze is its older name), or crop: evaluate the "
        "centre of 7/8 of the shorter side, and crop training views in the original aspect",
        choices=RESIZES,
    )
    store: str = setting(
        "auto",
        "decoded images: on disk, or stream (decoded whenever needed); auto: on disk where they "
        "take at most half of what is free",
        choices=STORES,
    )
    sampler: str = setting(
        "instance",
        "how often the student's epochs show each class: as often as it has images "
        "(instance), all alike (class_balanced), by the root of its images (square_root), "
        "from the first to the second (progressive), or the first until --sampler_start and one "
        "of the others then (deferred_*)",
        choices=SAMPLERS,
    )
    sampler_start: float = setting(
        0.5,
        "fraction of the epochs in which classes are shown as often as they have images",
        at_least=0,
        at_most=1,
        only_for="sampler=deferred_*",
    )

    @property
    def kind(self) -> str:
        """The source to open: --dataset, or what its row of the catalog stands for."""
        return kind_of(self.dataset, self.data_dir, self.train_list)

    @property
    def locations(self) -> dict[str, str]:
        """The settings of `SourceConfig`, by name: where the images and lists are."""
        return {name: getattr(self, name) for name in ("data_dir", *LISTS, "archive_encoding")}

    def __post_init__(self) -> None:
        if self.resize == "squeeze":  # in flagfiles and settings of earlier runs
            object.__setattr__(self, "resize", "stretch")
        if self.profile == AUTO:
            # Records of a run state the profile that is used.
            object.__setattr__(self, "profile", self._default_profile())
        super().__post_init__()

    def _default_profile(self) -> str:
        if self.dataset in CATALOG:
            return CATALOG[self.dataset].profile
        # A version may follow the name: tfds:cifar10:3.0.2.
        name = ":".join(self.dataset.split(":")[:2])
        return "exponential" if name in _BALANCED else "natural"

    def check(self) -> None:
        if (self.profile == "counts") != bool(self.class_counts):
            raise UserError(
                f"--profile={self.profile} contradicts --class_counts={self.class_counts}: "
                "--profile=counts and --class_counts need each other."
            )
        self._check_source()
        self._check_locations()

    def _check_source(self) -> None:
        if self.dataset in CATALOG:
            missing = CATALOG[self.dataset].missing(self.data_dir, self.train_list)
            if missing:
                raise UserError(missing)
        if SOURCES.find(self.kind) is None:
            raise UserError(
                f"--dataset={self.dataset} is not known; it is {', '.join(SOURCES)}, one of a "
                f"--plugin, or one of the catalog: {', '.join(CATALOG)}."
            )

    def _check_locations(self) -> None:
        kind = self.kind
        check_archive_encoding(self.archive_encoding)
        if kind in ("folder", *LISTED) and not self.data_dir:
            raise UserError(
                f"--data_dir is empty, but --dataset={self.dataset} needs the path of a folder, "
                "ZIP or TAR."
            )
        if self.dataset == "digits" and self.data_dir:
            raise UserError(
                f"--data_dir={self.data_dir} contradicts --dataset=digits, which ships with "
                "scikit-learn; give --dataset=folder or leave --data_dir empty."
            )
        given = [name for name in LISTS if getattr(self, name)]
        if given and kind not in LISTED:
            raise UserError(
                f"--{given[0]}={getattr(self, given[0])} contradicts --dataset={self.dataset}; it "
                f"is for --dataset={' or '.join(LISTED)}."
            )
        if kind in LISTED and not self.train_list:
            raise UserError(f"--train_list is empty, but --dataset={kind} needs it.")


@dataclass(frozen=True)
class UnlabelledSettings(SettingsGroup):
    """Images without labels that a student is distilled on, too."""

    unlabelled_dir: str = setting(
        "",
        "more images to distil on, without labels: a folder, ZIP or TAR, in any folders",
        only_for=CANDLE,
    )
    unlabelled_fraction: float = setting(
        0.5,
        "fraction of each batch that is images without labels",
        above=0,
        below=1,
        only_for="unlabelled_dir",
    )
    unlabelled_views: int = setting(
        0,
        "precomputed views of each image without labels; fewer do where there are many such "
        "images; 0: as many as --views",
        at_least=0,
        at_most=10_000,
        only_for="unlabelled_dir and teacher_view=same and teacher_mode=cached",
    )

    def in_batch(self, batch_size: int) -> int:
        """Images without labels in a batch of so many, at least one and not all; 0 if none given.

        Args:
            batch_size: at least 2 where there are such images.
        """
        if not self.unlabelled_dir:
            return 0
        return min(max(round(self.unlabelled_fraction * batch_size), 1), batch_size - 1)


def check_archive_encoding(name: str) -> None:
    """Checks the value of --archive_encoding.

    Raises:
        UserError: if it is no encoding of text, and not empty.
    """
    if name and not _is_encoding(name):
        raise UserError(
            f"--archive_encoding={name} is not known; it is an encoding of text such as cp932, "
            "gbk, cp949, big5 or cp437."
        )


def _is_encoding(name: str) -> bool:
    try:
        return codecs.lookup(name)._is_text_encoding
    except (LookupError, ValueError):
        return False
