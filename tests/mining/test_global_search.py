"""RoI-to-RoI search over several shards, against brute force: random, tied and scarce RoIs, any shards."""

import tracemalloc
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_store import LocalActor, stand_in_for_ray

from orl_ray.mining.global_codebook import (
    CODEWORDS,
    FLAT_BELOW,
    Codebook,
    Probes,
    encode,
    fit_codebook,
    in_sample,
    list_count,
    nearest_lists,
    score_tables,
)
from orl_ray.mining.global_pairs import pairs_by_image
from orl_ray.mining.global_search import RoiIndex, best_candidates, most_similar, positions_of
from orl_ray.mining.global_stage import GlobalSearch

WIDTH = 16


def unit(values):
    values = np.asarray(values, np.float64)
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)


def collection(seed, images, tied=False):
    """RoIs of some images: vectors, image ids, boxes, groups (every third image shares one with the next)."""
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.sort(rng.choice(10 * images, images, replace=False)), rng.integers(1, 9, images))
    values = np.eye(WIDTH)[rng.integers(0, 3, len(ids))] if tied else rng.normal(size=(len(ids), WIDTH))
    boxes = rng.integers(0, 99, (len(ids), 4)).astype(np.int32)
    return unit(values), ids, boxes, ids - ids % 3


def in_shards(rois, shards, codebook, seed=0):
    """One index a shard, over whole images."""
    vectors, ids, boxes, groups = rois
    owner = np.random.default_rng(seed).integers(0, shards, ids.max() + 1)[ids]
    return [
        RoiIndex(vectors[mask], ids[mask], boxes[mask], groups[mask], codebook)
        for mask in (owner == shard for shard in range(shards))
    ]


def brute_force(rois, count):
    """For each RoI (image id, position, similarity) of the most similar ones of other groups."""
    vectors, ids, _, groups = rois
    places = [(int(i), int(p)) for i, p in zip(ids, positions_of(ids), strict=True)]
    wide, found = vectors.astype(np.float64), []
    for query, group in zip(wide, groups, strict=True):
        rows = [
            (-float(query @ other), *place) for other, place, g in zip(wide, places, groups, strict=True) if g != group
        ]
        found.append([(i, p, -s) for s, i, p in sorted(rows)[:count]])
    return found


def listed(found):
    """Found as brute force gives it."""
    return [
        [(int(i), int(p), float(s)) for i, p, s in zip(*row, strict=True) if i >= 0]
        for row in zip(found.image_ids, found.positions, found.similarities, strict=True)
    ]


def search(rois, indexes, codebook, **mining):
    class Actor:
        """What the shard's actor does, without a store."""

        def __init__(self, index):
            self.index = index

        def candidates(self, queries, image_ids, probes, count):
            return self.index.candidates(queries, image_ids - image_ids % 3, probes, count, threads=2)

        def scan(self, queries, image_ids, count):
            return self.index.scan(queries, image_ids - image_ids % 3, count)

    settings = types.SimpleNamespace(**{"global_neighbors": 5, "global_probes": 2, "global_candidates": 20} | mining)
    with stand_in_for_ray():
        actors = [LocalActor(Actor(index)) for index in indexes]
        return GlobalSearch(actors, codebook, settings).nearest(rois[0], rois[1])


@pytest.fixture(scope="module")
def codebook():
    return fit_codebook(collection(1, 150)[0], 8, 4, seed=3)


