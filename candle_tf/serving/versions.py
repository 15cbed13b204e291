"""The numbered versions under a model's base path: the highest is served, new ones are loaded.

versions = Versions("flowers", Path("export/saved_model"))
versions.poll()                         # again and again
versions.servable(version=None).call(...)

TensorFlow Serving's default policy: only the latest version. The earlier one is released
when its successor has loaded, and stays if a version does not load. Where none is served yet, the
highest that loads is.
"""

import contextlib
import os
import threading
from dataclasses import dataclass
from pathlib import Path

from absl import logging

from candle_tf.serving.servable import Servable, load_servable
from candle_tf.serving.status import NOT_FOUND, RequestError

LOADING, AVAILABLE, END = "LOADING", "AVAILABLE", "END"
# Attempts at a folder in which nothing changes. One that is still being copied changes.
_TRIES = 5
# A version is an int64 in both protocols.
_END_OF_VERSIONS = 2**63


@dataclass(frozen=True)
class VersionState:
    """State of a version for GetModelStatus: its name, and the error that ended it, or ""."""

    state: str
    error: str = ""


# Name, size and time of the last change of each file in a folder.
_Contents = frozenset[tuple[str, int, int]]


@dataclass(frozen=True)
class _Attempts:
    """How often a version was attempted with the same contents of its folder."""

    contents: _Contents
    count: int


class Versions:
    """One model. Any thread may ask; one thread at a time may poll."""

    def __init__(self, name: str, base_path: Path) -> None:
        """Reads nothing yet.

        Args:
            name: of the model in requests.
            base_path: folder of the numbered folders.
        """
        self.name = name
        self.base_path = base_path
        self._current: Servable | None = None
        self._states: dict[int, VersionState] = {}
        self._attempts: dict[int, _Attempts] = {}
        self._lock = threading.Lock()

    def poll(self) -> None:
        """Loads the highest version that loads and is not served, unless it is below that."""
        folders = self._on_disk()
        with self._lock:
            served = self._current.version if self._current else None
        for version in sorted(folders, reverse=True):
            if version == served or self._load(version, folders[version], served):
                return

    def _load(self, version: int, folder: Path, served: int | None) -> bool:
        """Whether a version has been loaded; it is served then."""
        attempts = self._count_attempt(version, _contents_of(folder))
        if attempts > _TRIES:
            return False
        self._set_state(version, VersionState(LOADING))
        try:
            servable = load_servable(folder, version)
        except Exception as error:  # whatever is wrong with the folder, the server keeps running
            reason = f"{type(error).__name__}: {error}"
            self._set_state(version, VersionState(END, reason))
            if attempts == 1:
                logging.error("version %d does not load: %s", version, reason)
            return False
        with self._lock:
            self._current = servable
            self._states[version] = VersionState(AVAILABLE)
            if served is not None:
                self._states[served] = VersionState(END)
        # Loaded and replaced, it may be wanted once more.
        del self._attempts[version]
        logging.info("serving %s, version %d", self.name, version)
        return True

    def _count_attempt(self, version: int, contents: _Contents) -> int:
        """How often a version has been attempted with these contents, this time included."""
        before = self._attempts.get(version)
        count = before.count if before and before.contents == contents else 0
        self._attempts[version] = _Attempts(contents, min(count, _TRIES) + 1)
        return count + 1

    def is_ready(self) -> bool:
        """Whether a version is served."""
        with self._lock:
            return self._current is not None

    def reasons(self) -> str:
        """Why no version is served, in a sentence."""
        with self._lock:
            failed = sorted(self._states.items(), reverse=True)
        if failed:
            return " ".join(f"Version {version}: {state.error}." for version, state in failed)
        return (
            "It must hold folders named by numbers, each with a SavedModel, as export/saved_model "
            "of a run does."
        )

    def servable(self, name: str, version: int | None) -> Servable:
        """The version for a request.

        Args:
            name: of the model asked for.
            version: None is the one that is served.

        Raises:
            RequestError: NOT_FOUND.
        """
        with self._lock:
            current = self._current
        if name != self.name or current is None or version not in (None, current.version):
            asked = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise RequestError(NOT_FOUND, f"Servable not found for request: {asked}")
        return current

    def states(self, name: str, version: int | None) -> dict[int, VersionState]:
        """The state of a version, or of all that were ever seen.

        Raises:
            RequestError: NOT_FOUND.
        """
        with self._lock:
            states = dict(self._states) if name == self.name else {}
        if version is None:
            if not states:
                raise RequestError(NOT_FOUND, f"Could not find any versions of model {name}")
            return dict(sorted(states.items(), reverse=True))
        if version not in states:
            raise RequestError(NOT_FOUND, f"Could not find version {version} of model {name}")
        return {version: states[version]}

    def _set_state(self, version: int, state: VersionState) -> None:
        with self._lock:
            self._states[version] = state

    def _on_disk(self) -> dict[int, Path]:
        """The folders by their numbers, which may have zeros in front: 000001 is version 1."""
        try:
            folders = sorted(entry for entry in self.base_path.iterdir() if entry.is_dir())
        except OSError:
            return {}
        numbered = [each for each in folders if each.name.isascii() and each.name.isdigit()]
        found = {int(each.name): each for each in numbered}
        return {number: each for number, each in found.items() if number < _END_OF_VERSIONS}


def _contents_of(folder: Path) -> _Contents:
    found = set()
    # Unlike a glob, this is no error where a folder in it was removed meanwhile.
    for inner, folders, files in os.walk(folder):
        for path in (Path(inner, name) for name in (*folders, *files)):
            with contextlib.suppress(OSError):
                status = path.stat()
                found.add((str(path.relative_to(folder)), status.st_size, status.st_mtime_ns))
    return frozenset(found)
