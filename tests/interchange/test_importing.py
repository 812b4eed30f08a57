"""Importing: the rows of a file, in parts of the scenes; what does not belong is counted, what cannot be is refused."""

import functools
import io
import random

import pytest
from reference_files import correspondences, listed_ids, neighbors, proposals, write

from orl_ray.interchange import importing
from orl_ray.interchange.importing import import_correspondences, import_neighbors, import_proposals
from orl_ray.interchange.regrouping import regroup
from orl_ray.progress import Console, StageProgress
from orl_ray.scenes.json_file import JsonFile
from orl_ray.storage import TABLE


def progress():
    return StageProgress(Console(io.StringIO()), "import", 0, "images")


@pytest.fixture
def small(coco, tmp_path):
    return coco.copy(tmp_path / "copy")


@pytest.fixture
def ids(coco):
    return listed_ids(coco)


def order(tmp_path, ids):
    return write(tmp_path / "order.json", {"images": [{"id": i, "file_name": "a.jpg"} for i in ids]})


def take(small, kind, content, tmp_path, ids=None):
    """Import content of a kind; proposals in the order of ``ids``."""
    scenes, file = small.records("scenes"), write(tmp_path / f"{kind}.json", content)
    if kind == "proposals":
        return import_proposals(small.store, scenes, [file], [order(tmp_path, ids)], progress())
    if kind == "neighbors":
        return import_neighbors(small.store, scenes, file, progress())
    return import_correspondences(small.store, scenes, [file], progress())


def rows(small, imported, name):
    tables = [small.store.read_table(name, record.key) for record in imported.records[name]]
    return [row for table in tables for row in table.to_pylist()]


def without(rows, *columns):
    return [{name: value for name, value in row.items() if name not in columns} for row in rows]


def manifests(small, name):
    return small.store.root.names(f"{name}/manifests")


def without_levels(small):
    """Return the store's proposals as a file gives them back: it has no levels."""
    return [{**row, "levels": None} for row in small.rows("proposals")]


class TestWhatIsImported:
    def test_proposals_are_those_of_the_file(self, small, ids, tmp_path):
        imported = take(small, "proposals", proposals(small, ids), tmp_path, ids)
        assert rows(small, imported, "proposals") == without_levels(small)
        assert imported.images == 19

    def test_neighbours_are_those_of_the_file_and_their_similarities_unknown(self, small, ids, tmp_path):
        imported = take(small, "neighbors", neighbors(small, ids, 4), tmp_path)
        found = rows(small, imported, "neighbors")
        own = small.rows("neighbors")
        assert [(row["image_id"], row["neighbor_ids"]) for row in found] == [
            (row["image_id"], row["neighbor_ids"][:4]) for row in own
        ]
        assert {tuple(row["similarities"]) for row in found} == {(None,) * 4}

    def test_correspondences_are_the_rois_and_pairs_of_the_file(self, small, ids, tmp_path):
        imported = take(small, "correspondences", correspondences(small, ids, 6, 0.6), tmp_path)
        assert without(rows(small, imported, "rois"), "proposal_index") == without(small.rows("rois"), "proposal_index")
        found, own = rows(small, imported, "correspondences"), small.rows("correspondences")
        assert without(found, "similarities") == without(own, "similarities")
        assert {value for row in found for value in row["similarities"]} == {None}

    def test_parts_are_those_of_the_scenes(self, small, ids, tmp_path):
        imported = take(small, "correspondences", correspondences(small, ids, 3, 0.3), tmp_path)
        scenes = small.records("scenes")
        for records in imported.records.values():
            assert [(record.index, record.rows) for record in records] == [(s.index, s.rows) for s in scenes]
            assert [record.facts["scenes"] for record in records] == [scene.content_hash for scene in scenes]
        for record, scene in zip(imported.records["rois"], scenes, strict=True):
            there = [small.store.read_table(*at)["image_id"] for at in (("rois", record.key), ("scenes", scene.key))]
            assert there[0].equals(there[1])

    def test_records_say_where_they_come_from_and_what_they_hold(self, small, ids, tmp_path):
        imported = take(small, "correspondences", correspondences(small, ids, 3, 0.3), tmp_path)
        file = JsonFile.at(str(tmp_path / "correspondences.json"))
        for records in imported.records.values():
            for record in records:
                assert record.facts["import"]["files"] == [["correspondences.json", file.fingerprint()]]
                assert record.facts["holds"] == {"k": 3, "pair_ratio": 0.3}
        proposed = take(small, "proposals", proposals(small, ids), tmp_path, ids)
        assert proposed.records["proposals"][0].facts["import"]["orders"][0][0] == "order.json"

    def test_several_files_of_proposals_are_one_list(self, small, ids, tmp_path):
        boxes = proposals(small, ids)["bbox"]
        files = [write(tmp_path / f"{n}.json", {"bbox": part}) for n, part in enumerate((boxes[:7], boxes[7:]))]
        orders = [
            write(tmp_path / f"o{n}.json", {"images": [{"id": i} for i in part]})
            for n, part in enumerate((ids[:7], ids[7:]))
        ]
        imported = import_proposals(small.store, small.records("scenes"), files, orders, progress())
        assert rows(small, imported, "proposals") == without_levels(small)


