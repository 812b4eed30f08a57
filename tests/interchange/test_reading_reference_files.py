"""Reading the reference's files: what they say, by image id, and everything that is wrong with them, by place."""

import json

import numpy as np
import pytest
from reference_files import write

from orl_ray.interchange.reading import (
    declared,
    names_images,
    read_correspondences,
    read_neighbors,
    read_proposals,
)
from orl_ray.scenes.json_file import JsonFile

IDS = [70, 10, 40]
BOX, OTHER = [1, 2, 3, 4], [5, 6, 7, 8]


@pytest.fixture
def order(tmp_path):
    return write(tmp_path / "coco.json", {"images": [{"id": i, "file_name": f"{i}.jpg"} for i in IDS]})


@pytest.fixture
def file(tmp_path):
    """Return a function that writes a file of content."""
    return lambda content, name="file.json": write(tmp_path / name, content)


def knn(rows, **changes):
    content = {
        "info": {"knn_image_num": 2},
        "images": {"file_name": [f"{i}.jpg" for i in IDS], "id": IDS},
        "pseudo_annotations": {"image_id": IDS, "knn_image_id": rows},
    }
    return {**content, **changes}


def paired(boxes, neighbors, pairs):
    content = knn(neighbors)
    content["pseudo_annotations"] |= {"bbox": boxes, "knn_bbox_pair": pairs}
    return content


WHOLE = paired(
    [[BOX], [BOX, OTHER], [OTHER]],
    [[1, 2], [0], [1, 0]],
    [[[BOX + OTHER], [BOX + BOX]], [[BOX + OTHER, OTHER + BOX]], [[OTHER + BOX], [OTHER + OTHER]]],
)


class TestProposals:
    def read(self, files, orders):
        return [(image_id, boxes.tolist()) for image_id, boxes in read_proposals(files, orders)]

    def test_stand_in_the_order_of_the_coco_json(self, file, order):
        found = self.read([file({"bbox": [[BOX], [OTHER, BOX], [OTHER]]})], [order])
        assert found == [(70, [BOX]), (10, [OTHER, BOX]), (40, [OTHER])]

    def test_are_int32(self, file, order):
        boxes = [boxes for _, boxes in read_proposals([file({"bbox": [[BOX], [[1.0, 2, 3, 4.0]], []]})], [order])]
        assert {(rows.dtype.name, rows.shape[1]) for rows in boxes} == {("int32", 4)}

    def test_a_single_box_without_its_list_is_one_box(self, file, order):
        assert self.read([file({"bbox": [BOX, [OTHER], BOX]})], [order])[0] == (70, [BOX])

    def test_an_image_may_have_none(self, file, order):
        assert self.read([file({"bbox": [[], [BOX], []]})], [order])[0] == (70, [])

    def test_several_files_go_with_as_many_orders(self, file, order):
        second = file({"images": [{"id": 5}]}, "second.json")
        files = [file({"bbox": [[BOX], [BOX], [BOX]]}), file({"bbox": [[OTHER]]}, "more.json")]
        assert [image_id for image_id, _ in self.read(files, [order, second])] == [*IDS, 5]

    def test_one_file_may_hold_what_several_orders_list(self, file, order):
        second = file({"images": [{"id": 5}]}, "second.json")
        found = self.read([file({"bbox": [[BOX], [BOX], [BOX], [OTHER]]})], [order, second])
        assert found[-1] == (5, [OTHER])

    def test_several_files_need_an_order_each(self, file, order):
        files = [file({"bbox": []}), file({"bbox": []}, "more.json")]
        with pytest.raises(ValueError, match="2 files of proposals need as many COCO JSONs for their order, not 1"):
            self.read(files, [order])

    def test_a_file_that_names_its_images_needs_no_order(self, file):
        named = file({"images": {"file_name": ["a", "b"], "id": [9, 4]}, "bbox": [[BOX], [OTHER]]})
        assert names_images(named)
        assert self.read([named], []) == [(9, [BOX]), (4, [OTHER])]

    def test_a_plain_file_does_not_name_its_images(self, file):
        assert not names_images(file({"bbox": [[BOX]]}))
        assert not names_images(file({}, "empty.json"))

    @pytest.mark.parametrize("rows", [[[BOX]] * 2, [[BOX]] * 5])
    def test_as_many_rows_as_images_are_needed(self, file, order, rows):
        with pytest.raises(ValueError, match=rf"{len(rows)} boxes in .*, 3 images in .*coco.json: they must be"):
            self.read([file({"bbox": rows})], [order])

    @pytest.mark.parametrize(
        "row",
        [
            None,
            7,
            "ab",
            {},
            {"x": 1},
            [1, 2, 3],
            [[1, 2, 3]],
            [BOX, [1, 2, 3]],
            [["1", "2", "3", "4"]],
            [[True] * 4],
            [[BOX]],
            [None],
        ],
        ids=str,
    )
    def test_a_row_that_is_no_list_of_boxes_is_told_with_its_place(self, file, order, row):
        with pytest.raises(ValueError, match=r"file.json: bbox\[1\]: not a list of 4 numbers a box"):
            self.read([file({"bbox": [[BOX], row, [BOX]]})], [order])

    @pytest.mark.parametrize("value", [0.5, 2**31, -(2**31) - 1, -(2**63), float("nan"), float("inf")])
    def test_a_coordinate_that_is_no_pixel_is_told(self, file, order, value):
        with pytest.raises(ValueError, match=r"bbox\[2\]: a coordinate that is no whole number of pixels"):
            self.read([file({"bbox": [[BOX], [BOX], [BOX, [0, 0, 1, value]]]})], [order])

    @pytest.mark.parametrize(
        "row",
        [{}, {"id": "7"}, {"id": -1}, {"id": True}, 5, {"id": 2**63}, {"id": 4, "file_name": "../x.jpg"}],
        ids=str,
    )
    def test_an_image_that_the_listing_refuses_keeps_its_place_and_has_no_id(self, file, row):
        order = file({"images": [{"id": 1, "file_name": "a.jpg"}, row, {"id": 3}]}, "coco.json")
        found = self.read([file({"bbox": [[BOX], [OTHER], [BOX]]})], [order])
        assert found == [(1, [BOX]), (-1, [OTHER]), (3, [BOX])]

    def test_a_missing_file_a_missing_list_and_a_broken_one_are_told(self, file, order, tmp_path):
        with pytest.raises(ValueError, match=r"no file at .*absent.json"):
            self.read([JsonFile.at(str(tmp_path / "absent.json"))], [order])
        with pytest.raises(ValueError, match="is not a file of proposals: no list 'bbox'"):
            self.read([file({"boxes": []})], [order])
        (tmp_path / "cut.json").write_text('{"bbox": [[[1, 2, 3, 4]], [[1, 2')
        with pytest.raises(ValueError, match=r"cut.json is not valid JSON"):
            self.read([JsonFile.at(str(tmp_path / "cut.json"))], [order])