class TestNearest:
    @settings(deadline=None, max_examples=25)
    @given(st.integers(0, 999), st.integers(1, 30), st.booleans(), st.sampled_from([1, 2, 3]))
    def test_an_exact_scan_equals_brute_force_however_rois_are_sharded(self, seed, images, tied, shards):
        rois = collection(seed, images, tied)
        assert listed(search(rois, in_shards(rois, shards, None, seed), None)) == brute_force(rois, 5)

    @settings(deadline=None, max_examples=25)
    @given(st.integers(0, 999), st.integers(1, 30), st.booleans(), st.sampled_from([1, 2, 3]))
    def test_all_lists_and_all_candidates_equal_brute_force(self, codebook, seed, images, tied, shards):
        rois = collection(seed, images, tied)
        found = search(rois, in_shards(rois, shards, codebook), codebook, global_probes=8, global_candidates=300)
        assert listed(found) == brute_force(rois, 5)

    @pytest.mark.parametrize("tied", [False, True])
    def test_few_candidates_do_not_depend_on_the_shards(self, codebook, tied):
        rois = collection(7, 100, tied)
        found = [search(rois, in_shards(rois, shards, codebook), codebook) for shards in (1, 2, 3)]
        for other in found[1:]:
            for field, same in zip(found[0], other, strict=True):
                np.testing.assert_array_equal(field, same)
        if not tied:  # an approximation, and no bad one
            exact = brute_force(rois, 5)
            hits = sum(len({*row} & {*wanted}) for row, wanted in zip(listed(found[0]), exact, strict=True))
            assert 0.5 < hits / sum(map(len, exact)) < 1

    def test_boxes_are_those_of_what_was_found(self, codebook):
        rois = collection(5, 40)
        found = search(rois, in_shards(rois, 2, codebook), codebook)
        where = {
            (int(i), int(p)): tuple(b) for i, p, b in zip(rois[1], positions_of(rois[1]), rois[2].tolist(), strict=True)
        }
        for row in zip(found.image_ids, found.positions, found.boxes.tolist(), strict=True):
            assert all(where[int(i), int(p)] == tuple(box) for i, p, box in zip(*row, strict=True))

    def test_more_lists_are_probed_where_those_near_hold_too_few_others(self, codebook):
        # The RoIs of one image share a direction: the lists that they probe hold little but themselves.
        own, others = unit(np.eye(WIDTH)[[0] * 6] + 0.01), unit(-np.eye(WIDTH)[[0] * 7])
        ids = np.array([3] * 6 + [6, 9, 12, 15, 18, 21, 24])
        rois = np.concatenate([own, others]), ids, np.zeros((13, 4), np.int32), ids
        assert listed(search(rois, in_shards(rois, 2, codebook), codebook, global_probes=1)) == brute_force(rois, 5)

    def test_an_index_refuses_images_out_of_order(self):
        vectors, ids, boxes, groups = collection(0, 5)
        with pytest.raises(ValueError, match="in the order of their images' ids"):
            RoiIndex(vectors, ids[::-1], boxes, groups, None)

    def test_an_index_refuses_vectors_that_are_not_unit(self):
        vectors, ids, boxes, groups = collection(0, 5)
        with pytest.raises(ValueError, match="must be unit vectors"):
            RoiIndex(2 * vectors, ids, boxes, groups, None)

    def test_without_a_codebook_there_are_no_candidates(self):
        vectors, ids, boxes, groups = collection(0, 5)
        nowhere = Probes(np.zeros((len(ids), 1), np.int64), np.zeros((len(ids), 1), np.int32))
        with pytest.raises(ValueError, match="only exact scans"):
            RoiIndex(vectors, ids, boxes, groups, None).candidates(vectors, groups, nowhere, 3)


