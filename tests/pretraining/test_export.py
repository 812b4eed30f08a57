"""From the store to a training set: every image, its RoIs, and the pairs that k and the ratio select."""

import pickle

import numpy as np
import pytest
from small_store import image_files, lose_source

from orl_ray.mining.matching import pair_count
from orl_ray.pipeline import State
from orl_ray.pretraining import export
from orl_ray.pretraining.export import export_training_set
from orl_ray.pretraining.prefetch import view_batches
from orl_ray.pretraining.sampling import RUN, SampleStream, Share
from orl_ray.pretraining.training_set import META, TrainingSet
from orl_ray.pretraining.views import ViewMaker
from orl_ray.storage import TABLE, StoreError, parquet_bytes


def exported(small, folder, stage="object_level"):
    names = ("scenes",) if stage == "image_level" else ("scenes", "rois", "correspondences")
    manifests = {name: small.plan(name).key for name in names}
    export_training_set(small.config, small.store, manifests, folder)
    return TrainingSet.open(folder)


def mined(small):
    """Return image id -> its rows of the correspondences, nearest neighbour first."""
    rows = {}
    for row in small.rows("correspondences"):
        rows.setdefault(row["image_id"], []).append(row)
    return rows


@pytest.fixture(scope="module")
def whole(finished, tmp_path_factory):
    """Return the training set of everything that was mined."""
    small = finished.with_settings(mining={"k": 6, "pair_ratio": 0.6})
    return exported(small, tmp_path_factory.mktemp("export") / "whole")


class TestImageLevel:
    def test_holds_every_image_byte_for_byte_in_the_order_of_the_scenes(self, finished, tmp_path):
        found = exported(finished, tmp_path / "set", "image_level")
        rows, folder = finished.rows("scenes"), image_files(finished)
        assert found.image_ids.tolist() == [row["image_id"] for row in rows]
        for position, row in enumerate(rows):
            assert found.image_bytes(position) == (folder / row["path"]).read_bytes()
        assert found.max_pixels == finished.config.source.max_pixels
        assert found.counts()["rois"] == found.counts()["pairs"] == 0


class TestObjectLevel:
    def test_holds_the_rois_of_every_image(self, finished, whole):
        rois = {row["image_id"]: row["boxes"] for row in finished.rows("rois")}
        assert whole.image_ids.tolist() == list(rois)
        for image_id, boxes in rois.items():
            assert whole.rois(whole.position(image_id)).tolist() == boxes

    def test_at_the_maxima_everything_that_was_mined_is_selected(self, finished, whole):
        for image_id, rows in mined(finished).items():
            found = list(whole.rows(whole.position(image_id)))
            assert [row.neighbor_id for row in found] == [row["neighbor_id"] for row in rows]
            for got, want in zip(found, rows, strict=True):
                assert got.query_boxes.tolist() == want["query_boxes"]
                assert got.neighbor_boxes.tolist() == want["neighbor_boxes"]

    @pytest.mark.parametrize(("k", "ratio"), [(1, 0.0), (3, 0.3), (6, 0.3), (2, 0.6)])
    def test_a_smaller_k_or_ratio_is_a_prefix(self, finished, whole, tmp_path, k, ratio):
        found = exported(finished.with_settings(mining={"k": k, "pair_ratio": ratio}), tmp_path / "set")
        for position in range(len(found)):
            rows, more = list(found.rows(position)), list(whole.rows(position))
            assert [row.neighbor_id for row in rows] == [row.neighbor_id for row in more[:k]]
            wanted = pair_count(len(found.rois(position)), ratio)
            for got, longer in zip(rows, more, strict=False):
                assert len(got.query_boxes) == min(wanted, len(longer.query_boxes))
                np.testing.assert_array_equal(got.query_boxes, longer.query_boxes[:wanted])
                np.testing.assert_array_equal(got.neighbor_boxes, longer.neighbor_boxes[:wanted])

    def test_bounds_on_similarities_drop_pairs_and_neighbours_and_images_but_no_rois(self, finished, whole, tmp_path):
        mined_rows = finished.rows("correspondences")
        floor, ceiling = np.quantile(np.concatenate([row["similarities"] for row in mined_rows]), [0.7, 0.9])
        bounds = {"min_similarity": float(floor), "max_similarity": float(ceiling)}
        small = finished.with_settings(mining={"k": 2, "pair_ratio": 0.6, **bounds})
        assert small.plan("correspondences").state is State.DONE  # nothing is mined again
        assert small.plan("object_level").state is not State.DONE
        found, images = exported(small, tmp_path / "set"), set()
        wanted = {}
        for row in mined_rows:
            kept = [at for at, value in enumerate(row["similarities"]) if floor <= value <= ceiling]
            if kept and row["rank"] < 2:
                wanted[row["image_id"], row["neighbor_id"]] = [row["query_boxes"][at] for at in kept]
        for image_id in found.image_ids.tolist():
            position = found.position(image_id)
            np.testing.assert_array_equal(found.rois(position), whole.rois(whole.position(image_id)))
            for row in found.rows(position):
                images.add(image_id)
                assert row.query_boxes.tolist() == wanted.pop((image_id, row.neighbor_id))
        assert not wanted
        assert 0 < len(images) < len(found)

    def test_pairs_a_neighbour_are_the_share_of_the_rois_and_at_least_one(self, finished, tmp_path):
        found = exported(finished, tmp_path / "set")
        counts = set()
        for position in range(len(found)):
            rois = len(found.rois(position))
            for row in found.rows(position):
                assert len(row.query_boxes) == max(1, int(0.3 * rois + 1e-9))
                counts.add(len(row.query_boxes))
        assert {1, 3} <= counts

    def test_boxes_of_pairs_are_rois_of_their_images(self, whole):
        rois = {int(i): set(map(tuple, whole.rois(whole.position(i)).tolist())) for i in whole.image_ids}
        for image_id, own in rois.items():
            for row in whole.rows(whole.position(image_id)):
                assert set(map(tuple, row.query_boxes.tolist())) <= own
                assert set(map(tuple, row.neighbor_boxes.tolist())) <= rois[row.neighbor_id]

    def test_an_image_is_not_its_own_neighbour(self, whole):
        assert all(row.neighbor_id != i for i in whole.image_ids for row in whole.rows(whole.position(i)))


