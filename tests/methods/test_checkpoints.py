import json
import shutil

import pytest
import tensorflow as tf

from candle_tf.errors import UserError
from candle_tf.methods.checkpoints import Checkpoints
from candle_tf.metrics import SCORE


class _Weights(tf.Module):
    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.weight = tf.Variable(tf.fill([40], value))


def _save(folder, scores) -> tuple[Checkpoints, _Weights]:
    """One epoch per score; in epoch k the weight is k."""
    weights = _Weights()
    checkpoints = Checkpoints(folder, weights)
    for epoch, score in enumerate(scores, start=1):
        weights.weight.assign(tf.fill([40], float(epoch)))
        checkpoints.save({"epoch": epoch} | ({} if score is None else {SCORE: score}))
    return checkpoints, weights


def _data_file(folder, epoch: int):
    (path,) = folder.glob(f"epoch-{epoch:04d}.data-*")
    return path


@pytest.mark.parametrize(
    ("scores", "best"),
    [([0.2, 0.6, 0.4], 2), ([0.2, 0.6, 0.6, 0.1], 3), ([0.5], 1), ([0, 0, 0], 3)],
)
def test_best_epoch_is_the_later_of_the_highest(tmp_path, scores, best):
    checkpoints, weights = _save(tmp_path, scores)
    assert checkpoints.best_epoch == best
    checkpoints.restore(best)
    assert weights.weight.numpy().tolist() == [best] * 40


def test_best_epoch_without_validation_is_the_last(tmp_path):
    assert _save(tmp_path, [None, None, None])[0].best_epoch == 3


@pytest.mark.parametrize("scores", [[0.1, 0.9, 0.3, 0.2, 0.5], [0.1, 0.2, 0.3]])
def test_only_last_and_best_are_kept(tmp_path, scores):
    checkpoints, _ = _save(tmp_path, scores)
    kept = {path.stem for path in tmp_path.glob("epoch-*") if path.is_file()}
    assert kept == {f"epoch-{epoch:04d}" for epoch in (checkpoints.best_epoch, len(scores))}
    again = Checkpoints(tmp_path, _Weights())
    assert again.history == checkpoints.history
    assert again.epochs_done == len(scores)
    for epoch in (checkpoints.best_epoch, len(scores)):
        again.restore(epoch)


def test_a_new_process_restores_both(tmp_path):
    _save(tmp_path, [0.9, 0.3, 0.2])
    weights = _Weights(-7.0)
    checkpoints = Checkpoints(tmp_path, weights)
    for epoch in (3, 1):
        checkpoints.restore(epoch)
        assert weights.weight.numpy().tolist() == [epoch] * 40


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("kind", ["data", "index"])
@pytest.mark.parametrize("spoil", [_flip, _truncate, lambda path: path.unlink()])
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path, spoil, kind):
    _save(tmp_path, [0.9, 0.3, 0.2])
    (path,) = tmp_path.glob(f"epoch-0003.{kind}*")
    spoil(path)
    weights = _Weights(-7.0)
    checkpoints = Checkpoints(tmp_path, weights)
    with pytest.raises(UserError, match=path.name) as caught:
        checkpoints.restore(3)
    assert str(tmp_path) in str(caught.value)
    assert weights.weight.numpy().tolist() == [-7] * 40
    checkpoints.restore(1)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "17", "\x00\x00"),
        *('{"history": []}', '{"files": {}}', '{"history": 3, "files": {}}'),
        *('{"history": [{"epoch": 1}], "files": {}}', '{"history": [1], "files": {"1": {}}}'),
    ],
)
def test_a_damaged_record_is_refused_by_name(tmp_path, text):
    _save(tmp_path, [0.9])
    (tmp_path / "progress.json").write_text(text)
    with pytest.raises(UserError, match=r"progress\.json"):
        Checkpoints(tmp_path, _Weights())


def test_a_record_that_is_no_text_is_refused(tmp_path):
    _save(tmp_path, [0.9])
    (tmp_path / "progress.json").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(UserError, match=r"progress\.json"):
        Checkpoints(tmp_path, _Weights())


