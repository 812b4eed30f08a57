"""Do mined pairs of RoIs show objects, and objects of one class? Against three controls, by people's annotations.

``python -m benchmarks.pair_quality --store STORE --annotations COCO.json [--untrained FOLDER] [--gallery FILE.jpg]``
reads a store whose newest finished run made ``correspondences``, and the boxes of a COCO JSON with the same image ids.
Pairs are those that training draws from: ``mining.k`` neighbours, ``mining.pair_ratio`` of the RoIs. Four kinds:

- ``mined``: what the store holds.
- ``untrained``: the same images, RoIs and settings, discovered by the weights that image-level training starts from:
  its own neighbours, its own pairs. Made by the main job in the folder ``--untrained``, which a second call re-uses.
- ``largest``: the images and neighbours of ``mined``; the n largest RoIs of both by rank, where ``mined`` has n pairs.
- ``matched``: for each mined pair its query RoI, and from a random image the RoI that is nearest to the mined
  neighbour's in area and centre position (:func:`benchmarks.pair_controls.matched_pairs`).

A RoI is an object if its IoU with an annotated object, no person and no crowd, is at least 0.5. The last line is JSON:
``images``, those that have pairs of every kind and count once each; ``rois_an_image``, a mean; ``object_share``, the
share of all RoIs that are objects; and of each kind the rates of :func:`benchmarks.pair_objects.rates`, as [value, low,
high], and by how much ``mined`` exceeds them (``_gain``). Where few pairs have two objects (``object_pairs``),
``same_class`` says little, and its interval is too narrow. The annotations are read here and nowhere before.

``--gallery`` draws a few query images, by ``--seed``: pairs with the nearest image of each kind, side by side.
"""

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from benchmarks.pair_controls import Discovery, largest_pairs, matched_pairs, read_discovery
from benchmarks.pair_objects import Objects, Paired, object_share, rates, tally
from benchmarks.untrained_discovery import discover_untrained
from orl_ray import draws
from orl_ray.report.galleries import pair_picture
from orl_ray.scenes.reading import decoded_scenes
from orl_ray.storage import Store

_CELL, _CAPTION, _GROUND, _INK = (640, 340), 34, "#16181d", "#f4f5f7"
_PAIRS_SHOWN = 3


