import json

import pytest

from candle_tf.data.splits import json_stream as json_pieces
from candle_tf.data.splits.json_stream import compact_json, indented_json

CONTENT = {
    "hash": 'a"b\\ é\n',
    "factor": 12.5,
    "names": None,
    "empty": {},
    "one": {"größe/ß.png": 3},
    "many": {f"train/{i:05d} \u2028": i % 7 for i in range(50)},
}


@pytest.mark.parametrize("block", [1, 7, 50, 8192])
@pytest.mark.parametrize("lazy", [False, True])
def test_the_text_is_that_of_json(monkeypatch, block, lazy):
    monkeypatch.setattr(json_pieces, "_BLOCK", block)

    def content():
        return {k: iter(v.items()) if lazy and isinstance(v, dict) else v
                for k, v in CONTENT.items()}  # fmt: skip

    assert "".join(compact_json(content())) == json.dumps(CONTENT, separators=(",", ":"))
    whole = json.dumps(CONTENT, indent=1, ensure_ascii=False) + "\n"
    assert "".join(indented_json(content())) == whole


def test_no_piece_holds_more_than_a_block():
    entries = 100_000
    pieces = list(compact_json({"train": ((f"{i:09d}", i) for i in range(entries))}))
    assert max(map(len, pieces)) < 8192 * 20
    assert len(json.loads("".join(pieces))["train"]) == entries