class TestOrder:
    @pytest.mark.parametrize("kind", ["proposals", "neighbors", "correspondences"])
    @pytest.mark.parametrize("most_bytes", [1, 2**30])
    def test_of_the_file_and_memory_leave_the_content_as_it_is(
        self, small, ids, tmp_path, monkeypatch, kind, most_bytes
    ):
        def content(ids):
            if kind == "proposals":
                return proposals(small, ids)
            return neighbors(small, ids, 3) if kind == "neighbors" else correspondences(small, ids, 3, 0.3)

        first = take(small, kind, content(ids), tmp_path, ids)
        monkeypatch.setattr(importing, "regroup", functools.partial(regroup, most_bytes=most_bytes))
        shuffled = random.Random(2).sample(ids, len(ids))
        assert shuffled != ids
        second = take(small, kind, content(shuffled), tmp_path, shuffled)
        assert second.keys != first.keys  # another file
        for name in first.records:
            assert second.content_hash(name) == first.content_hash(name)

    def test_importing_twice_writes_the_same_parts(self, small, ids, tmp_path):
        first = take(small, "correspondences", correspondences(small, ids, 3, 0.3), tmp_path)
        before = set(small.store.root.files())
        second = take(small, "correspondences", correspondences(small, ids, 3, 0.3), tmp_path)
        assert second.keys == first.keys
        assert {info.path for info in small.store.root.files()} == {info.path for info in before}
        assert second.content_hash("rois") == first.content_hash("rois")

    def test_parts_for_other_scenes_lie_beside_the_ones_that_are_there(self, small, ids, tmp_path):
        file, scenes = write(tmp_path / "knn.json", neighbors(small, ids, 3)), small.records("scenes")
        whole = import_neighbors(small.store, scenes, file, progress())
        fewer = import_neighbors(small.store, scenes[:-1], file, progress())
        # Part 0 is of the same images both times, but knows fewer of their neighbours.
        assert whole.neighbors_dropped < fewer.neighbors_dropped
        assert not {record.key for record in whole.records["neighbors"]} & {r.key for r in fewer.records["neighbors"]}
        other = small.with_settings(source={"part_size": 5})
        other.make("scenes")
        again = import_neighbors(small.store, other.records("scenes"), file, progress())
        assert not {record.key for record in whole.records["neighbors"]} & {r.key for r in again.records["neighbors"]}
        assert sorted(rows(small, again, "neighbors"), key=lambda row: row["image_id"]) == sorted(
            rows(small, whole, "neighbors"), key=lambda row: row["image_id"]
        )