def main() -> int:
    """Compare the pairs and print the rates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--store", type=Path, required=True, help="a local store with a trained encoder and its pairs")
    parser.add_argument("--annotations", type=Path, required=True, help="a COCO JSON with boxes of the same images")
    parser.add_argument("--untrained", type=Path, help="where the untrained encoder's store is, or is made and left")
    parser.add_argument("--person", default="person", help="class that does not count")
    parser.add_argument("--samples", type=int, default=2000, help="bootstrap samples")
    parser.add_argument("--seed", type=int, default=0, help="of random images, samples and gallery")
    parser.add_argument("--gallery", type=Path, help="a JPEG to draw")
    parser.add_argument("--gallery-images", type=int, default=4)
    options = parser.parse_args()
    store = Store(options.store)
    mined = read_discovery(store)
    objects = read_objects(options.annotations, mined.sizes, options.person)
    with tempfile.TemporaryDirectory(prefix="orl-untrained-") as folder:
        untrained = read_discovery(discover_untrained(store, options.untrained or Path(folder) / "store"))
    if mined.rois.keys() != untrained.rois.keys():
        raise ValueError(f"{options.untrained} holds other images than {options.store}: name a new folder")
    kinds = {
        "mined": mined.pairs,
        "untrained": untrained.pairs,
        "largest": largest_pairs(mined.pairs, mined.rois),
        "matched": matched_pairs(mined.pairs, mined.rois, mined.sizes, options.seed),
    }
    images = sorted(mined.rois)
    tallies = {kind: tally(pairs, objects, images) for kind, pairs in kinds.items()}
    counted = int(np.all([~np.isnan(entry.both) for entry in tallies.values()], axis=0).sum())
    result = {
        "images": counted,
        "rois_an_image": round(float(np.mean([len(boxes) for boxes in mined.rois.values()])), 1),
        "object_share": round(object_share(mined.rois, objects), 4),
        **rates(tallies, "mined", options.samples, options.seed),
    }
    if options.gallery:
        options.gallery.write_bytes(gallery(store, mined, kinds, options.gallery_images, options.seed))
    print(json.dumps(result))
    return 0


def read_objects(annotations: Path, sizes: Mapping[int, tuple[int, int]], person: str | None) -> dict[int, Objects]:
    """Read the objects of the images of a store.

    Args:
        annotations: a COCO JSON.
        sizes: image id -> (width, height) of the images that are wanted.
        person: name of the class that is left out; None where there is no such class.

    Returns:
        Image id -> its objects, without crowds and persons; images that have none are left out.

    Raises:
        ValueError: an image is not annotated, or at another size; or there is no class of that name.
    """
    file = json.loads(annotations.read_bytes())
    left_out = {entry["id"] for entry in file["categories"] if entry["name"] == person}
    if person is not None and not left_out:
        raise ValueError(f"{annotations}: no class is called {person!r}")
    annotated = {entry["id"]: (entry["width"], entry["height"]) for entry in file["images"]}
    for image_id, size in sizes.items():
        if annotated.get(image_id) != size:
            raise ValueError(f"image {image_id} is {size} in the store, {annotated.get(image_id)} in {annotations}")
    found: dict[int, list[tuple[list[float], int]]] = {}
    for entry in file["annotations"]:
        kept = entry["image_id"] in sizes and entry["category_id"] not in left_out and not entry.get("iscrowd")
        if kept and min(entry["bbox"][2:]) > 0:
            found.setdefault(entry["image_id"], []).append((entry["bbox"], entry["category_id"]))
    return {
        image_id: Objects(np.array([box for box, _ in entries], np.float64), np.array([kind for _, kind in entries]))
        for image_id, entries in found.items()
    }


def gallery(store: Store, mined: Discovery, kinds: Mapping[str, Sequence[Paired]], count: int, seed: int) -> bytes:
    """Draw pairs of every kind for a few query images, a row an image; returns a JPEG file."""
    ids = np.array(sorted({entry.query for entry in mined.pairs}), np.int64)
    order = np.argsort(draws.uniform(draws.stream(seed, "benchmark", "gallery"), ids, 1)[:, 0])
    chosen = ids[order[:count]].tolist()
    first: dict[tuple[str, int], Paired] = {}
    for kind, pairs in kinds.items():
        for entry in pairs:
            if entry.query in chosen and len(entry.query_boxes):
                first.setdefault((kind, entry.query), entry)
    photographs = _photographs(store, mined, {image_id for entry in first.values() for image_id in entry[:2]})
    canvas = Image.new("RGB", (_CELL[0] * len(kinds), _CAPTION + _CELL[1] * len(chosen)), _GROUND)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=22)
    for column, kind in enumerate(kinds):
        draw.text((_CELL[0] * column + 16, 6), kind, font=font, fill=_INK)
        for row, image_id in enumerate(chosen):
            if (kind, image_id) in first:
                picture = _picture(first[kind, image_id], photographs)
                canvas.paste(picture, (_CELL[0] * column, _CAPTION + _CELL[1] * row))
    buffer = io.BytesIO()
    canvas.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _photographs(store: Store, mined: Discovery, wanted: set[int]) -> dict[int, NDArray[np.uint8]]:
    found: dict[int, NDArray[np.uint8]] = {}
    for record in mined.scenes:
        ids = store.read_table("scenes", record.key, columns=["image_id"])["image_id"].to_pylist()
        here = wanted.intersection(ids)
        if here:
            found.update(decoded_scenes(store, record.key, mined.config.source.max_pixels, here))
    return found


def _picture(entry: Paired, photographs: Mapping[int, NDArray[np.uint8]]) -> Image.Image:
    boxes = zip(entry.query_boxes.tolist(), entry.neighbor_boxes.tolist(), strict=True)
    shown = [(tuple(query), tuple(neighbor), None) for query, neighbor in boxes][:_PAIRS_SHOWN]
    picture = Image.open(io.BytesIO(pair_picture(photographs[entry.query], photographs[entry.neighbor], shown)))
    picture.thumbnail((_CELL[0] - 8, _CELL[1] - 4))
    return picture


if __name__ == "__main__":
    sys.exit(main())
