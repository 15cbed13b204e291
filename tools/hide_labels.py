"""Takes the labels from a part of a ZIP's training images, to measure what --unlabelled_dir brings.

    python -m tools.hide_labels --data_dir=caltech101.zip --out=hidden --fraction=0.5

writes hidden/labelled-0.5-0.zip, with train/<class>/<image> of the rest and all of test/, and
hidden/unlabelled-0.5-0.zip, with numbered images alone. Each class loses that fraction of its
training images, rounded down, drawn by --seed. Fraction and seed are in the names, as tables tell
data sets by them.
"""

import random
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from absl import flags

from candle_tf import app
from candle_tf.data.sources.archives import DAMAGE
from candle_tf.data.sources.file_tree import is_image
from candle_tf.data.sources.zip_members import read_member
from candle_tf.errors import UserError

# Of the images that keep their labels, and of those that lose them.
ARCHIVES = ("labelled", "unlabelled")


def hide_labels(source: Path, folder: Path, fraction: float, seed: int) -> tuple[int, int]:
    """Writes both archives; nothing is decoded.

    Args:
        source: ZIP of train/<class>/<image> and test/<class>/<image>.
        folder: for both archives; made if there is none.
        fraction: of each class's training images, in (0, 1).
        seed: of the draw.

    Returns:
        How many training images have labels, and how many have none.

    Raises:
        UserError: for a file that is no ZIP, has another layout or a damaged member, or a fraction
            at which no image loses its label. Nothing is written then.
    """
    kept, stripped = (folder / f"{name}-{fraction:g}-{seed}.zip" for name in ARCHIVES)
    if source.resolve() in (kept.resolve(), stripped.resolve()):
        raise UserError(f"--out={folder} would overwrite --data_dir={source}: give another folder.")
    try:
        archive = zipfile.ZipFile(source)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"--data_dir={source} cannot be read as a ZIP: {error}.") from error
    with archive:
        names = sorted(filter(is_image, archive.namelist()))
        train = [name for name in names if PurePosixPath(name).parts[0] == "train"]
        hidden = draw_images(train, fraction, seed)
        if not hidden:
            raise UserError(
                f"--fraction={fraction:g} of {source} hides no label: it has {len(train)} images "
                "in train/<class>/. Give a larger fraction, or a ZIP of train/ and test/."
            )
        folder.mkdir(parents=True, exist_ok=True)
        labelled = {name: name for name in names if name not in hidden}
        # In another order than by class, which a name would give away.
        order = random.Random(seed).sample(sorted(hidden), len(hidden))
        unlabelled = {f"{i:06}{PurePosixPath(name).suffix}": name for i, name in enumerate(order)}
        with tempfile.TemporaryDirectory(dir=folder) as unfinished:
            written = [Path(unfinished) / path.name for path in (kept, stripped)]
            for path, members in zip(written, (labelled, unlabelled), strict=True):
                _copy_members(archive, source, path, members)
            for path, place in zip(written, (kept, stripped), strict=True):
                path.replace(place)
    return len(train) - len(hidden), len(hidden)


def _copy_members(
    archive: zipfile.ZipFile, source: Path, path: Path, members: dict[str, str]
) -> None:
    """Writes a ZIP of members of another, by new name."""
    with zipfile.ZipFile(path, "w") as written:
        for new, name in members.items():
            try:
                content = read_member(archive, archive.getinfo(name), f"{source}: {name}")
            except (*DAMAGE, RuntimeError) as error:
                raise UserError(f"--data_dir={source}: {name} cannot be read: {error}.") from error
            written.writestr(new, content)


def draw_images(names: Iterable[str], fraction: float, seed: int) -> set[str]:
    """Names of images in <...>/<class>/<image> that lose their labels, class by class."""
    by_class = defaultdict(list)
    for name in names:
        by_class[str(PurePosixPath(name).parent)].append(name)
    draw = random.Random(seed)
    return {
        name
        for _, members in sorted(by_class.items())
        for name in draw.sample(sorted(members), int(fraction * len(members) + 1e-9))
    }


if __name__ == "__main__":
    flags.DEFINE_string("data_dir", None, "a ZIP of train/<class>/* and test/<class>/*")
    flags.DEFINE_string("out", "hidden_labels", "folder for both archives")
    flags.DEFINE_float("fraction", 0.5, "of each class's training images", 0.0, 0.99)
    flags.DEFINE_integer("seed", 0, "of the draw")
    flags.mark_flag_as_required("data_dir")

    def _main(_: list[str]) -> None:
        values = flags.FLAGS
        kept, hidden = hide_labels(
            Path(values.data_dir), Path(values.out), values.fraction, values.seed
        )
        print(f"{kept:,} training images with labels, {hidden:,} without, in {values.out}")

    app.run(_main)