class TestWhatDoesNotBelong:
    def test_images_that_the_scenes_lack_are_left_out_with_all_who_name_them(self, small, ids, tmp_path):
        content = neighbors(small, ids, 3)
        stranger = len(ids)  # stands last, and first among the neighbours of the first image
        content["images"]["file_name"].append("stranger.jpg")
        content["images"]["id"] = content["pseudo_annotations"]["image_id"] = [*ids, 9]
        near = content["pseudo_annotations"]["knn_image_id"]
        expected = [ids[position] for position in near[0][:2]]
        near[0] = [stranger, *near[0][:2]]
        near.append([0, 1, 2])
        imported = take(small, "neighbors", content, tmp_path)
        assert (imported.images, imported.unknown, imported.neighbors_dropped) == (19, 1, 1)
        found = {row["image_id"]: row["neighbor_ids"] for row in rows(small, imported, "neighbors")}
        assert found[ids[0]] == expected
        assert 9 not in found

    def test_an_image_among_its_own_neighbours_is_left_out(self, small, ids, tmp_path):
        content = neighbors(small, ids, 3)
        content["pseudo_annotations"]["knn_image_id"][4][1] = 4
        imported = take(small, "neighbors", content, tmp_path)
        found = {row["image_id"]: row["neighbor_ids"] for row in rows(small, imported, "neighbors")}
        assert (imported.neighbors_dropped, len(found[ids[4]])) == (1, 2)

    def test_ranks_close_up_over_neighbours_that_were_left_out(self, small, ids, tmp_path):
        content = correspondences(small, ids, 3, 0.3)
        content["pseudo_annotations"]["knn_image_id"][0][0] = 0
        imported = take(small, "correspondences", content, tmp_path)
        ranks = [row["rank"] for row in rows(small, imported, "correspondences") if row["image_id"] == ids[0]]
        assert ranks == [0, 1]

    def test_of_an_image_that_the_order_lists_twice_the_first_row_counts(self, small, ids, tmp_path):
        content = proposals(small, ids)
        content["bbox"].append([[0, 0, 1, 1]])
        imported = take(small, "proposals", content, tmp_path, [*ids, ids[0]])
        assert imported.repeated == 1
        assert rows(small, imported, "proposals") == without_levels(small)

    def test_an_image_without_a_proposal_goes_to_quarantine(self, small, ids, tmp_path):
        content = proposals(small, ids)
        content["bbox"][2] = []
        imported = take(small, "proposals", content, tmp_path, ids)
        assert (imported.images, imported.without_boxes) == (18, 1)
        assert ids[2] not in {row["image_id"] for row in rows(small, imported, "proposals")}
        told = [
            row
            for record in imported.records["proposals"]
            if record.quarantined
            for row in small.store.quarantine("proposals", record.key).to_pylist()
        ]
        path = next(row["path"] for row in small.rows("scenes") if row["image_id"] == ids[2])
        assert told == [{"image_id": ids[2], "path": path, "reason": "the imported file has no proposal"}]
        assert sum(record.rows for record in imported.records["proposals"]) == 18

    def test_a_single_squeezed_proposal_is_one_box(self, small, ids, tmp_path):
        content = proposals(small, ids)
        content["bbox"][2] = [0, 0, 5, 6]
        imported = take(small, "proposals", content, tmp_path, ids)
        found = {row["image_id"]: row["boxes"] for row in rows(small, imported, "proposals")}
        assert found[ids[2]] == [[0, 0, 5, 6]]


