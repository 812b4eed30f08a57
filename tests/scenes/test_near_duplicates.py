"""Near-duplicates: fingerprints that survive small changes, and groups that equal a comparison of all pairs."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from benchmarks import photo_copies
from orl_ray.config import NearDuplicates
from orl_ray.scenes import near_duplicates
from orl_ray.scenes.decode import decode
from orl_ray.scenes.generated import render_scene
from orl_ray.scenes.near_duplicates import fingerprint, group_near_duplicates

LIMITS = (NearDuplicates().max_distance, NearDuplicates().max_colour_difference)


def by_all_pairs(ids, hashes, thumbnails, max_distance, max_colour_difference):
    """Compare all pairs, one by one."""
    wide, linked = thumbnails.astype(np.float64), []
    for a in range(len(ids)):
        for b in range(a):
            distance = int(hashes[a] ^ hashes[b]).bit_count()
            most = min(max_distance, int(hashes[a]).bit_count() * 2 // 3, int(hashes[b]).bit_count() * 2 // 3)
            limit = max_colour_difference * (1 - distance / (2 * max(max_distance, 1)))
            if distance <= most and np.abs(wide[a] - wide[b]).sum() / 192 <= limit + 1e-9:
                linked.append((a, b))
    rows, columns = np.array(linked, dtype=int).reshape(-1, 2).T
    labels = connected_components(coo_array((np.ones(len(rows)), (rows, columns)), (len(ids), len(ids))))[1]
    order = np.argsort(ids)
    found = [(ids[i], ids[labels == labels[i]].min()) for i in order if (labels == labels[i]).sum() > 1]
    return np.array(found, dtype=np.int64).reshape(-1, 2).T


def clusters(rng, count, sources, flips, colours):
    """Draw fingerprints round a few sources: up to ``flips`` bits and about ``colours`` grey levels away."""
    hashes = rng.integers(0, 1 << 64, sources, dtype=np.uint64)[rng.integers(0, sources, count)]
    for _ in range(flips):
        hashes ^= np.where(rng.random(count) < 0.7, np.uint64(1) << rng.integers(0, 64, count, dtype=np.uint64), 0)
    drift = rng.integers(0, 2 * colours + 1, (count, 1)) + rng.integers(0, 3, (count, 192))
    return hashes, (100 + drift).astype(np.uint8)


def fingerprints(images):
    prints = [fingerprint(image) for image in images]
    hashes = np.array([perceptual_hash for perceptual_hash, _ in prints], dtype=np.uint64)
    return hashes, np.array([np.frombuffer(thumbnail, np.uint8) for _, thumbnail in prints])


@pytest.fixture(scope="module")
def scene():
    return render_scene(3, "train", 0, 320).image


@pytest.fixture(scope="module")
def photographs(scenes_root):
    """Return 300 photographs of different scenes."""
    files = sorted((scenes_root / "coco_pool" / "images").iterdir())[:300]
    return [decode(file.read_bytes(), 10**8) for file in files]


class TestFingerprint:
    def test_bits_are_the_signs_of_the_lowest_frequencies(self, scene):
        perceptual_hash, thumbnail = fingerprint(scene)
        grey = cv2.resize(scene, (32, 32), interpolation=cv2.INTER_AREA) @ (np.array([77, 150, 29]) / 256)
        coefficients = dctn(grey, norm="ortho")
        lowest = sorted((row + column, row, column) for row in range(32) for column in range(32))[1:65]
        assert perceptual_hash.bit_count() == sum(coefficients[row, column] > 4 for _, row, column in lowest)
        assert 10 < perceptual_hash.bit_count() < 54
        assert len(thumbnail) == 192
        small = np.frombuffer(thumbnail, np.uint8).reshape(8, 8, 3)
        means = scene[: scene.shape[0] // 8, : scene.shape[1] // 8].mean(axis=(0, 1))
        np.testing.assert_allclose(small[0, 0], means, atol=1.5)

    @pytest.mark.parametrize("grey", [0, 3, 128, 255])
    def test_an_image_without_structure_hashes_to_0_whatever_its_noise(self, grey):
        rng = np.random.default_rng(0)
        flat = np.full((480, 640, 3), grey, np.uint8)
        noisy = np.clip(flat + rng.normal(0, 3, flat.shape), 0, 255).astype(np.uint8)
        for image in (flat, noisy, photo_copies.reencoded(noisy, 50)):
            perceptual_hash, thumbnail = fingerprint(image)
            assert perceptual_hash == 0
            assert np.abs(np.frombuffer(thumbnail, np.uint8).astype(int) - grey).max() <= 4

    def test_memory_layout_plays_no_part(self, scene):
        assert fingerprint(scene[:, ::-1]) == fingerprint(scene[:, ::-1].copy())
        assert fingerprint(scene[:, ::-1]) != fingerprint(scene)

    @pytest.mark.parametrize("shape", [(1, 1, 3), (1, 500, 3), (7, 3, 3), (31, 33, 3)])
    def test_tiny_images_have_fingerprints(self, shape):
        perceptual_hash, thumbnail = fingerprint(np.full(shape, 9, np.uint8))
        assert (perceptual_hash, thumbnail) == (0, bytes([9] * 192))

    @pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
    def test_anything_but_rgb_is_refused(self, image):
        with pytest.raises(ValueError, match="RGB"):
            fingerprint(image)

    def test_a_scene_and_its_changed_copies_are_near(self, scene):
        copies = [
            scene,
            photo_copies.reencoded(scene, 50),
            photo_copies.resized(scene, 0.5),
            photo_copies.cropped(scene, 0.02, 0.01, 0.01, 0.02),
            photo_copies.rotated(scene, 1.5),
            photo_copies.relit(scene, 1.1, -10),
        ]
        members, groups = group_near_duplicates(np.arange(6), *fingerprints(copies), *LIMITS)
        assert members.tolist() == list(range(6))
        assert set(groups.tolist()) == {0}


class TestGroups:
    @settings(max_examples=60)
    @given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.sampled_from([0, 1, 3, 6, 10]), st.integers(0, 30))
    def test_equal_a_comparison_of_all_pairs(self, seed, count, max_distance, colours):
        rng = np.random.default_rng(seed)
        hashes, thumbnails = clusters(rng, count, 1 + count // 6, 1 + max_distance, colours)
        ids = rng.permutation(10 * count)[:count] - 3
        found = group_near_duplicates(ids, hashes, thumbnails, max_distance, 20.0)
        np.testing.assert_array_equal(np.array(found), by_all_pairs(ids, hashes, thumbnails, max_distance, 20.0))

    @pytest.mark.parametrize("max_distance", [2, 14, 20])
    @pytest.mark.parametrize(("pairs", "large"), [(1 << 20, 256), (37, 2), (1, 5)])
    def test_chunks_and_large_components_change_nothing(self, monkeypatch, max_distance, pairs, large):
        rng = np.random.default_rng(max_distance)
        hashes, thumbnails = clusters(rng, 120, 12, max_distance, 25)
        hashes[:40] &= np.uint64(0xFFFF)  # crowded buckets
        expected = by_all_pairs(np.arange(120), hashes, thumbnails, max_distance, 25.0)
        assert 0 < len(set(expected[1])) < 60
        monkeypatch.setattr(near_duplicates, "_PAIRS", pairs)
        monkeypatch.setattr(near_duplicates, "_THUMBNAIL_PAIRS", max(pairs // 5, 1))
        monkeypatch.setattr(near_duplicates, "_LARGE", large)
        found = group_near_duplicates(np.arange(120), hashes, thumbnails, max_distance, 25.0)
        np.testing.assert_array_equal(np.array(found), expected)

    @pytest.mark.parametrize("distance", [0, 1, 6, 14])
    def test_the_distance_itself_is_near_and_one_bit_more_is_not(self, distance):
        rng = np.random.default_rng(distance)
        for _ in range(5):
            places = rng.permutation(64)[: distance + 1].astype(np.uint64)
            mask = np.bitwise_or.reduce(np.uint64(1) << places)
            start = np.uint64(2**64 - 1)
            near = start ^ mask ^ (np.uint64(1) << places[0])
            alike = np.zeros((2, 192), np.uint8)
            assert len(group_near_duplicates(np.arange(2), np.array([start, near]), alike, distance, 1.0)[0]) == 2
            assert (
                len(group_near_duplicates(np.arange(2), np.array([start, start ^ mask]), alike, distance, 1.0)[0]) == 0
            )

    @pytest.mark.parametrize(("distance", "levels"), [(0, 20), (5, 15), (10, 10)])
    def test_the_more_bits_differ_the_fewer_grey_levels_may(self, distance, levels):
        hashes = np.array([2**64 - 1, 2**64 - (1 << distance)], dtype=np.uint64)
        for more, together in ((0, True), (1, False)):
            thumbnails = np.full((2, 192), 100, np.uint8)
            thumbnails[1] += levels
            thumbnails[1, 0] += more
            assert (len(group_near_duplicates(np.arange(2), hashes, thumbnails, 10, 20.0)[0]) == 2) == together

    def test_a_chain_is_one_group_named_by_its_smallest_id(self):
        hashes = np.array([2**64 - (1 << length) for length in range(0, 60, 2)], dtype=np.uint64)
        ids = np.arange(len(hashes))[::-1] * 7 + 5
        members, groups = group_near_duplicates(ids, hashes, np.zeros((len(hashes), 192), np.uint8), 2, 0.0)
        assert members.tolist() == sorted(ids.tolist())
        assert set(groups.tolist()) == {5}

    @pytest.mark.parametrize(("bits", "together"), [(5, 0), (6, 2), (30, 2)])
    def test_of_an_image_with_little_structure_two_thirds_of_the_bits_may_differ(self, bits, together):
        hashes = np.array([(1 << bits) - 1, ((1 << bits) - 1) ^ 0b11 | 0b11 << 60], dtype=np.uint64)
        assert len(group_near_duplicates(np.arange(2), hashes, np.zeros((2, 192), np.uint8), 14, 1.0)[0]) == together

    def test_pages_of_different_grey_are_apart_though_their_hashes_are_equal(self):
        pages = fingerprints([np.full((40, 60, 3), grey, np.uint8) for grey in (0, 255, 2, 250, 128)])
        members, groups = group_near_duplicates(np.arange(5), *pages, *LIMITS)
        assert list(zip(members.tolist(), groups.tolist(), strict=True)) == [(0, 0), (1, 1), (2, 0), (3, 1)]

    def test_a_long_film_from_one_spot_does_not_cost_the_square_of_its_frames(self, monkeypatch):
        rng = np.random.default_rng(0)
        frames = np.full(3000, rng.integers(0, 1 << 64, dtype=np.uint64))
        for _ in range(3):
            frames ^= np.uint64(1) << rng.integers(0, 64, 3000, dtype=np.uint64)
        others = rng.integers(0, 1 << 64, 500, dtype=np.uint64)
        thumbnails = np.concatenate([rng.integers(90, 93, (3000, 192)), rng.integers(0, 256, (500, 192))])
        images = (np.arange(3500), np.concatenate([frames, others]), thumbnails.astype(np.uint8))
        spread, compared = near_duplicates._spread, {}
        for large in (near_duplicates._LARGE, 10**6):
            compared[large] = 0

            def counted(rows, begin, end, large=large):
                compared[large] += int((end - begin).sum())
                return spread(rows, begin, end)

            monkeypatch.setattr(near_duplicates, "_spread", counted)
            monkeypatch.setattr(near_duplicates, "_LARGE", large)
            members, groups = group_near_duplicates(*images, 8, 20.0)
            assert members.tolist() == list(range(3000))
            assert set(groups.tolist()) == {0}
        assert min(compared.values()) < max(compared.values()) / 5

    @pytest.mark.parametrize(
        ("ids", "hashes", "thumbnails", "distance", "message"),
        [
            ([1, 1], 2, (2, 192), 3, "image id 1 occurs twice"),
            ([1, 2], 3, (2, 192), 3, "hashes"),
            ([1, 2], 2, (2, 100), 3, "thumbnails"),
            ([1, 2], 2, (2, 192), 64, "0 to 63 bits"),
        ],
    )
    def test_arrays_that_do_not_go_together_are_refused(self, ids, hashes, thumbnails, distance, message):
        arrays = (np.array(ids), np.zeros(hashes, np.uint64), np.zeros(thumbnails, np.uint8))
        with pytest.raises(ValueError, match=message):
            group_near_duplicates(*arrays, distance, 1.0)


@pytest.mark.real
class TestPhotographs:
    def test_thirty_bursts_of_five_are_thirty_groups(self, photographs):
        rng = np.random.default_rng(0)
        shots = [
            image for photo in photographs[:30] for image in (photo, *(photo_copies.burst(photo, rng) for _ in "1234"))
        ]
        members, groups = group_near_duplicates(np.arange(150), *fingerprints(shots), *LIMITS)
        assert members.tolist() == list(range(150))
        assert groups.tolist() == [5 * (shot // 5) for shot in range(150)]

    def test_different_scenes_are_no_near_duplicates(self, photographs):
        members, _ = group_near_duplicates(np.arange(300), *fingerprints(photographs), *LIMITS)
        assert members.tolist() == []