@pytest.mark.parametrize("epochs", [2, 3])
def test_checkpoints_without_their_record_are_refused(tmp_path, epochs):
    _save(tmp_path, [None] * epochs)
    (tmp_path / "progress.json").unlink()
    with pytest.raises(UserError, match=r"progress\.json.* is missing"):
        Checkpoints(tmp_path, _Weights())


def test_a_run_killed_at_its_first_checkpoint_starts_over(tmp_path):
    _save(tmp_path, [0.9])
    (tmp_path / "progress.json").unlink()
    checkpoints = Checkpoints(tmp_path, _Weights())
    assert checkpoints.epochs_done == 0
    assert checkpoints.history == []


def test_a_checkpoint_newer_than_the_record_does_not_count(tmp_path):
    """A run killed between the checkpoint and its record resumes from the record."""
    _save(tmp_path / "run", [0.1, 0.2])
    record = (tmp_path / "run" / "progress.json").read_bytes()
    shutil.copytree(tmp_path / "run", tmp_path / "killed")
    longer, _ = _save(tmp_path / "longer", [0.1, 0.2, 0.3])
    assert longer.epochs_done == 3
    for path in (tmp_path / "longer").glob("epoch-0003.*"):
        shutil.copy(path, tmp_path / "killed")
    assert (tmp_path / "killed" / "progress.json").read_bytes() == record

    weights = _Weights(-7.0)
    checkpoints = Checkpoints(tmp_path / "killed", weights)
    assert checkpoints.epochs_done == 2
    checkpoints.restore(2)
    assert weights.weight.numpy().tolist() == [2] * 40
    weights.weight.assign(tf.fill([40], 33.0))
    checkpoints.save({"epoch": 3, SCORE: 0.5})
    checkpoints.restore(3)
    assert weights.weight.numpy().tolist() == [33] * 40


def test_the_record_is_readable_json(tmp_path):
    checkpoints, _ = _save(tmp_path, [0.25, 0.5])
    record = json.loads((tmp_path / "progress.json").read_text())
    assert record["history"] == [{"epoch": 1, SCORE: 0.25}, {"epoch": 2, SCORE: 0.5}]
    assert set(record["files"]["2"]) == {path.name for path in tmp_path.glob("epoch-0002.*")}
    assert _data_file(tmp_path, 2).name in record["files"]["2"]
    assert checkpoints.epochs_done == 2


def test_a_changed_number_in_the_record_is_noticed(tmp_path):
    _save(tmp_path, [0.25, 0.5])
    path = tmp_path / "progress.json"
    path.write_text(path.read_text().replace("0.25", "0.75"))
    with pytest.raises(UserError, match=r"progress\.json is damaged .*checksum"):
        Checkpoints(tmp_path, _Weights())


def test_a_record_of_before_checksums_is_read(tmp_path):
    checkpoints, _ = _save(tmp_path, [0.25, 0.5])
    path = tmp_path / "progress.json"
    progress = json.loads(path.read_text())
    del progress["sha256"]
    path.write_text(json.dumps(progress))
    assert Checkpoints(tmp_path, _Weights()).history == checkpoints.history


@pytest.mark.parametrize("value", ["[" * 100_000, "1" * 5000 + "}"], ids=["brackets", "digits"])
def test_records_that_no_parser_takes_are_refused(tmp_path, value):
    _save(tmp_path, [0.9])
    (tmp_path / "progress.json").write_text('{"history": ' + value)
    with pytest.raises(UserError, match=r"progress\.json is damaged"):
        Checkpoints(tmp_path, _Weights())


def test_leftovers_of_a_killed_writer_are_removed(tmp_path):
    _save(tmp_path, [0.9, 0.3])
    kept = sorted(path.name for path in tmp_path.iterdir())
    (tmp_path / "epoch-0003_temp").mkdir()
    (tmp_path / "epoch-0003_temp" / "part-00000-of-00001").write_bytes(b"half")
    (tmp_path / "epoch-0003.data-00000-of-00001").write_bytes(b"whole, but not recorded")
    found = sorted(path.name for path in tmp_path.iterdir())
    checkpoints = Checkpoints(tmp_path, _Weights())
    # It may be read while another process writes to it.
    assert sorted(path.name for path in tmp_path.iterdir()) == found
    checkpoints.remove_leftovers()
    assert sorted(path.name for path in tmp_path.iterdir()) == kept
    checkpoints.restore(2)


