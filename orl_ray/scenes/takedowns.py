"""Images that somebody asked to be taken out of a store: which, since when, and why.

A takedown outlives every clean-up: as long as it is there, the image is not packed again, whatever a source lists.
"""

import time
from collections.abc import Collection, Iterable, Mapping

from orl_ray.storage import Store

# In the record of a packed part: how many images of its listing are not in it because they were taken down.
TAKEN_DOWN = "taken_down"
_FOLDER, _UNFINISHED = "takedowns", "takedowns/unfinished"


class UnfinishedTakedownError(RuntimeError):
    """Images are half gone from a store."""


def ask_takedown(store: Store, image_id: int, reason: str, shares: Mapping[str, Collection[str]]) -> None:
    """Note that an image must not be in a store; of a second note, only the shares are added to the first.

    Args:
        store: the store.
        image_id: the image, whether it is in the store or not.
        reason: for people.
        shares: artifact -> keys of what was made of whole collections with the image in them.
    """
    path, asked = f"{_FOLDER}/{image_id}.json", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    note = store.read_json(path) or {"image_id": image_id, "asked": asked, "reason": reason, "shares": {}}
    for artifact, keys in shares.items():
        note["shares"][artifact] = sorted({*note["shares"].get(artifact, ()), *keys})
    store.write_json(path, note)


def begin_takedown(store: Store, image_ids: Iterable[int]) -> None:
    """Say that images are about to go: until :func:`end_takedown` no run starts."""
    for image_id in image_ids:
        store.write_json(f"{_UNFINISHED}/{image_id}.json", {"image_id": image_id})


def end_takedown(store: Store, image_ids: Iterable[int]) -> None:
    """Say that nothing of images is left."""
    for image_id in image_ids:
        store.root.delete(f"{_UNFINISHED}/{image_id}.json")


def refuse_unfinished(store: Store) -> None:
    """Keep a run from using images that are half gone.

    Raises:
        UnfinishedTakedownError: a takedown was cut off.
    """
    names = sorted(name.removesuffix(".json") for name in store.root.names(_UNFINISHED))
    if names:
        raise UnfinishedTakedownError(
            f"a takedown was cut off; finish it first: python -m orl_ray delete {store.root} {' '.join(names)} --delete"
        )


def noted_shares(store: Store, image_ids: Iterable[int], artifact: str) -> set[str]:
    """Return the keys of an artifact that images which were taken down had a share in."""
    notes = (store.read_json(f"{_FOLDER}/{image_id}.json") for image_id in image_ids)
    return {key for note in notes if note is not None for key in note["shares"].get(artifact, ())}


def taken_down(store: Store) -> frozenset[int]:
    """Return the ids of all images that must not be in a store, by one listing."""
    return frozenset(int(name.removesuffix(".json")) for name in store.root.names(_FOLDER) if name.endswith(".json"))
