"""The spool: duplicates and draws as brute force finds them, whatever the sizes of passes and batches."""

import random
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orl_ray import draws
from orl_ray.scenes import spool as spool_module
from orl_ray.scenes.entries import BadEntry, SourceImage
from orl_ray.scenes.spool import ROWS, drawn, duplicates, spool_entries

ENTRIES = st.lists(st.one_of(st.integers(0, 8), st.integers(0, 2**63 - 1), st.none()), max_size=40)


@pytest.fixture(scope="module", params=[(4096, 2**20, 2**20), (3, 5, 7)], ids=["real sizes", "small sizes"])
def sizes(request):
    names = ("_BATCH_ROWS", "_IDS_AT_A_TIME", "_IDS_A_PASS")
    with mock.patch.multiple(spool_module, **dict(zip(names, request.param, strict=True))):
        yield


def made(ids, folder):
    """Spool an entry an id; None stands for a bad one."""
    rows = [BadEntry(f"p{i}", "bad") if n is None else SourceImage(n, f"p{i}", i) for i, n in enumerate(ids)]
    return spool_entries(iter(rows), folder)


@given(ENTRIES)
def test_duplicates_are_the_later_entries_with_an_id(tmp_path_factory, sizes, ids):
    spool = made(ids, tmp_path_factory.mktemp("spool"))
    first, expected = {}, []
    for position, image_id in enumerate(ids):
        if image_id is not None and first.setdefault(image_id, position) != position:
            expected.append((position, first[image_id]))
    later, holders = duplicates(spool)
    assert list(zip(later.tolist(), holders.tolist(), strict=True)) == expected


@given(ENTRIES, st.integers(1, 45), st.integers(0, 3))
def test_a_draw_keeps_the_entries_with_the_smallest_draws_in_their_order(tmp_path_factory, sizes, ids, limit, seed):
    spool = made(ids, tmp_path_factory.mktemp("spool"))
    numbers = np.array([-1 - position if n is None else n for position, n in enumerate(ids)], np.int64)
    values = draws.uniform(draws.stream(seed, "sources", "take"), numbers, 1)[:, 0]
    assert drawn(spool, limit, seed).tolist() == sorted(np.argsort(values, kind="stable")[:limit].tolist())


def test_a_draw_hangs_on_ids_and_seed_and_not_on_the_order(tmp_path):
    ids = [number * 1_000_003 for number in range(200)]
    chosen = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        random.Random(name).shuffle(ids)
        chosen.append({ids[position] for position in drawn(made(ids, tmp_path / name), 40, seed)})
    assert chosen[0] == chosen[1] != chosen[2]
    assert all(len(one) == 40 for one in chosen)


def test_every_row_comes_back_as_it_was(tmp_path, sizes):
    rows = [
        SourceImage(2**63 - 1, "é", 5, "stamp", "a.tar", 2**40),
        BadEntry("b", "no id"),
        BadEntry("c", "absolute", 7),
        SourceImage(0, "d"),
    ]
    spool = spool_entries(iter(rows), tmp_path)
    batches = list(spool.batches())
    assert all(batch.schema == ROWS for batch in batches)
    assert [tuple(row.values()) for batch in batches for row in batch.to_pylist()] == [
        (2**63 - 1, "é", 5, "stamp", "a.tar", 2**40, None),
        (-2, "b", -1, "", None, None, "no id"),
        (7, "c", -1, "", None, None, "absolute"),
        (0, "d", -1, "", None, None, None),
    ]
    assert (spool.count, spool.bad.tolist()) == (4, [1, 2])
    assert spool.paths(np.array([0, 3])) == ["é", "d"]


def test_an_empty_source_makes_an_empty_spool(tmp_path):
    spool = spool_entries(iter(()), tmp_path)
    assert (spool.count, len(list(spool.batches())), len(duplicates(spool)[0]), len(drawn(spool, 3, 0))) == (0, 0, 0, 0)
