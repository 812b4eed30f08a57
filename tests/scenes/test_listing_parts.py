"""Parts of a listing: cut by images in source order, quarantine where it stands, duplicates told by what they are."""

import unicodedata
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orl_ray import schema
from orl_ray.scenes import listing_parts
from orl_ray.scenes import spool as spool_module
from orl_ray.scenes.entries import BadEntry, SourceImage, path_id
from orl_ray.scenes.listing_parts import numbered_rows, write_parts
from orl_ray.scenes.spool import ROWS, duplicates, spool_entries
from orl_ray.storage import Store

# True stands for an image, False for a bad entry.
ENTRIES = st.lists(st.booleans(), max_size=40)


@pytest.fixture(params=[4096, 3], ids=["one batch", "batches of 3"])
def batches(request, monkeypatch):
    monkeypatch.setattr(spool_module, "_BATCH_ROWS", request.param)


def write(folder, entries, part_size, **more):
    """Write entries in parts; return the store and the records."""
    (folder / "spool").mkdir()
    spool = spool_entries(iter(entries), folder / "spool")
    store = Store(folder / "store")
    return store, write_parts(store, "key", numbered_rows(spool, *duplicates(spool)), part_size, **more)


def paths(store, records):
    """Return, for each part, the paths of its images, by rising id, and those of its quarantine."""
    return [
        (
            store.read_table("listing", record.key)["path"].to_pylist(),
            set(store.quarantine("listing", record.key)["path"].to_pylist()),
        )
        for record in records
    ]


def told(store, records):
    """Return path -> (id, reason) of all that is in quarantine."""
    tables = [store.quarantine("listing", record.key) for record in records]
    return {row["path"]: (row["image_id"], row["reason"]) for table in tables for row in table.to_pylist()}


def mixed(kinds):
    """Return entries whose ids fall where the paths rise."""
    return [SourceImage(1000 - at, f"{at}") if good else BadEntry(f"{at}", "bad") for at, good in enumerate(kinds)]