class TestNeighbors:
    def read(self, file):
        return [(image_id, ids.tolist()) for image_id, ids in read_neighbors(file)]

    def test_positions_become_ids(self, file):
        assert self.read(file(knn([[1, 2], [2, 0], [0]]))) == [(70, [10, 40]), (10, [40, 70]), (40, [70])]

    def test_a_file_of_correspondences_serves(self, file):
        assert self.read(file(WHOLE)) == [(70, [10, 40]), (10, [70]), (40, [10, 70])]

    def test_the_order_of_members_does_not_matter(self, file):
        content = knn([[1], [2], [0]])
        turned = {name: content[name] for name in reversed(content)}
        assert self.read(file(turned)) == [(70, [10]), (10, [40]), (40, [70])]

    @pytest.mark.parametrize("position", [3, -1, 70])
    def test_a_position_behind_the_last_image_is_told(self, file, position):
        with pytest.raises(ValueError, match=rf"knn_image_id\[1\]: position {position} of 3 images .* not id"):
            self.read(file(knn([[1], [position], [0]])))

    @pytest.mark.parametrize("row", [None, "01", [0.0], [True], [[0]], {"0": 1}], ids=str)
    def test_a_row_that_is_no_list_of_positions_is_told(self, file, row):
        with pytest.raises(ValueError, match=r"knn_image_id\[2\]: not a list of positions"):
            self.read(file(knn([[1], [0], row])))

    def test_more_neighbours_than_declared_are_told(self, file):
        with pytest.raises(ValueError, match=r"\[0\]: 2 neighbours, info.knn_image_num declares 1"):
            self.read(file(knn([[1, 2], [0], [0]], info={"knn_image_num": 1})))

    def test_a_neighbour_that_stands_twice_is_told(self, file):
        with pytest.raises(ValueError, match=r"\[0\]: a neighbour stands twice"):
            self.read(file(knn([[1, 1], [0], [0]])))

    def test_an_image_that_stands_twice_is_told(self, file):
        ids = [70, 10, 70]
        content = knn([[1], [0], [0]], images={"id": ids})
        content["pseudo_annotations"]["image_id"] = ids
        with pytest.raises(ValueError, match=r"images.id holds 70 twice"):
            self.read(file(content))

    @pytest.mark.parametrize("ids", [[70, 10, 41], [70, 10]])
    def test_two_lists_of_images_must_agree(self, file, ids):
        with pytest.raises(ValueError, match=rf"image_id differ \({len(ids)} and 3 ids\)"):
            self.read(file(knn([[1], [0], [0]], images={"id": ids})))

    @pytest.mark.parametrize("wrong", ["7", 1.0, None, -1, 2**63], ids=str)
    def test_an_id_that_is_none_is_told(self, file, wrong):
        with pytest.raises(ValueError, match=r"images.id\[2\] is .*, no integer in \[0, 2\*\*63\)"):
            self.read(file(knn([[1], [0], [0]], images={"id": [70, 10, wrong]})))

    def test_as_many_rows_as_images_are_needed(self, file):
        with pytest.raises(ValueError, match="2 rows of knn_image_id, 3 images: they must be as many"):
            self.read(file(knn([[1], [0]])))

    def test_a_missing_list_is_told(self, file):
        content = knn([])
        del content["pseudo_annotations"]["knn_image_id"]
        with pytest.raises(ValueError, match=r"is not a k-NN file: no list 'pseudo_annotations.knn_image_id'"):
            self.read(file(content))


