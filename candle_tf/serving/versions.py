"""The numbered versions under a model's base path: the highest is served, new ones are loaded.

versions = Versions("flowers", Path("export/saved_model"))
versions.poll()                         # again and again
versions.servable(version=None).call(...)

TensorFlow Serving's default policy: only the latest version. The earlier one is released
when its successor has loaded, and stays if a version does not load.
"""

import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from absl import logging

from candle_tf.serving.servable import Servable, load_servable
from candle_tf.serving.status import NOT_FOUND, RequestError

LOADING, AVAILABLE, END = "LOADING", "AVAILABLE", "END"
# A folder may still be being copied when it is first seen.
_TRIES = 5
# A version is an int64 in both protocols.
_END_OF_VERSIONS = 2**63


@dataclass(frozen=True)
class VersionState:
    """State of a version for GetModelStatus: its name, and the error that ended it, or ""."""

    state: str
    error: str = ""


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
        self._tries: Counter[int] = Counter()
        self._lock = threading.Lock()

    def poll(self) -> None:
        """Loads the highest version, unless it is served or has failed too often."""
        folders = self._on_disk()
        wanted = max(folders, default=None)
        with self._lock:
            served = self._current.version if self._current else None
        if wanted is None or wanted == served or self._tries[wanted] == _TRIES:
            return
        self._tries[wanted] += 1
        self._set_state(wanted, VersionState(LOADING))
        try:
            servable = load_servable(folders[wanted], wanted)
        except Exception as error:  # whatever is wrong with the folder, the server keeps running
            logging.exception("version %d does not load", wanted)
            self._set_state(wanted, VersionState(END, f"{type(error).__name__}: {error}"))
            return
        with self._lock:
            self._current = servable
            self._states[wanted] = VersionState(AVAILABLE)
            if served is not None:
                self._states[served] = VersionState(END)
        logging.info("serving %s, version %d", self.name, wanted)

    def is_ready(self) -> bool:
        """Whether a version is served."""
        with self._lock:
            return self._current is not None

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
