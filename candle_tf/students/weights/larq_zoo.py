"""ImageNet weights of larq-zoo's networks, which have the same arrays in the same order as ours.

path = larq_zoo_file(StudentSpec("quicknet_small", width=1.0))    # fetched once, checked by sha256

Only full files are used: the ones without classifier of older releases were wrong (larq/zoo issue
157). All are of width 1.
"""

from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf
from absl import logging

from candle_tf.errors import UserError
from candle_tf.students.weights.spec import StudentSpec

_RELEASES = "https://github.com/larq/zoo/releases/download"


@dataclass(frozen=True)
class ZooFile:
    """A file of larq-zoo's releases.

    Attributes:
        model, version: of the release.
        name: of the file.
        sha256: as it stands in larq-zoo's code.
    """

    model: str
    version: str
    name: str
    sha256: str

    @property
    def address(self) -> str:
        """Where it is fetched from."""
        return f"{_RELEASES}/{self.model}-{self.version}/{self.name}"

    @property
    def cache(self) -> str:
        """Folder in Keras' cache, that of larq-zoo."""
        return f"larq/models/{self.model}"

    @property
    def path(self) -> Path:
        """Where the file is kept."""
        return Path.home() / ".keras" / self.cache / self.name


FILES = {
    "quicknet_small": ZooFile(
        "quicknet",
        "v1.0",
        "quicknet_small_weights.h5",
        "1ac3b07df7f5a911dd0b49febb2486428ddf1ca130297c403815dfae5a1c71a2",
    ),
    "quicknet": ZooFile(
        "quicknet",
        "v1.0",
        "quicknet_weights.h5",
        "8aba9e4e5f8d342faef04a0b2ae8e562da57dbb7d15162e8b3e091c951ba756c",
    ),
    "quicknet_large": ZooFile(
        "quicknet",
        "v1.0",
        "quicknet_large_weights.h5",
        "c5158e8a59147b31370becd937825f4db8a5cdf308314874f678f596629be45c",
    ),
    "birealnet18": ZooFile(
        "birealnet",
        "v0.3.0",
        "birealnet_weights.h5",
        "6e6efac1584fcd60dd024198c87f42eb53b5ec719a5ca1f527e1fe7e8b997117",
    ),
    "real_to_binary": ZooFile(
        "r2b",
        "v0.1.0",
        "r2b_weights.h5",
        "e8fd16ca1ab9810ac3835f24f5c62758a57bc32a615f73aaa50d382d2b9617e1",
    ),
}


def larq_zoo_file(spec: StudentSpec) -> Path:
    """The weights file of a network, fetched where it is not there yet.

    Raises:
        UserError: where larq-zoo has no such network, or the file cannot be fetched or is another
            one; says which file to put where.
    """
    if spec.name not in FILES:
        raise UserError(
            f"--student_weights=larq_zoo: larq-zoo has no weights of {spec.name}; it has those of "
            f"{', '.join(FILES)}."
        )
    if spec.width != 1.0:
        raise UserError(
            f"--student_weights=larq_zoo contradicts --width={spec.width:g}: larq-zoo's weights "
            "are of width 1. Give --width=1."
        )
    file = FILES[spec.name]
    try:
        fetched = tf.keras.utils.get_file(
            file.name, file.address, file_hash=file.sha256, cache_subdir=file.cache
        )
    # Keras raises a bare Exception for a failed download, so only its message tells it apart, and
    # a ValueError for a file of another hash.
    except Exception as error:
        if not (isinstance(error, OSError | ValueError) or "URL fetch failure" in str(error)):
            raise
        logging.debug("%s", error)
        raise UserError(
            f"Could not fetch {file.address} ({error}). Fetch it on another machine (sha256 "
            f"{file.sha256}) and put it at {file.path}, or give its path with --student_weights."
        ) from error
    return Path(fetched)