class TestCandidates:
    def test_are_the_best_scored_of_the_probed_lists_ties_by_image_and_position(self, codebook):
        rois = vectors, ids, _, groups = collection(11, 80)
        probes = nearest_lists(codebook, vectors, 3)
        lists = probes.lists[:, 0]
        codes = encode(codebook, vectors, lists).astype(int)
        tables = score_tables(codebook, vectors).astype(int)
        shards = in_shards(rois, 3, codebook)
        found = best_candidates([index.candidates(vectors, groups, probes, 12) for index in shards], 12)
        places = list(zip(ids.tolist(), positions_of(ids).tolist(), strict=True))
        for query in range(len(vectors)):
            base = dict(zip(probes.lists[query].tolist(), probes.scores[query].tolist(), strict=True))
            scored = sorted(
                (
                    -(base[int(lists[row])] + sum(tables[query, piece, code] for piece, code in enumerate(codes[row]))),
                    place,
                )
                for row, place in enumerate(places)
                if int(lists[row]) in base and groups[row] != groups[query]
            )[:12]
            got = zip(found.scores[query].tolist(), found.image_ids[query], found.positions[query], strict=True)
            assert [(-score, (int(i), int(p))) for score, i, p in got if i >= 0] == scored

    def test_merging_by_similarity_takes_ties_by_image_and_position(self):
        rois = collection(3, 30, tied=True)
        whole = most_similar([index.scan(rois[0], rois[3], 4) for index in in_shards(rois, 1, None)], 4)
        parts = most_similar([index.scan(rois[0], rois[3], 4) for index in in_shards(rois, 3, None)], 4)
        assert listed(whole) == listed(parts)


