"""Many requests at once against the local server: none lost, none wrong, errors for bad images.

    python -m tools.load_test --model_base_path=runs/quickstart

Starts `candle_tf.serve` on the loopback interface and sends requests over gRPC and REST, with
photographs of several sizes and with bad files. Compares every response with the SavedModel's own,
called here one image at a time, and monitors the server's memory. Ends with code 1 if a response
was lost or wrong, or if the memory grew.
"""

import base64
import collections
import dataclasses
import io
import itertools
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags, logging

from candle_tf import app
from candle_tf.errors import UserError
from candle_tf.files import require_writable_file, write_atomically

_BASE_PATH = flags.DEFINE_string(
    "model_base_path", None, "folder of the version folders, or a run's folder"
)
_REQUESTS = flags.DEFINE_integer("requests", 10_000, "how many, half of them over REST", 8)
_AT_ONCE = flags.DEFINE_integer("at_once", 16, "number of concurrent requests", 1, 256)
_SECONDS = flags.DEFINE_float("max_seconds", 3600.0, "requests not begun by then are lost", 1.0)
_JSON = flags.DEFINE_string("json", None, "where to write the figures")

_NAME = "load"
_BAD_EVERY = 5  # one request in five holds a bad image
_TOLERANCE = 1e-4  # of a score; threads may add in another order
# Growth of the server's memory between the second and the last quarter that counts as flat. The
# first quarter still has threads that begin and buffers that reach their size.
_FLAT = 0.05
RIGHT, REFUSED, WRONG, LOST = "right", "refused", "wrong", "lost"


@dataclasses.dataclass(frozen=True)
class Best:
    """The response for one image: names, ids and scores of its best classes."""

    names: list[str]
    ids: list[int]
    scores: list[float]

    def agrees(self, other: "Best") -> bool:
        """Whether the scores are the same, and with them the order but for ties."""
        same_scores = np.allclose(self.scores, other.scores, rtol=0, atol=_TOLERANCE)
        mine = dict(zip(self.ids, self.names, strict=True))
        clear = [
            number
            for number, score in zip(other.ids, other.scores, strict=True)
            if score > other.scores[-1] + 2 * _TOLERANCE
        ]
        theirs = dict(zip(other.ids, other.names, strict=True))
        return bool(same_scores) and all(mine.get(n) == theirs[n] for n in clear)


Ask = Callable[[list[bytes]], list[Best]]


class Refused(Exception):  # noqa: N818, the right response to a bad image
    """The server said INVALID_ARGUMENT."""


def main() -> int:
    """Runs the load and prints the table; 0 where all is well."""
    if not _BASE_PATH.value:
        raise UserError("--model_base_path is missing: a run's folder, or that of its SavedModels.")
    if _JSON.value:
        require_writable_file(Path(_JSON.value))
    from candle_tf.deploy.exported_student import find_saved_models

    base_path = find_saved_models(_BASE_PATH.value)
    good, bad = good_images(), bad_images(good_images())
    expected = _expected_responses(base_path, good)
    with _run_server(base_path) as (process, port, rest_port):
        asks = {"gRPC": _grpc(port), "REST": _rest(rest_port)}
        for ask in asks.values():
            ask(good[:1])
        memory = _Memory(process.pid)
        with memory:
            size = _Size(_REQUESTS.value, _AT_ONCE.value, _SECONDS.value)
            counts, seconds = _load(size, asks, good, bad, expected, memory)
    figures = _figures(size, counts, memory.quarters(), seconds, process.returncode)
    print(_table(figures))
    if _JSON.value:
        write_atomically(Path(_JSON.value), (json.dumps(figures, indent=2) + "\n").encode())
    return 0 if figures["well"] else 1