class TestRefusals:
    def refuse(self, small, kind, content, tmp_path, ids=None):
        """Return the message with which an import is refused; nothing can be pinned then."""
        names = ("rois", "correspondences") if kind == "correspondences" else (kind,)
        before = [manifests(small, name) for name in names]
        with pytest.raises(ValueError) as caught:
            take(small, kind, content, tmp_path, ids)
        assert [manifests(small, name) for name in names] == before
        return str(caught.value)

    def test_images_that_the_file_lacks_are_told(self, small, ids, tmp_path):
        told = self.refuse(small, "proposals", proposals(small, ids[3:]), tmp_path, ids[3:])
        assert told.startswith("3 of 19 images of the scenes are not in the file, such as ")
        assert all(str(image_id) in told for image_id in ids[:3])

    def test_a_file_in_another_order_is_told_by_its_boxes(self, small, ids, tmp_path):
        told = self.refuse(small, "proposals", proposals(small, ids), tmp_path, [*ids[1:], ids[0]])
        assert told.startswith("boxes that leave their image or have no area: ")
        assert "is the file in the order of another list?" in told

    def size(self, small, image_id):
        return next((row["width"], row["height"]) for row in small.rows("scenes") if row["image_id"] == image_id)

    @pytest.mark.parametrize(
        ("left", "top", "right", "bottom", "fits"),
        [(0, 0, 0, 0, True), (-1, 0, 0, 0, False), (0, -1, 0, 0, False), (0, 0, 1, 0, False), (0, 0, 0, 1, False)],
    )
    def test_a_box_may_touch_the_border_and_not_cross_it(self, small, ids, tmp_path, left, top, right, bottom, fits):
        width, height = self.size(small, ids[5])
        content = proposals(small, ids)
        content["bbox"][5] = [[left, top, width + right - left, height + bottom - top]]
        if fits:
            take(small, "proposals", content, tmp_path, ids)
            return
        told = self.refuse(small, "proposals", content, tmp_path, ids)
        assert told.startswith("boxes that leave their image or have no area: 1, in the rows of 1 images, such as [")
        assert f"in the row of image {ids[5]}, on {width} x {height} pixels" in told

    @pytest.mark.parametrize("box", [[3, 3, 0, 2], [3, 3, 2, 0], [3, 3, -1, 2], [2**31 - 1, 0, 2**31 - 1, 1]])
    def test_a_box_without_area_or_of_any_size_is_refused(self, small, ids, tmp_path, box):
        content = proposals(small, ids)
        content["bbox"][1] = [[0, 0, 1, 1], box]
        assert "have no area: 1, in the rows of 1 images" in self.refuse(small, "proposals", content, tmp_path, ids)

    def test_a_neighbours_box_must_lie_on_the_neighbour(self, small, ids, tmp_path):
        content = correspondences(small, ids, 3, 0.3)
        first = content["pseudo_annotations"]["knn_bbox_pair"][0][1][0]
        neighbor = ids[content["pseudo_annotations"]["knn_image_id"][0][1]]
        width, height = self.size(small, neighbor)
        first[4:] = [0, 0, width, height + 1]
        told = self.refuse(small, "correspondences", content, tmp_path)
        assert told.startswith("boxes that leave their image or have no area: 1, in the rows of 1 images")
        assert f"in the row of image {ids[0]}, on {width} x {height} pixels" in told

    @pytest.mark.parametrize("place", ["bbox", "knn_bbox_pair"])
    def test_rois_and_query_boxes_must_lie_on_the_image(self, small, ids, tmp_path, place):
        content = correspondences(small, ids, 3, 0.3)
        row = content["pseudo_annotations"][place][0]
        (row[0] if place == "bbox" else row[0][0])[0] = 10_000
        told = self.refuse(small, "correspondences", content, tmp_path)
        assert "such as [10000, " in told

    @pytest.mark.parametrize("name", ["knn_image_num", "knn_bbox_pair_ratio"])
    def test_a_file_must_declare_what_it_holds(self, small, ids, tmp_path, name):
        content = correspondences(small, ids, 3, 0.3)
        del content["info"][name]
        assert f"info.{name} is missing" in self.refuse(small, "correspondences", content, tmp_path)


def test_what_a_refused_file_left_behind_is_overwritten_by_the_right_one(small, ids, tmp_path):
    with pytest.raises(ValueError, match="not in the file"):
        take(small, "neighbors", neighbors(small, ids[:-1], 0), tmp_path)
    imported = take(small, "neighbors", neighbors(small, ids, 3), tmp_path)
    for record in imported.records["neighbors"]:
        assert small.store.record("neighbors", record.key) == record
        assert small.store.read_file("neighbors", record.key, TABLE)