@given(ENTRIES, st.integers(1, 7), st.sampled_from([3, 4096]))
def test_parts_hold_part_size_images_in_source_order_and_what_is_bad_between_them(
    tmp_path_factory, kinds, part_size, batch
):
    with mock.patch.object(spool_module, "_BATCH_ROWS", batch):
        store, records = write(tmp_path_factory.mktemp("parts"), mixed(kinds), part_size)
    last = max(0, -(-sum(kinds) // part_size) - 1)
    wanted = [([], set()) for _ in range(last + 1 if kinds else 0)]
    for at, good in enumerate(kinds):
        part = min(sum(kinds[:at]) // part_size, last)  # bad entries behind the very last image go to the last part
        if good:
            wanted[part][0].insert(0, f"{at}")  # ids fall
        else:
            wanted[part][1].add(f"{at}")
    assert paths(store, records) == wanted
    assert [(record.index, record.key) for record in records] == [(i, f"key-{i:06d}") for i in range(len(wanted))]
    assert [(record.rows, record.quarantined) for record in records] == [(len(g), len(b)) for g, b in wanted]


def test_tables_are_sorted_by_id_and_of_the_schema(tmp_path):
    store, records = write(tmp_path, mixed([True] * 5), 3)
    for record in records:
        table = store.read_table("listing", record.key)
        assert table.schema == schema.LISTING
        assert table["image_id"].to_pylist() == sorted(table["image_id"].to_pylist())


def test_a_part_ends_early_where_very_much_is_bad_and_loses_nothing(tmp_path, monkeypatch, batches):
    monkeypatch.setattr(listing_parts, "_MOST_BAD", 3)
    store, records = write(tmp_path, mixed([False] * 4 + [True] * 2 + [False] * 2 + [True] * 3), 4)
    assert paths(store, records) == [
        ([], {"0", "1", "2"}),
        (["5", "4"], {"3", "6", "7"}),
        (["10", "9", "8"], set()),
    ]


def test_a_part_that_is_cut_short_by_bad_entries_holds_no_more_of_them_than_that(tmp_path, monkeypatch):
    monkeypatch.setattr(listing_parts, "_MOST_BAD", 5)
    store, records = write(tmp_path, mixed([False] * 17 + [True]), 4)
    assert [record.quarantined for record in records] == [5, 5, 5, 2]
    assert len(told(store, records)) == 17


def test_a_duplicate_goes_to_the_part_in_which_it_stands_and_the_first_one_wins(tmp_path, batches):
    entries = [SourceImage(7, "a"), SourceImage(5, "b"), SourceImage(6, "c"), SourceImage(7, "d"), SourceImage(4, "e")]
    store, records = write(tmp_path, entries, 2)
    assert paths(store, records) == [(["b", "a"], set()), (["e", "c"], {"d"})]
    image_id, reason = told(store, records)["d"]
    assert reason == "duplicate id: a has 7 already"
    assert image_id < 0  # else a later stage would take it for image 7


def test_every_further_duplicate_names_the_first(tmp_path, batches):
    store, records = write(tmp_path, [SourceImage(7, name) for name in "abcdef"], 2)
    assert paths(store, records) == [(["a"], set("bcdef"))]
    assert {reason for _, reason in told(store, records).values()} == {"duplicate id: a has 7 already"}
    assert len({image_id for image_id, _ in told(store, records).values()}) == 5


def test_a_name_in_another_unicode_spelling_is_told_as_that(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "é.jpg") for form in ("NFC", "NFD"))
    entries = [SourceImage(path_id(path), path) for path in (decomposed, composed)]
    store, records = write(tmp_path, entries, 4)
    ((path, (_, reason)),) = told(store, records).items()
    assert path == composed
    assert reason.startswith("the same name in another Unicode spelling: 'e\\u0301.jpg'")


def test_a_bad_entry_with_the_id_of_an_image_is_no_duplicate_and_keeps_its_reason(tmp_path):
    store, records = write(tmp_path, [BadEntry("a", "absolute", 7), SourceImage(7, "b"), BadEntry("c", "no id")], 4)
    assert paths(store, records) == [(["b"], {"a", "c"})]
    assert told(store, records)["a"] == (7, "absolute")
    assert told(store, records)["c"][0] < 0


def test_only_chosen_rows_are_kept_wherever_batches_end(tmp_path, batches):
    spool = spool_entries(iter(mixed([True, False, True, True, True, False, True])), tmp_path)
    tables = numbered_rows(spool, *duplicates(spool), np.array([0, 1, 4, 6]))
    assert [path for table in tables for path in table["path"].to_pylist()] == ["0", "1", "4", "6"]


def test_a_rescan_numbers_on_and_facts_go_to_the_first_part_alone(tmp_path):
    _, records = write(tmp_path, mixed([True] * 5), 2, first_index=7, facts={"labels": {}})
    assert [record.key for record in records] == ["key-000007", "key-000008", "key-000009"]
    assert [record.facts for record in records] == [{"labels": {}}, {}, {}]


def test_at_most_two_parts_are_held_of_a_source_of_any_size(tmp_path):
    written, pulled = [], []

    class CountingStore(Store):
        def write_part(self, *arguments, **more):
            written.append(more["rows"])
            return super().write_part(*arguments, **more)

    def rows():
        for start in range(0, 1000, 10):
            pulled.append(start + 10 - sum(written))  # images that are held while ten more are asked for
            columns = [range(start, start + 10), map(str, range(10)), [1] * 10, [""] * 10, *([None] * 10,) * 3]
            yield pa.table([pa.array(list(c), f.type) for c, f in zip(columns, ROWS, strict=True)], schema=ROWS)

    write_parts(CountingStore(tmp_path), "key", rows(), 20)
    assert sum(written) == 1000
    assert max(pulled) <= 2 * 20 + 10