def good_images() -> list[bytes]:
    """Photographs as files of several kinds and sizes, one of them lying on its side."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    lying = Image.Exif()
    lying[0x0112] = 6
    files = []
    for number in range(24):
        image = Image.fromarray(load_sample_images().images[number % 2])
        left, top = int(rng.integers(0, 300)), int(rng.integers(0, 200))
        cut = image.crop((left, top, left + 320, top + 220))
        cut = cut.resize((int(rng.integers(16, 320)), int(rng.integers(16, 320))))
        buffer = io.BytesIO()
        if number % 3 == 2:
            cut.save(buffer, "PNG")
        else:
            cut.save(buffer, "JPEG", **({"exif": lying} if number % 6 == 1 else {}))
        files.append(buffer.getvalue())
    return files


def bad_images(good: list[bytes]) -> list[bytes]:
    """Nothing, text, another format, and files that were cut off."""
    png = next(each for each in good if each.startswith(b"\x89PNG"))
    return [b"", b"no image", b"GIF89a", good[0][:200], good[0][:-300], png[:40], png[:-300]]


def _expected_responses(base_path: Path, images: list[bytes]) -> list[Best]:
    import tensorflow as tf

    versions = [entry for entry in base_path.iterdir() if entry.name.isdecimal()]
    newest = max(versions, key=lambda entry: int(entry.name))
    try:
        serve = tf.saved_model.load(str(newest)).signatures["serving_default"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{newest} cannot be loaded ({error}): export the run again.") from error
    return [
        _best({name: value.numpy() for name, value in serve(tf.constant([each])).items()}, 0)
        for each in images
    ]


def _best(outputs: dict[str, np.ndarray], row: int) -> Best:
    names = [name.decode() for name in outputs["class_names"][row]]
    return Best(names, outputs["class_ids"][row].tolist(), outputs["scores"][row].tolist())


@contextmanager
def _run_server(base_path: Path) -> Iterator[tuple[subprocess.Popen[str], int, int]]:
    """A server in a process of its own, stopped at the end."""
    command = [
        sys.executable, "-m", "candle_tf.serve", f"--model_base_path={base_path}",
        f"--model_name={_NAME}", "--port=0", "--rest_api_port=0",
    ]  # fmt: skip
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line.startswith("Serving"):
                process.wait()
                log.seek(0)
                raise UserError(f"The server does not start: {log.read().strip()[-500:]}")
            port, rest_port = (int(text.split()[0].strip(",.")) for text in line.split("port ")[1:])
            yield process, port, rest_port
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _grpc(port: int) -> Ask:
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    stub = prediction_service_pb2_grpc.PredictionServiceStub(
        grpc.insecure_channel(f"127.0.0.1:{port}")
    )

    def ask(images: list[bytes]) -> list[Best]:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = _NAME
        request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(images))
        try:
            response = stub.Predict(request, 120)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.INVALID_ARGUMENT:
                raise Refused from error
            raise
        outputs = {name: tf.make_ndarray(value) for name, value in response.outputs.items()}
        return [_best(outputs, row) for row in range(len(images))]

    return ask


def _rest(port: int) -> Ask:
    def ask(images: list[bytes]) -> list[Best]:
        rows = [{"b64": base64.b64encode(each).decode()} for each in images]
        url = f"http://127.0.0.1:{port}/v1/models/{_NAME}:predict"
        try:
            body = json.dumps({"instances": rows}).encode()
            with urllib.request.urlopen(url, body, timeout=120) as response:
                content = json.load(response)
        except urllib.error.HTTPError as error:
            if error.code == 400 and json.load(error)["error"]:
                raise Refused from error
            raise
        return [
            Best(row["class_names"], row["class_ids"], row["scores"])
            for row in content["predictions"]
        ]

    return ask


class _Memory:
    """Samples of a process's resident memory, each with the number of requests done by then."""

    def __init__(self, pid: int) -> None:
        import psutil

        self._samples: list[tuple[int, int]] = []
        self._process = psutil.Process(pid)
        self._stop = threading.Event()
        self._requests = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> "_Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def count(self) -> int:
        """Another request is done; returns how many are."""
        with self._lock:
            self._requests += 1
            return self._requests

    def quarters(self) -> list[int]:
        """Median bytes in each quarter of the requests; 0 where there is no sample."""
        total = max(self._requests, 1)
        of: list[list[int]] = [[], [], [], []]
        for done, size in self._samples:
            of[min(4 * done // total, 3)].append(size)
        return [int(statistics.median(sizes)) if sizes else 0 for sizes in of]

    def _sample(self) -> None:
        while not self._stop.wait(0.1):
            self._samples.append((self._requests, self._process.memory_info().rss))


@dataclasses.dataclass(frozen=True)
class _Size:
    """How many requests, how many at once, and the seconds after which none is begun."""

    requests: int
    at_once: int
    seconds: float


def _load(
    size: _Size,
    asks: dict[str, Ask],
    good: list[bytes],
    bad: list[bytes],
    expected: list[Best],
    memory: _Memory,
) -> tuple[collections.Counter[tuple[str, str, str]], float]:
    """Sends everything; returns how often each (protocol, kind, outcome) came, and the seconds."""
    begun = time.monotonic()
    protocols = list(asks)

    def one(number: int) -> tuple[str, str, str]:
        protocol = protocols[number % 2]
        is_bad = (number // 2) % _BAD_EVERY == 0
        # Each image over each protocol, whose numbers alternate.
        which = number // 2 % len(good)
        images = [good[which], bad[number // 10 % len(bad)]] if is_bad else [good[which]]
        kind = "bad" if is_bad else "good"
        if time.monotonic() - begun > size.seconds:
            return protocol, kind, LOST
        try:
            responses = asks[protocol](images)
            right = not is_bad and len(responses) == 1 and responses[0].agrees(expected[which])
            outcome = RIGHT if right else WRONG
        except Refused:
            outcome = REFUSED if is_bad else WRONG
        except Exception as error:  # whatever happened, there was no response
            logging.warning("request %d was lost: %s", number, error)
            outcome = LOST
        done = memory.count()
        if done % 1000 == 0:
            logging.info("%d of %d requests", done, size.requests)
        return protocol, kind, outcome

    with ThreadPoolExecutor(size.at_once) as pool:
        counts = collections.Counter(pool.map(one, range(size.requests)))
    return counts, time.monotonic() - begun


def _figures(
    size: _Size,
    counts: collections.Counter[tuple[str, str, str]],
    quarters: list[int],
    seconds: float,
    exit_code: int | None,
) -> dict[str, Any]:
    # Too few requests for a sample in both quarters say nothing of growth.
    growth = quarters[3] / quarters[1] - 1 if quarters[1] and quarters[3] else None
    outcomes = dict.fromkeys((RIGHT, REFUSED, WRONG, LOST), 0)
    for (_, _, outcome), number in counts.items():
        outcomes[outcome] += number
    well = outcomes[WRONG] + outcomes[LOST] == 0 and (growth or 0.0) <= _FLAT and exit_code == 0
    return {
        "requests": sum(counts.values()),
        "at_once": size.at_once,
        "seconds": round(seconds, 1),
        "outcomes": outcomes,
        "counts": [[*key, number] for key, number in sorted(counts.items())],
        "server_memory_by_quarter": quarters,
        "memory_growth": growth,
        "server_exit_code": exit_code,
        "well": well,
    }


def _table(figures: dict[str, Any]) -> str:
    rows = [["protocol", "image", *(outcomes := [RIGHT, REFUSED, WRONG, LOST])]]
    counts = {tuple(key): number for *key, number in figures["counts"]}
    for protocol, kind in itertools.product(("gRPC", "REST"), ("good", "bad")):
        rows.append([protocol, kind, *(str(counts.get((protocol, kind, o), 0)) for o in outcomes)])
    lines = ["  ".join(f"{cell:>8}" for cell in row) for row in rows]
    memory = ", ".join(f"{size / 1e6:.0f}" for size in figures["server_memory_by_quarter"])
    growth = figures["memory_growth"]
    grown = "not measured" if growth is None else f"{growth:+.1%}"
    return "\n".join([
        *lines,
        f"{figures['requests']} requests, {figures['at_once']} at once; the server's memory by "
        f"quarter of them: {memory} MB ({grown} from the second to the "
        f"last); it ended with code {figures['server_exit_code']}.",
    ])  # fmt: skip


if __name__ == "__main__":
    app.run(lambda _: sys.exit(main()))
