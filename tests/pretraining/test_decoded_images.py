"""Decoded images on the disk: the decoder's pixels, bounded, written once, the same views as without."""

import json
import multiprocessing
import shutil

import numpy as np
import pytest

from orl_ray.pretraining import views
from orl_ray.pretraining.decoded_images import DecodedImages
from orl_ray.pretraining.training_set import TrainingSet
from orl_ray.pretraining.views import ViewMaker

TERMS = ("global", "intra", "inter")


def image(number, height=10, width=20):
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def names(folder):
    return sorted(path.stem for path in folder.glob("*.npy"))


def test_what_is_kept_comes_back_and_may_be_written_to_without_a_trace(tmp_path):
    kept = DecodedImages(tmp_path, 10**6)
    assert kept.get("a") is None
    kept.keep("a", image(1))
    found = kept.get("a")
    np.testing.assert_array_equal(found, image(1))
    found[:] = 0  # torch takes writable arrays only
    np.testing.assert_array_equal(kept.get("a"), image(1))


def test_no_more_than_the_limit_is_kept_and_smaller_images_may_still_fit(tmp_path):
    kept = DecodedImages(tmp_path, 1500)
    for number in range(4):
        kept.keep(str(number), image(number))  # 600 bytes each
    assert names(tmp_path) == ["0", "1"]
    kept.keep("small", image(9, height=5))
    assert names(tmp_path) == ["0", "1", "small"]


def _keep_many(folder, first):
    kept = DecodedImages(folder, 600 * 10)
    for number in range(first, first + 20):
        kept.keep(str(number), image(number))


def test_processes_share_the_limit(tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.starmap(_keep_many, [(tmp_path, 0), (tmp_path, 100)])
    assert len(names(tmp_path)) == 10
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.fixture
def keeping(object_folder, tmp_path):
    """Return the training set of the other tests, keeping decoded images."""
    folder = shutil.copytree(object_folder, tmp_path / "set")
    (folder / "decoded").mkdir()
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"decoded_bytes": 10**9}))
    return TrainingSet.open(folder)


def test_views_are_the_same_and_each_image_is_decoded_once(object_set, keeping, monkeypatch):
    decoded, decode = [], views.decode_known
    wanted, maker = (ViewMaker(one, 0, "object_level", TERMS, 24, 16) for one in (object_set, keeping))
    expected = [wanted.crops(lap, position) for lap in range(3) for position in range(10)]
    monkeypatch.setattr(views, "decode_known", lambda *given: decoded.append(1) or decode(*given))
    found = [maker.crops(lap, position) for lap in range(3) for position in range(10)]
    assert len(decoded) == 10
    for one, other in zip(found, expected, strict=True):
        for term in TERMS:
            for mine, theirs in zip(one[term], other[term], strict=True):
                np.testing.assert_array_equal(mine, theirs)
