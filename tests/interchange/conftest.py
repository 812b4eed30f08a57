"""A store over a COCO JSON whose ids, order and parts all differ, and which holds a broken image."""

import json
import random
import shutil

import pytest
from small_store import SmallStore

from orl_ray.scenes.sources import source_folders

BROKEN = 3


@pytest.fixture(scope="session")
def coco(tmp_path_factory, finished):
    """Return a store up to the object-level training, to be read only; ``annotations`` lists 20 images, 19 decode."""
    (rendered,) = source_folders(finished.config, finished.store)
    content = json.loads((rendered.annotations.folder.local / rendered.annotations.name).read_text())
    folder = tmp_path_factory.mktemp("coco")
    images = shutil.copytree(rendered.images.local, folder / "images")
    (images / content["images"][BROKEN]["file_name"]).write_bytes(b"")
    new_ids = {image["id"]: 5000 + 37 * (7 * image["id"] % 20) for image in content["images"]}
    for image in content["images"]:
        image["id"] = new_ids[image["id"]]
    for annotation in content["annotations"]:
        annotation["image_id"] = new_ids[annotation["image_id"]]
    random.Random(1).shuffle(content["images"])
    annotations = folder / "instances.json"
    annotations.write_text(json.dumps(content))
    small = SmallStore.new(
        folder / "store", "source.kind=coco", f"source.images={images}", f"source.annotations={annotations}"
    )
    small.make("object_level")
    return small
