"""Streams of JSON lists: what json.loads reads, with a window's memory; where JSON is broken, and where it lies."""

import io
import json
import math
import random
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orl_ray.scenes.json_file import JsonFile, stream_lists

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def written(folder, text):
    data = text if isinstance(text, bytes) else text.encode()
    (folder / "file.json").write_bytes(data)
    return JsonFile.at(str(folder / "file.json"))


@given(
    st.dictionaries(st.sampled_from(["info", "images", "x", "annotations"]), st.lists(VALUES, max_size=4) | VALUES),
    st.sampled_from([None, 1, "\t"]),
    st.integers(1, 40),
    st.booleans(),
)
def test_lists_are_what_json_reads_whatever_the_order_of_keys_and_the_size_of_a_read(value, indent, chunk, is_ascii):
    data = json.dumps(value, indent=indent, ensure_ascii=is_ascii).encode()
    lists = {key: rows for key, rows in value.items() if isinstance(rows, list)}
    stream = stream_lists(io.BytesIO(data), "x", tuple(lists), chunk=chunk)
    assert list(stream) == [(key, position, row) for key, rows in lists.items() for position, row in enumerate(rows)]


@given(st.dictionaries(st.sampled_from(["images", "x"]), st.lists(VALUES, max_size=3)), st.data())
def test_json_that_ends_early_or_holds_a_wrong_character_is_never_read_as_whole(value, data):
    text = json.dumps({**value, "images": [1, {"a": "b"}]})
    cut = data.draw(st.integers(0, len(text) - 1))
    with pytest.raises(ValueError, match=r"^x is not (valid JSON|a COCO JSON)"):
        list(stream_lists(io.BytesIO(text[:cut].encode()), "x", ("images", "missing"), chunk=7))
    broken = text[:cut] + "\x01" + text[cut:]
    with pytest.raises(ValueError, match=r"^x is not (valid JSON|a COCO JSON)"):
        list(stream_lists(io.BytesIO(broken.encode()), "x", ("images", "missing"), chunk=7))


def test_nothing_is_read_behind_the_last_wanted_list(tmp_path):
    file = written(tmp_path, '{"images": [1, 2], "annotations": [3, oops')
    assert [row for *_, row in file.lists("images")] == [1, 2]
    with pytest.raises(ValueError, match=r"Expecting value \(character 38\)"):
        list(file.lists("images", "annotations"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "its top level is not an object"),
        ("", "its top level is not an object"),
        ("{}", "no list 'images'"),
        ('{"images": {}}', "no list 'images'"),
        ('{"images": null}', "no list 'images'"),
        ("{", "it ends too early"),
        ('{"a": 1', "it ends too early"),
        ('{"a": 1} x', "something stands behind its end"),
        ('{"a": 1 "b": 2}', "',' expected"),
        ('{"a" 1}', "':' expected"),
        ('{"a": [1,]}', "Expecting value"),
        ("{'a': 1}", "Expecting value"),
        ('{"a": "\udcff"}', "can't decode byte"),
        ('{"a": ' + "[" * 100_000, "recursion"),
        ('{"a": ' + "9" * 5000 + "}", "digits"),
    ],
)
def test_what_is_no_coco_json_is_told(tmp_path, text, message):
    file = written(tmp_path, text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=message) as caught:
        list(file.lists("images"))
    assert str(file) in str(caught.value)


def test_an_error_in_a_large_file_is_told_at_its_place_without_reading_on(tmp_path):
    rows = ", ".join('{"id": 1}' for _ in range(1000))
    file = written(tmp_path, f'{{"images": [{rows}, {{"id": x}}, {", ".join(["1"] * 2_000_000)}]}}')
    at = len(f'{{"images": [{rows}, {{"id": ')
    started = time.process_time()
    with pytest.raises(ValueError, match=rf"Expecting value \(character {at}\)"):
        list(file.lists("images"))
    assert time.process_time() - started < 1


def test_numbers_that_json_does_not_know_but_python_writes_are_read(tmp_path):
    (value,) = (row for *_, row in written(tmp_path, '{"images": [{"area": NaN}]}').lists("images"))
    assert math.isnan(value["area"])


def test_a_byte_order_mark_is_taken(tmp_path):
    assert list(written(tmp_path, b'\xef\xbb\xbf{"images": [1]}').lists("images")) == [("images", 0, 1)]


def test_optional_lists_may_be_missing_but_may_be_nothing_else(tmp_path):
    assert list(written(tmp_path, '{"images": [1]}').lists("images", "a", optional=("a",))) == [("images", 0, 1)]
    with pytest.raises(ValueError, match="no list 'a'"):
        list(written(tmp_path, '{"a": 3}').lists("a", optional=("a",)))


def test_a_missing_file_is_told(tmp_path):
    file = JsonFile.at(str(tmp_path / "none.json"))
    for read in (file.load, lambda: list(file.lists("images"))):
        with pytest.raises(ValueError, match=f"no file at {tmp_path}/none.json"):
            read()


def test_files_are_found_by_paths_and_uris(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "[1]")
    assert JsonFile.at("file.json").load() == [1]
    assert str(JsonFile.at("s3://bucket/a/b.json")) == "s3://bucket/a/b.json"
    assert str(JsonFile.at("gs://bucket/b.json").folder) == "gs://bucket"


def test_memory_stays_small_however_long_the_lists_are(tmp_path):
    def peak(rows):
        with (tmp_path / "big.json").open("w") as stream:
            polygon = [random.random() for _ in range(40)]
            stream.write('{"annotations": [' + ",".join([json.dumps({"s": polygon})] * rows))
            stream.write('], "images": [' + ",".join([json.dumps({"id": 1, "file_name": "a" * 4000})] * rows) + "]}")
        tracemalloc.start()
        count = sum(1 for _ in JsonFile.at(str(tmp_path / "big.json")).lists("images"))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert count == rows
        return most

    assert peak(10_000) < 16 * 2**20  # of a file of 40 MB
    assert peak(10_000) < 1.5 * peak(2_000)