class TestLosses:
    def drop(self, small, artifact, image_ids, key):
        """Write the first part of an artifact again without some images, under a manifest of its own."""
        records = small.records(artifact)
        table = small.store.read_table(artifact, records[0].key)
        columns = [name for name in ("image_id", "neighbor_id") if name in table.column_names]
        kept = [not image_ids & {row[name] for name in columns} for row in table.select(columns).to_pylist()]
        files = {TABLE: parquet_bytes(table.filter(np.array(kept)))}
        less = small.store.write_part(artifact, f"{key}-0", 0, files, rows=sum(kept))
        small.store.write_manifest(artifact, key, [less, *records[1:]])

    def test_an_image_without_rois_is_left_out(self, finished, tmp_path):
        small = finished.copy(tmp_path / "copy")
        lost = small.tables("scenes")[0]["image_id"][2].as_py()
        manifests = {name: small.plan(name).key for name in ("scenes", "rois", "correspondences")}
        self.drop(small, "rois", {lost}, "less")
        manifests["rois"] = "less"
        folder = tmp_path / "set"
        with pytest.raises(ValueError, match=f"image {lost} is a neighbour"):  # correspondences must leave it out, too
            export_training_set(small.config, small.store, manifests, folder)
        assert not folder.exists()

    def test_an_image_without_pairs_keeps_its_rois(self, finished, tmp_path):
        small = finished.copy(tmp_path / "copy")
        lonely = small.tables("scenes")[0]["image_id"][2].as_py()
        manifests = {name: small.plan(name).key for name in ("scenes", "rois", "correspondences")}
        self.drop(small, "correspondences", {lonely}, "less")
        export_training_set(small.config, small.store, {**manifests, "correspondences": "less"}, tmp_path / "set")
        found = TrainingSet.open(tmp_path / "set")
        position = found.position(lonely)
        assert (len(found.rois(position)) > 0, len(found.rows(position))) == (True, 0)

    @pytest.mark.parametrize("stage", ["image_level", "object_level"])
    def test_what_becomes_of_the_source_after_ingest_changes_nothing(self, finished, tmp_path, stage):
        small = finished.copy(tmp_path / "copy")
        lose_source(small)
        found, wanted = (
            exported(one, tmp_path / f"set-{number}", stage) for number, one in enumerate((small, finished))
        )
        assert found.counts() == wanted.counts()
        for position in range(len(wanted)):
            assert found.image_bytes(position) == wanted.image_bytes(position)

    @pytest.mark.parametrize("stage", ["image_level", "object_level"])
    def test_a_pack_that_changed_stops_the_export_and_leaves_nothing(self, finished, tmp_path, stage):
        small = finished.copy(tmp_path / "copy")
        record = small.records("packed_scenes")[-1]
        pack = small.store.part_folder("packed_scenes", record.key).local / max(n for n in record.files if n != TABLE)
        data = bytearray(pack.read_bytes())
        pack.unlink()
        data[len(data) // 2] ^= 1
        pack.write_bytes(data)
        with pytest.raises(StoreError, match="changed since it was written"):
            exported(small, tmp_path / "set", stage)
        assert not (tmp_path / "set").exists()
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_finished_export_is_left_as_it_is(finished, tmp_path, monkeypatch):
    exported(finished, tmp_path / "deep" / "set", "image_level")
    before = (tmp_path / "deep" / "set" / META).stat().st_mtime_ns
    monkeypatch.setattr(export, "TrainingSetWriter", None)
    exported(finished, tmp_path / "deep" / "set", "image_level")
    assert (tmp_path / "deep" / "set" / META).stat().st_mtime_ns == before


class TestPacked:
    """Images that stay in the store, behind a cache."""

    def packed(self, small, folder, stage, *settings):
        return exported(small.with_settings(execution={"cache_gb": 1.0}, **dict(settings)), folder, stage)

    @pytest.mark.parametrize("stage", ["image_level", "object_level"])
    def test_gives_what_a_copy_gives(self, finished, tmp_path, stage):
        copied, packed = exported(finished, tmp_path / "copy", stage), self.packed(finished, tmp_path / "set", stage)
        assert not (packed.folder / "images.bin").exists()
        assert packed.counts() == copied.counts()
        assert packed.image_ids.tolist() == copied.image_ids.tolist()
        again = pickle.loads(pickle.dumps(packed))  # noqa: S301 -- as a loader's process gets it
        for position in range(len(copied)):
            wanted = copied.image_bytes(position)
            assert packed.image_bytes(position, alone=True) == wanted
            assert packed.image_bytes(position) == again.image_bytes(position) == wanted
            assert [row.neighbor_id for row in packed.rows(position)] == [r.neighbor_id for r in copied.rows(position)]

    def test_a_cache_that_is_smaller_than_what_is_shuffled_is_refused(self, finished, tmp_path):
        small = finished.with_settings(execution={"cache_gb": 1e-6})
        with pytest.raises(ValueError, match=r"execution.cache_gb: .* shuffle_window above 0"):
            exported(small, tmp_path / "set", "image_level")
        small = small.with_settings(image_level={"shuffle_window": 5})
        with pytest.raises(ValueError, match=r"execution.cache_gb: .* shuffle_window smaller"):
            exported(small, tmp_path / "set", "image_level")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(("window", "needed"), [(1, 4), (RUN, 4), (RUN + 1, 6), (20 * RUN, 10)])
    def test_a_cache_that_holds_two_windows_is_enough(self, finished, window, needed):
        for gigabytes in (needed - 0.1, needed):
            packs = export._Packs(finished.store, gigabytes)
            packs.meta["packs"] = [["key", f"pack{number}", 10**9] for number in range(10)]
            packs._of_images = [np.repeat(np.arange(10, dtype=np.int32), RUN)]
            if gigabytes < needed:
                with pytest.raises(ValueError, match=f"goes through {needed} GB"):
                    packs.check(window)
            else:
                packs.check(window)

    @pytest.mark.parametrize("ways", [{"threads": 2}, {"processes": 2}])
    def test_windows_through_a_cache_give_the_views_of_a_copy(self, finished, tmp_path, ways):
        copied, packed = exported(finished, tmp_path / "copy"), self.packed(finished, tmp_path / "set", "object_level")
        stream = SampleStream(0, "object_level", len(copied), 4, window=6)
        terms, shares = ("global", "intra", "inter"), [Share(step) for step in range(8)]
        makers = [ViewMaker(one, 0, "object_level", terms, 16, 16) for one in (copied, packed)]
        wanted, found = view_batches(makers[0], stream, shares), view_batches(makers[1], stream, shares, **ways)
        for one, other in zip(found, wanted, strict=True):
            for term in terms:
                for mine, theirs in zip(one.images[term], other.images[term], strict=True):
                    np.testing.assert_array_equal(mine.numpy(), theirs.numpy())