class TestCorrespondences:
    def read(self, *files):
        return [
            (
                row.image_id,
                row.rois.tolist(),
                [(near.neighbor_id, near.query_boxes.tolist(), near.neighbor_boxes.tolist()) for near in row.neighbors],
            )
            for row in read_correspondences(files)
        ]

    def changed(self, column, position, value):
        content = json.loads(json.dumps(WHOLE))
        content["pseudo_annotations"][column][position] = value
        return content

    def test_are_rois_and_pairs_by_id(self, file):
        assert self.read(file(WHOLE)) == [
            (70, [BOX], [(10, [BOX], [OTHER]), (40, [BOX], [BOX])]),
            (10, [BOX, OTHER], [(70, [BOX, OTHER], [OTHER, BOX])]),
            (40, [OTHER], [(10, [OTHER], [BOX]), (70, [OTHER], [OTHER])]),
        ]

    def part(self, file, rows, name):
        """Return a file as one part of the reference's job leaves it: full lists of images and neighbours."""
        content = json.loads(json.dumps(WHOLE))
        for column in ("bbox", "knn_bbox_pair"):
            content["pseudo_annotations"][column] = content["pseudo_annotations"][column][rows]
        return file(content, name)

    def test_parts_that_were_not_merged_read_as_the_merged_file(self, file):
        parts = [self.part(file, slice(1), "part0.json"), self.part(file, slice(1, None), "part1.json")]
        assert self.read(*parts) == self.read(file(WHOLE))

    def test_a_single_part_is_told_with_what_to_do(self, file):
        with pytest.raises(ValueError, match=r"3 images, 1 rows of bbox, .* of a file in parts, name all parts"):
            self.read(self.part(file, slice(1), "part0.json"))

    def test_parts_of_different_files_are_told(self, file):
        other = json.loads(json.dumps(WHOLE).replace("70", "71"))
        with pytest.raises(ValueError, match=r"other.json lists other images than .*whole.json: they are no"):
            self.read(file(WHOLE, "whole.json"), file(other, "other.json"))

    def test_parts_of_two_searches_are_told(self, file):
        first = self.part(file, slice(1), "first.json")
        content = self.changed("knn_image_id", 2, [0, 1])
        for column in ("bbox", "knn_bbox_pair"):
            content["pseudo_annotations"][column] = content["pseudo_annotations"][column][1:]
        with pytest.raises(ValueError, match=r"other.json lists other neighbours than .*first.json"):
            self.read(first, file(content, "other.json"))

    @pytest.mark.parametrize(
        ("column", "value", "problem"),
        [
            ("bbox", [], "bbox[1]: no RoI"),
            ("bbox", [[1, 2]], "bbox[1]: not a list of 4 numbers a box"),
            ("knn_bbox_pair", [], "knn_bbox_pair[1]: pairs of 0 neighbours, knn_image_id has 1"),
            ("knn_bbox_pair", None, "knn_bbox_pair[1]: pairs of no list neighbours, knn_image_id has 1"),
            ("knn_bbox_pair", [[]], "knn_bbox_pair[1]: a neighbour without pairs"),
            ("knn_bbox_pair", [[BOX]], "knn_bbox_pair[1][0]: not a list of 8 numbers a pair of boxes"),
            ("knn_image_id", [3], "knn_image_id[1]: position 3 of 3 images"),
        ],
    )
    def test_what_is_wrong_with_a_row_is_told_with_its_place(self, file, column, value, problem):
        with pytest.raises(ValueError) as caught:
            self.read(file(self.changed(column, 1, value)))
        assert problem in str(caught.value)

    def test_boxes_of_a_pair_are_split_without_mixing_them_up(self, file):
        (first, *_) = read_correspondences([file(WHOLE)])
        pair = first.neighbors[0]
        np.testing.assert_array_equal(np.hstack([pair.query_boxes, pair.neighbor_boxes]), [BOX + OTHER])
        assert pair.query_boxes.dtype == np.int32


class TestDeclared:
    def test_reads_a_number_of_info(self, file):
        assert declared(file({"info": {"knn_bbox_pair_ratio": 0.1}}), "knn_bbox_pair_ratio") == 0.1

    @pytest.mark.parametrize("content", [{}, {"info": {}}, {"info": {"k": None}}, {"info": [1]}], ids=str)
    def test_what_is_not_declared_is_none(self, file, content):
        assert declared(file(content), "k") is None

    @pytest.mark.parametrize("value", ["10", True, [1]], ids=str)
    def test_what_is_no_number_is_told(self, file, value):
        with pytest.raises(ValueError, match=r"info.k is .*, no number"):
            declared(file({"info": {"k": value}}), "k")