class TestCodebook:
    def test_the_same_sample_gives_the_same_bits(self, codebook):
        again = fit_codebook(collection(1, 150)[0], 8, 4, seed=3)
        for field, same in zip(codebook, again, strict=True):
            np.testing.assert_array_equal(field, same)
        assert (codebook.centers.shape, codebook.codewords.shape) == ((8, WIDTH), (4, CODEWORDS, WIDTH // 4))

    def test_lists_and_codes_are_the_nearest_in_exact_arithmetic(self, codebook):
        vectors = collection(2, 60)[0]
        wide, centers = vectors.astype(np.float64), codebook.centers.astype(np.float64)
        distances = ((wide[:, None] - centers) ** 2).sum(axis=2)
        lists = nearest_lists(codebook, vectors, 8).lists
        np.testing.assert_allclose(np.take_along_axis(distances, lists, 1), np.sort(distances, axis=1), atol=1e-12)
        left = (wide - centers[lists[:, 0]]).reshape(len(wide), 4, -1)
        words = codebook.codewords.astype(np.float64)
        apart = ((left[:, :, None] - words) ** 2).sum(axis=3)
        codes = encode(codebook, vectors, lists[:, 0]).astype(int)
        np.testing.assert_allclose(
            np.take_along_axis(apart, codes[..., None], 2)[..., 0], apart.min(axis=2), atol=1e-12
        )

    def test_a_score_is_the_product_with_what_the_code_stands_for(self, codebook):
        vectors = collection(2, 60)[0]
        probes = nearest_lists(codebook, vectors, 1)
        lists = probes.lists[:, 0]
        codes = encode(codebook, vectors, lists).astype(int)
        stand_ins = codebook.centers[lists].astype(np.float64) + np.concatenate(
            [codebook.codewords[piece].astype(np.float64)[codes[:, piece]] for piece in range(4)], axis=1
        )
        wanted = (vectors.astype(np.float64) * stand_ins).sum(axis=1)
        tables = score_tables(codebook, vectors)
        scores = probes.scores[:, 0] + sum(
            tables[np.arange(len(vectors)), piece, codes[:, piece]] for piece in range(4)
        )
        np.testing.assert_allclose(scores / 2**24, wanted, atol=1e-6)

    def test_batches_change_no_bit(self, codebook):
        vectors = collection(4, 80)[0]
        whole = nearest_lists(codebook, vectors, 3)
        parts = [nearest_lists(codebook, vectors[start : start + 7], 3) for start in range(0, len(vectors), 7)]
        np.testing.assert_array_equal(whole.lists, np.concatenate([part.lists for part in parts]))
        np.testing.assert_array_equal(whole.scores, np.concatenate([part.scores for part in parts]))

    def test_memory_is_that_of_a_block_of_vectors(self):
        vectors = np.zeros((50_000, 256), np.float16)
        vectors[:, 0] = 1
        wide = Codebook(vectors[:4], np.zeros((4, 256, 64), np.float16))
        tracemalloc.start()
        nearest_lists(wide, vectors, 1)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < vectors.size * 8 / 2  # all of them as float64 would be twice this

    def test_too_few_rois_for_the_codewords_are_refused(self):
        with pytest.raises(ValueError, match="cannot be fitted on 40 RoIs"):
            fit_codebook(unit(np.random.default_rng(0).normal(size=(40, WIDTH))), 4, 4, 0)

    def test_a_code_that_does_not_divide_the_vector_is_refused(self):
        with pytest.raises(ValueError, match="take a divisor of 16"):
            fit_codebook(collection(1, 150)[0], 4, 3, 0)

    def test_few_rois_are_scanned_and_many_get_lists(self):
        assert [list_count(rois, 0) for rois in (FLAT_BELOW - 1, FLAT_BELOW, 10**6, 10**8)] == [0, 256, 2048, 2048]
        assert list_count(100, 7) == 7

    def test_the_sample_is_keyed_by_roi_and_of_the_size_wanted(self):
        ids = np.repeat(np.arange(2000), 5)
        chosen = in_sample(ids, positions_of(ids), len(ids), seed=1, size=1000)
        assert 850 < chosen.sum() < 1150
        some = slice(1003, 1100)
        alone = in_sample(ids[some], positions_of(ids)[some], len(ids), seed=1, size=1000)
        np.testing.assert_array_equal(chosen[some], alone)
        assert len(np.unique(positions_of(ids)[chosen])) == 5

    def test_a_codebook_is_half_precision(self, codebook):
        assert isinstance(codebook, Codebook)
        assert {field.dtype for field in codebook} == {np.dtype(np.float16)}


class TestPairsByImage:
    def of_one_image(self, images, pairs):
        rois = collection(9, 40)
        found = search(rois, in_shards(rois, 1, None), None)
        rows = np.flatnonzero(rois[1] == rois[1][20])
        return found.rows(rows), pairs_by_image(found.rows(rows), images, pairs)

    def test_are_all_that_was_found_grouped_by_image(self):
        found, rows = self.of_one_image(99, 99)
        told = {
            (int(q), row.neighbor_id, float(s))
            for row in rows
            for q, s in zip(row.query_index, row.similarities, strict=True)
        }
        assert told == {(q, i, s) for q, row in enumerate(listed(found)) for i, _, s in row}
        assert len({row.neighbor_id for row in rows}) == len(rows)

    def test_images_go_by_their_best_pair_and_pairs_by_similarity(self):
        _, rows = self.of_one_image(99, 99)
        best = [(-row.similarities[0], row.neighbor_id) for row in rows]
        assert best == sorted(best)
        assert all((np.diff(row.similarities) <= 0).all() for row in rows)

    def test_fewer_are_prefixes(self):
        _, more = self.of_one_image(99, 99)
        _, fewer = self.of_one_image(4, 1)
        assert [row.neighbor_id for row in fewer] == [row.neighbor_id for row in more][:4]
        for few, many in zip(fewer, more, strict=False):
            assert few.similarities.tolist() == many.similarities[:1].tolist()
            assert few.boxes.tolist() == many.boxes[:1].tolist()

    def test_ties_go_by_the_query_position_then_the_other_image(self):
        rois = collection(3, 30, tied=True)
        found = search(rois, in_shards(rois, 1, None), None)
        for image_id in np.unique(rois[1]):
            rows = pairs_by_image(found.rows(np.flatnonzero(rois[1] == image_id)), 99, 99)
            best = [(-row.similarities[0], row.neighbor_id) for row in rows]
            assert best == sorted(best)
            for row in rows:
                order = list(zip(-row.similarities, row.query_index, strict=True))
                assert order == sorted(order)

    def test_nothing_found_gives_no_rows(self):
        rois = collection(9, 1)
        found = search(rois, in_shards(rois, 1, None), None)
        assert pairs_by_image(found, 5, 5) == []
