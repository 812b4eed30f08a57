"""The reference's files as plain Python builds them from a store's rows: what exports must equal, and imports read."""

import json
from collections import defaultdict
from fractions import Fraction
from pathlib import Path

from orl_ray.scenes.json_file import JsonFile


def listed_ids(small):
    """Return the ids of the images that the store has, in the order of the COCO JSON."""
    known = {row["image_id"] for row in small.rows("scenes")}
    listed = json.loads(Path(small.config.source.annotations).read_text())["images"]
    return [image["id"] for image in listed if image["id"] in known]


def images(small, ids):
    names = {row["image_id"]: row["path"] for row in small.rows("scenes")}
    return {"file_name": [names[i] for i in ids], "id": ids}


def proposals(small, ids):
    boxes = {row["image_id"]: row["boxes"] for row in small.rows("proposals")}
    return {"bbox": [boxes[i] for i in ids]}


def neighbors(small, ids, k):
    rows = {row["image_id"]: row["neighbor_ids"] for row in small.rows("neighbors")}
    near = [[ids.index(j) for j in rows[i][:k]] for i in ids]
    return {
        "info": {"knn_image_num": k},
        "images": images(small, ids),
        "pseudo_annotations": {"image_id": ids, "knn_image_id": near},
    }


def correspondences(small, ids, k, ratio):
    rois = {row["image_id"]: row["boxes"] for row in small.rows("rois")}
    rows = defaultdict(list)
    for row in small.rows("correspondences"):
        if row["rank"] < k:
            rows[row["image_id"]].append(row)

    def pairs(row):
        count = max(1, int(Fraction(str(ratio)) * len(rois[row["image_id"]])))
        return [a + b for a, b in zip(row["query_boxes"], row["neighbor_boxes"], strict=True)][:count]

    filters = {"bbox_min_size": None, "bbox_min_share": 0.2, "bbox_max_aspect_ratio": 3.0, "bbox_max_iou": 0.5}
    return {
        "info": {**filters, "intra_bbox_num": 12, "knn_image_num": k, "knn_bbox_pair_ratio": ratio},
        "images": images(small, ids),
        "pseudo_annotations": {
            "image_id": ids,
            "bbox": [rois[i] for i in ids],
            "knn_image_id": [[ids.index(row["neighbor_id"]) for row in rows[i]] for i in ids],
            "knn_bbox_pair": [[pairs(row) for row in rows[i]] for i in ids],
        },
    }


def write(path, content):
    """Write JSON with the spaces that Python's defaults give, as the reference does; return the file."""
    path.write_text(json.dumps(content))
    return JsonFile.at(str(path))
