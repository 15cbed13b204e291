from candle_tf.reporting import html
from candle_tf.reporting.data_findings import data_findings

LEFT_OUT = {"id": "a/1.png", "part": "train", "class": "cat", "reason": "a/1.png: cut <short>"}
DUPLICATE = {"ids": {"train": ["a/2.png"], "test": ["b/9.png"]}, "classes": ["cat", "dog"]}


def render(**changes):
    data = {"scanned": 70, "left_out": [], "duplicates": [], "shared": {}, **changes}
    return html.render_report("x", [html.Section("Data", data_findings(data))])


def test_left_out_images_are_counted_and_listed():
    text = render(left_out=[LEFT_OUT])
    assert "70 images were read before training; 1 are unreadable" in text
    assert "a/1.png: cut &lt;short&gt;" in text
    assert "the same bytes: none." in text


def test_images_in_two_subsets_are_listed():
    text = render(duplicates=[DUPLICATE], shared={"train and test": 1})
    assert "1 in train and test" in text
    assert "train: a/2.png = test: b/9.png" in text


def test_images_in_several_classes_are_listed():
    found = {"subset": "train", "ids": {"cat": ["a/1.png", "a/7.png"], "dog": ["b/<2>.png"]}}
    text = render(contradictory=[found])
    assert "1 images have several classes within one subset" in text
    assert "cat: a/1.png, a/7.png = dog: b/&lt;2&gt;.png" in text
    assert "several classes" not in render(contradictory=[])


def test_similar_images_are_listed_with_their_number():
    pair = {"train": "a/1.png", "test": "b/<2>.png", "bits": 3, "classes": ["cat", "dog"]}
    text = render(near_duplicates=[{**pair, "alike": 417}])
    assert all(f">{cell}<" in text for cell in ("b/&lt;2&gt;.png", "a/1.png", "3", "417"))
    # Of older versions.
    assert "<td" in render(near_duplicates=[pair])


def test_long_tables_say_where_the_rest_is():
    text = render(left_out=[{**LEFT_OUT, "id": f"p{i}"} for i in range(51)])
    assert "p49" in text
    assert "p50" not in text
    assert "the first 50 of 51; all are in data_check.json" in text


def test_reports_of_older_versions_say_nothing():
    assert data_findings({}) == []
