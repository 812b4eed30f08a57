"""Images that somebody asked to be taken out of a store: which, since when, and why.

A takedown outlives every clean-up: as long as it is there, the image is not packed again, whatever a source lists.
"""

import time

from orl_ray.storage import Store

# In the record of a packed part: how many images of its listing are not in it because they were taken down.
TAKEN_DOWN = "taken_down"
_FOLDER = "takedowns"


def ask_takedown(store: Store, image_id: int, reason: str) -> None:
    """Note that an image must not be in a store; a first note stays as it is.

    Args:
        store: the store.
        image_id: the image, whether it is in the store or not.
        reason: for people.
    """
    path = f"{_FOLDER}/{image_id}.json"
    if store.read_json(path) is None:
        asked = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        store.write_json(path, {"image_id": image_id, "asked": asked, "reason": reason})


def taken_down(store: Store) -> frozenset[int]:
    """Return the ids of all images that must not be in a store, by one listing."""
    return frozenset(int(name.removesuffix(".json")) for name in store.root.names(_FOLDER) if name.endswith(".json"))