def test_a_full_disk_is_one_sentence_and_the_epoch_before_is_kept(tmp_path, monkeypatch):
    """A file system with less room than a checkpoint, as TensorFlow reports it."""
    checkpoints, weights = _save(tmp_path, [0.9])

    def no_room(*_):
        (tmp_path / "epoch-0002_temp").mkdir()
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device\n[[trace]]")

    monkeypatch.setattr(checkpoints._checkpoint, "write", no_room)
    with pytest.raises(UserError, match=r"(?s)epoch-0002 .*MB are free.*resumes after epoch 1\.$"):
        checkpoints.save({"epoch": 2, SCORE: 0.5})
    assert not list(tmp_path.glob("epoch-0002*"))
    again = Checkpoints(tmp_path, weights)
    assert again.epochs_done == 1
    again.restore(1)


def test_room_for_the_checkpoints_is_asked_for_before_training(tmp_path, monkeypatch):
    checkpoints, _ = _save(tmp_path, [0.9])
    checkpoints.require_space()
    usage = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"needs [0-9.]+ MB in .* where 1\.0 MB are free"):
        checkpoints.require_space()


def _epochs_on_disk(folder):
    return {int(path.stem[-4:]) for path in folder.glob("epoch-*.index")}


def test_an_epoch_that_is_to_be_kept_stays(tmp_path):
    checkpoints = Checkpoints(tmp_path, _Weights(), keep=[2])
    for epoch, score in enumerate([0.1, 0.2, 0.3, 0.4, 0.2], start=1):
        checkpoints.save({"epoch": epoch, SCORE: score})
    assert _epochs_on_disk(tmp_path) == {2, 4, 5}


def test_after_going_back_it_is_as_if_the_later_epochs_had_not_been(tmp_path):
    weights = _Weights()
    checkpoints = Checkpoints(tmp_path, weights, keep=[2])
    for epoch, score in enumerate([0.3, 0.2, 0.9, 0.1], start=1):
        weights.weight.assign(tf.fill([40], float(epoch)))
        checkpoints.save({"epoch": epoch, SCORE: score})
    checkpoints.rewind(2)
    again = Checkpoints(tmp_path, weights)
    assert again.epochs_done == 2
    # Epoch 1 was better, but its checkpoint is gone.
    assert again.best_epoch == 2
    again.restore(2)
    assert weights.weight.numpy().tolist() == [2] * 40
    assert _epochs_on_disk(tmp_path) == {2}
    with pytest.raises(UserError, match="no checkpoint of epoch 1"):
        again.rewind(1)


class _WithNetwork(_Weights):
    def __init__(self, value: float, size: int = 3) -> None:
        super().__init__(value)
        self.network = tf.Module()
        self.network.kernel = tf.Variable(tf.fill([size], value))


def test_the_network_alone_is_read_back(tmp_path):
    Checkpoints(tmp_path, _WithNetwork(7.0)).save({"epoch": 1})
    holder = tf.Module()
    holder.network = tf.Module()
    holder.network.kernel = tf.Variable(tf.zeros([3]))
    Checkpoints(tmp_path, holder).read_network(1)
    assert holder.network.kernel.numpy().tolist() == [7] * 3


def test_another_network_is_refused(tmp_path):
    Checkpoints(tmp_path, _WithNetwork(7.0)).save({"epoch": 1})
    for kernel in (tf.Variable(tf.zeros([4])), None):
        holder = tf.Module()
        holder.network = tf.Module()
        holder.network.kernel = kernel
        if kernel is None:
            holder.network.other = tf.Variable(tf.zeros([3]))
        with pytest.raises(UserError, match="epoch-0001 does not hold this network"):
            Checkpoints(tmp_path, holder).read_network(1)
