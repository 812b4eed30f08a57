"""Small sources of every kind, wherever they lie, and configs that name them."""

import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from small_store import SmallStore

from orl_ray.config import Config, Source

PARQUET_GROUP = 4


def photograph(number, side=20):
    """Return a PNG of a width and colours of its own."""
    pixels = np.random.default_rng(number).integers(0, 256, (side, 30 + number, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write_photographs(folder, names):
    """Write a photograph a name into a folder on the disk."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(photograph(number))


def tar_bytes(files):
    """Pack {name: bytes} into a tar."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def parquet_file_bytes(images, **columns):
    """Write images, None for a null, into a Parquet file of several row groups."""
    stream = io.BytesIO()
    table = pa.table({"image": pa.array(images, pa.binary()), **columns})
    pq.write_table(table, stream, row_group_size=PARQUET_GROUP)
    return stream.getvalue()


def coco_json(rows, **more):
    """Return a COCO JSON of (id, file name)."""
    images = [{"id": image_id, "file_name": name} for image_id, name in rows]
    return json.dumps({"images": images, "annotations": [], "categories": [], **more})


def config_of(**source):
    """Return the default config with another source."""
    return replace(Config(), source=Source(**source))


def small_store_of(folder, **source):
    """Return a small store whose source is given by its settings."""
    source.setdefault("part_size", 4)
    return SmallStore.new(folder, *(f"source.{name}={value}" for name, value in source.items()))


def small_coco(folder, images, rows, **source):
    """Return a small store of a COCO source, with a JSON beside the store."""
    folder.mkdir(exist_ok=True)
    (folder / "instances.json").write_text(coco_json(rows))
    annotations = folder / "instances.json"
    return small_store_of(folder / "store", kind="coco", images=images, annotations=annotations, **source)
