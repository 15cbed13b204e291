"""Takes the labels from a part of the training images, to measure what --unlabelled_dir brings.

    python -m tools.hide_labels --data_dir=caltech101.zip --out=hidden --fraction=0.5

writes hidden/labelled-0.5-0.zip, with train/<class>/<image> of the rest and all other images, such
as test/, and hidden/unlabelled-0.5-0.zip, with numbered images alone. Each class loses that
fraction of its training images, those of deeper folders included, rounded down, drawn by --seed.
Hidden files and those of file managers are left out. Fraction and seed are in the names, as tables
tell data sets by them.
"""

import contextlib
import random
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from absl import flags

from candle_tf import app
from candle_tf.config import Config
from candle_tf.data.sources.archives import open_tree
from candle_tf.data.sources.file_tree import FileTree, is_image
from candle_tf.errors import UserError

# Of the images that keep their labels, and of those that lose them.
ARCHIVES = ("labelled", "unlabelled")
_LAYOUT = "Expected train/<class>/<image> and test/<class>/<image> in a folder, a ZIP or a TAR."


def hide_labels(
    source: Path, folder: Path, fraction: float, seed: int, encoding: str = ""
) -> tuple[int, int]:
    """Writes both archives; nothing is decoded.

    Args:
        source: train/<class>/<image> and test/<class>/<image> in a folder, a ZIP or a TAR.
        folder: for both archives; made if there is none.
        fraction: of each class's training images, in (0, 1).
        seed: of the draw.
        encoding: of the names in an archive that does not say it; see `SourceConfig`.

    Returns:
        How many training images have labels, and how many have none.

    Raises:
        UserError: for what is no folder and no archive, has another layout, an image that cannot
            be read or names in an unknown encoding, or a fraction at which no image loses its
            label. Nothing is written then.
    """
    kept, stripped = (folder / f"{name}-{fraction:g}-{seed}.zip" for name in ARCHIVES)
    if source.resolve() in (kept.resolve(), stripped.resolve()):
        raise UserError(f"--out={folder} would overwrite --data_dir={source}: give another folder.")
    with contextlib.closing(open_tree(source, _LAYOUT, encoding=encoding)) as tree:
        names = sorted(filter(is_image, tree.files))
        train = [name for name in names if _class_folder(name)]
        hidden = draw_images(train, fraction, seed)
        if not hidden:
            raise UserError(
                f"--fraction={fraction:g} of {source} hides no label: it has {len(train)} images "
                f"in train/<class>/. Give a larger fraction, or other images. {_LAYOUT}"
            )
        folder.mkdir(parents=True, exist_ok=True)
        labelled = {name: name for name in names if name not in hidden}
        # In another order than by class, which a name would give away.
        order = random.Random(seed).sample(sorted(hidden), len(hidden))
        unlabelled = {f"{i:06}{PurePosixPath(name).suffix}": name for i, name in enumerate(order)}
        with tempfile.TemporaryDirectory(dir=folder) as unfinished:
            written = [Path(unfinished) / path.name for path in (kept, stripped)]
            for path, members in zip(written, (labelled, unlabelled), strict=True):
                _copy_files(tree, path, members)
            for path, place in zip(written, (kept, stripped), strict=True):
                path.replace(place)
    return len(train) - len(hidden), len(hidden)


def _copy_files(tree: FileTree, path: Path, members: dict[str, str]) -> None:
    """Writes a ZIP of files of a tree, by new name."""
    with zipfile.ZipFile(path, "w") as written:
        for new, name in members.items():
            written.writestr(new, tree.read(name))


def draw_images(names: Iterable[str], fraction: float, seed: int) -> set[str]:
    """Names of images in train/<class>/ that lose their labels, class by class."""
    by_class = defaultdict(list)
    for name in names:
        by_class[_class_folder(name)].append(name)
    draw = random.Random(seed)
    return {
        name
        for _, members in sorted(by_class.items())
        for name in draw.sample(sorted(members), int(fraction * len(members) + 1e-9))
    }


def _class_folder(name: str) -> str:
    """The folder train/<class> that an image is in, at any depth; "" of other images."""
    parts = PurePosixPath(name).parts
    return "/".join(parts[:2]) if parts[0] == "train" and len(parts) > 2 else ""


if __name__ == "__main__":
    flags.DEFINE_string("data_dir", None, "folder, ZIP or TAR of train/<class>/*, test/<class>/*")
    flags.DEFINE_string("out", "hidden_labels", "folder for both archives")
    flags.DEFINE_float("fraction", 0.5, "of each class's training images", 0.0, 0.99)
    flags.DEFINE_integer("seed", 0, "of the draw")
    flags.DEFINE_string(
        "archive_encoding", "", Config.fields()["archive_encoding"].metadata["help"]
    )
    flags.mark_flag_as_required("data_dir")

    def _main(_: list[str]) -> None:
        values = flags.FLAGS
        kept, hidden = hide_labels(
            Path(values.data_dir),
            Path(values.out),
            values.fraction,
            values.seed,
            values.archive_encoding,
        )
        print(f"{kept:,} training images with labels, {hidden:,} without, in {values.out}")

    app.run(_main)
