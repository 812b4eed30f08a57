"""Proposals and RoIs of a part: inside their images, in seeded order, whatever becomes of the source."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_store import lose_source, part_without_images

from orl_ray import schema
from orl_ray.columns import box_lists_of
from orl_ray.part_runner import WorkerContext
from orl_ray.pipeline import PartPlan
from orl_ray.proposals.roi_filter import filter_rois
from orl_ray.proposals.stages import filter_part, propose_part


def run(small, process, **inputs):
    """Run a process over the first part of its inputs."""
    context = WorkerContext(small.config, small.store, {})
    return process(context, None, PartPlan(0, "out", inputs))


def first(small, name):
    return small.records(name)[0].key


def written(small, name, output):
    small.store.write_part(name, f"out-{name}", 0, output.files, rows=output.rows)
    return small.store.read_table(name, f"out-{name}")


class TestProposals:
    def test_every_image_has_boxes_inside_itself(self, finished):
        sizes = {row["image_id"]: (row["width"], row["height"]) for row in finished.rows("scenes")}
        tables = finished.tables("proposals")
        assert [i for table in tables for i in table["image_id"].to_pylist()] == sorted(sizes)
        for table in tables:
            assert table.schema == schema.PROPOSALS
            assert [len(levels) for levels in table["levels"].to_pylist()] == [
                len(boxes) for boxes in table["boxes"].to_pylist()
            ]
            assert all(min(levels) == 1 for levels in table["levels"].to_pylist())
            for image_id, boxes in zip(table["image_id"].to_pylist(), box_lists_of(table, "boxes"), strict=True):
                assert len(boxes) >= 1
                assert (boxes[:, :2] >= 0).all()
                assert (boxes[:, 2:] >= 1).all()
                assert (boxes[:, :2] + boxes[:, 2:] <= sizes[image_id]).all()

    def test_making_a_part_again_gives_the_same_bytes(self, finished):
        output = run(finished, propose_part, scenes=first(finished, "scenes"))
        record = finished.records("proposals")[0]
        assert bytes(output.files["part.parquet"]) == finished.store.read_file("proposals", record.key, "part.parquet")
        boxes = box_lists_of(finished.tables("proposals")[0], "boxes")
        assert output.facts == record.facts == {"boxes": sum(map(len, boxes))}

    def test_what_becomes_of_the_source_after_ingest_changes_nothing(self, finished, tmp_path):
        small = finished.copy(tmp_path / "copy")
        lose_source(small)
        output = run(small, propose_part, scenes=first(small, "scenes"))
        record = finished.records("proposals")[0]
        assert bytes(output.files["part.parquet"]) == finished.store.read_file("proposals", record.key, "part.parquet")

    def test_a_part_without_images_has_no_proposals_and_can_be_filtered(self, finished, tmp_path):
        small = finished.copy(tmp_path / "copy")
        scenes = part_without_images(small)
        proposals = written(small, "proposals", run(small, propose_part, scenes=scenes))
        assert (len(proposals), proposals.schema) == (0, schema.PROPOSALS)
        rois = written(small, "rois", run(small, filter_part, scenes=scenes, proposals="out-proposals"))
        assert (len(rois), rois.schema) == (0, schema.ROIS)


class TestRois:
    @pytest.mark.parametrize("values", [{}, {"max_iou": 0.2}, {"max_rois": 2}, {"min_share": 0.0, "min_size": 40}])
    def test_are_what_the_filter_keeps_of_each_images_proposals(self, finished, values):
        small = finished.with_settings(rois=values)
        output = run(small, filter_part, scenes=first(small, "scenes"), proposals=first(small, "proposals"))
        proposals, scenes = small.tables("proposals")[0], small.tables("scenes")[0].to_pylist()
        table = read(output)
        assert table.schema == schema.ROIS
        wanted = [
            filter_rois(boxes, row["width"], row["height"], small.config.rois)
            for boxes, row in zip(box_lists_of(proposals, "boxes"), scenes, strict=True)
        ]
        for boxes, index, selection in zip(
            box_lists_of(table, "boxes"), table["proposal_index"].to_pylist(), wanted, strict=True
        ):
            np.testing.assert_array_equal(boxes, selection.boxes)
            assert index == selection.proposal_index.tolist()
        assert output.facts == {"rois": sum(len(selection.boxes) for selection in wanted)}

    def test_point_back_to_their_proposals(self, finished):
        proposals = {row["image_id"]: row["boxes"] for row in finished.rows("proposals")}
        for row in finished.rows("rois"):
            assert 1 <= len(row["boxes"]) <= finished.config.rois.max_rois
            assert [proposals[row["image_id"]][index] for index in row["proposal_index"]] == row["boxes"]


def read(output):
    return pq.read_table(pa.BufferReader(output.files["part.parquet"]))
