"""The 15 data sets of the paper: source of each, and how it is made long-tailed.

    python -m candle_tf.datasets --json=catalog.json        lists the rows, and which are available
    python -m candle_tf.train --dataset=cub200                  with the settings of the row
    python -m candle_tf.train --flagfile=configs/cub200.cfg     with the settings of a whole run

A row gives a kind of source (`candle_tf.data.sources.registry`) and settings. Flags override them.
The values are from the paper (arXiv 2404.00285) and the authors' early scripts. Its lists of images
are not public. Only the splits of CIFAR, ImageNet-LT, Places-LT and iNaturalist have exactly
the images of the literature.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESOLUTION = 224
# The authors' transforms. Only the colour jitter differs between data sets.
_TRAIN = f"random resized crop to {RESOLUTION}, flip"
EVAL_TRANSFORM = f"shorter side to 256, central {RESOLUTION} x {RESOLUTION}"
TFDS_PREFIX = "tfds:"


@dataclass(frozen=True)
class Entry:
    """A row of the catalog.

    Attributes:
        name: Name for --dataset and of the file in configs/.
        title: Name in the literature.
        source: "tfds:<builder>", "folder" or "list".
        classes: Number of classes in that source.
        imbalance_factor: Largest class count over the smallest, in the training set.
        fetch: How to get it, if TensorFlow Datasets does not provide it.
        profile: See `longtail.profile_counts`.
        selection: See `longtail.select`.
        training_total: Published number of training images; None where none is published.
        licence: As its publishers state it, or "unknown".
        color_jitter: Strength in the authors' training transform.
        smoothing: (head, tail) of label-aware smoothing in the authors' scripts; None: not known.
    """

    name: str
    title: str
    source: str
    classes: int
    imbalance_factor: float
    fetch: str = ""
    profile: str = "exponential"
    selection: str = "seeded"
    training_total: int | None = None
    licence: str = "unknown"
    color_jitter: float = 0.4
    smoothing: tuple[float, float] | None = None

    @property
    def config(self) -> str:
        """Path of the flagfile of a whole run, in the repository."""
        return f"configs/{self.name}.cfg"

    @property
    def train_transform(self) -> str:
        """Description of the authors' training transform."""
        return f"{_TRAIN}, colour jitter {self.color_jitter}" if self.color_jitter else _TRAIN

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the row, by flag name."""
        known = {}
        if self.smoothing:
            head, tail = self.smoothing
            known = {"calibration_loss": "label_aware_smoothing", "smoothing_head": head,
                     "smoothing_tail": tail}  # fmt: skip
        return {
            "profile": self.profile,
            "imbalance_factor": float(self.imbalance_factor),
            "selection": self.selection,
            "image_size": RESOLUTION,
            "augmentation": "random_resized_crop_flip",
            "resize": "crop",
            "color_jitter": self.color_jitter,
            **known,
        }

    def missing(self, data_dir: str, train_list: str) -> str:
        """Message that says which flags are missing to open this row; empty if none."""
        kind = self.kind(data_dir, train_list)
        if kind == "list" and not (data_dir and train_list):
            lacks = [f"--{name}" for name, given in
                     (("data_dir", data_dir), ("train_list", train_list)) if not given]  # fmt: skip
            return f"--dataset={self.name} needs {' and '.join(lacks)}. {self.fetch}"
        if kind == "folder" and not data_dir:
            return f"--dataset={self.name} needs --data_dir. {self.fetch}"
        return ""

    def kind(self, data_dir: str = "", train_list: str = "") -> str:
        """The source to open: the row's own, or what the user gives.

        "list" if there is a list of images; "folder" if `data_dir` is a file, or a folder that
        contains a folder "train".
        """
        if train_list:
            return "list"
        if self.source.startswith(TFDS_PREFIX) and data_dir:
            path = Path(data_dir).expanduser()
            if path.is_file() or (path / "train").is_dir():
                return "folder"
        return self.source


def _cifar(classes: int, imbalance_factor: int, total: int, **more: Any) -> Entry:
    return Entry(
        f"cifar{classes}_lt{imbalance_factor}",
        f"CIFAR-{classes}-LT",
        f"tfds:cifar{classes}",
        classes,
        imbalance_factor,
        selection="ldam",
        training_total=total,
        color_jitter=0.0,
        **more,
    )


_LISTS = (
    "Its lists of `<path> <label>` lines come with the code of Liu et al. 2019 (Open Long-Tailed "
    "Recognition), the images from {site}, on request. Give --train_list={name}_train.txt "
    "--validation_list={name}_val.txt --test_list={name}_test.txt, and as --data_dir the folder or "
    "archive that the paths are relative to."
)

_ROWS = (
    Entry("caltech101", "Caltech101", "tfds:caltech101", 102, 10, smoothing=(0.01, 0.01)),
    _cifar(10, 10, 20_431),
    _cifar(10, 100, 12_406),
    _cifar(100, 10, 19_573, smoothing=(0.08, 0.36)),
    _cifar(100, 100, 10_847, smoothing=(0.08, 0.36)),
    Entry("cub200", "CUB-200-2011", "tfds:caltech_birds2011", 200, 10, smoothing=(0.04, 0.01)),
    Entry("dtd", "DTD", "tfds:dtd", 47, 10, smoothing=(0.01, 0.39)),
    Entry(
        "fgvc_aircraft",
        "FGVC-Aircraft",
        "folder",
        100,
        10,
        fetch="Fetch fgvc-aircraft-2013b from its page at Oxford's Visual Geometry Group, sort the "
        "images by variant into train/<class>/* (trainval) and test/<class>/*, and give that "
        "folder or an archive of it; or give --train_list and --test_list of `<path> <label>` "
        "lines, and the images folder as --data_dir.",
        licence="non-commercial research only",
        smoothing=(0.0, 0.39),
    ),
    Entry("flowers102", "Flowers-102", "tfds:oxford_flowers102", 102, 10, smoothing=(0.04, 0.04)),
    Entry("stanford_cars", "Stanford Cars", "tfds:cars196", 196, 10, smoothing=(0.0, 0.38)),
    Entry("stanford_dogs", "Stanford Dogs", "tfds:stanford_dogs", 120, 10),
    Entry(
        "fruits",
        "Fruits",
        "folder",
        24,
        100,
        fetch="The 24 classes are probably those of Fruits-360 in original size, in its first "
        "version. Fetch it, rename the folders Training, Validation and Test to train, validation "
        "and test, leave other folders out, and give the folder or an archive of it.",
        licence="CC BY-SA 4.0",
    ),
    Entry(
        "places_lt",
        "Places-LT",
        "list",
        365,
        996,
        profile="natural",
        training_total=62_500,
        fetch=_LISTS.format(site="places2.csail.mit.edu", name="Places_LT"),
        licence="images belong to their owners",
    ),
    Entry(
        "imagenet_lt",
        "ImageNet-LT",
        "list",
        1000,
        256,
        profile="natural",
        training_total=115_846,
        fetch=_LISTS.format(site="image-net.org", name="ImageNet_LT"),
    ),
    Entry(
        "inaturalist2018",
        "iNaturalist-2018",
        "tfds:i_naturalist2018",
        8142,
        500,
        profile="natural",
        training_total=437_513,
        licence="non-commercial research and education",
    ),
)
CATALOG: dict[str, Entry] = {row.name: row for row in _ROWS}


def settings_of(dataset: str) -> dict[str, Any]:
    """The settings of a data set in the catalog; empty for others."""
    return CATALOG[dataset].settings if dataset in CATALOG else {}


def kind_of(dataset: str, data_dir: str = "", train_list: str = "") -> str:
    """The source to open for --dataset: the name itself, if it is not in the catalog."""
    return CATALOG[dataset].kind(data_dir, train_list) if dataset in CATALOG else dataset
