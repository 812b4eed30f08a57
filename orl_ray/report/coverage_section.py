"""Coverage on the report page: how many images and neighbours have RoI pairs, as mined and as training takes them."""

from collections.abc import Iterable
from html import escape

from orl_ray.config import Mining
from orl_ray.mining.pair_selection import Coverage, coverage_of
from orl_ray.storage import PartRecord, Store


def measure(store: Store, correspondences: Iterable[PartRecord], mining: Mining) -> tuple[Coverage, Coverage]:
    """Count the pairs that are stored and those that training takes, part by part.

    Args:
        store: the store.
        correspondences: all parts.
        mining: its ``k``, ``pair_ratio``, ``min_similarity`` and ``max_similarity`` select.

    Returns:
        The coverage of all that is stored up to ``k_max`` and ``ratio_max``, and that of the selection.
    """
    widest = Mining(k=mining.k_max, pair_ratio=mining.ratio_max)  # without bounds on similarities
    stored, selected = [Coverage(0, 0, 0, 0)], [Coverage(0, 0, 0, 0)]
    columns = ("image_id", "rank", "rois", "similarities")
    for record in correspondences:
        table = store.read_table("correspondences", record.key, columns=columns)
        stored.append(coverage_of(table, widest))
        selected.append(coverage_of(table, mining))
    mined, taken = (Coverage(*map(sum, zip(*parts, strict=True))) for parts in (stored, selected))
    return mined, taken


def summarise(mined: Coverage, taken: Coverage, images: int) -> str:
    """Say how many images and neighbours have pairs.

    Args:
        mined: what is stored.
        taken: what training takes.
        images: images of the collection.

    Returns:
        A sentence or three.
    """
    if not mined.pairs:
        return "No regions were paired."
    if not taken.asked:
        return f"None of the {mined.pairs:,} stored pairs is with one of the mining.k nearest images."
    share = (
        f"{taken.neighbors:,} of {taken.asked:,} (image, neighbour) have pairs ({taken.neighbors / taken.asked:.1%})"
    )
    found = (
        f"Training takes {taken.pairs:,} of {mined.pairs:,} stored pairs, {taken.pairs / images:.1f} an image. "
        f"{taken.images:,} of {images:,} images have at least one ({taken.images / images:.1%}); {share}."
    )
    if taken.neighbors < taken.asked or taken.images < images:
        found += (
            " An image draws among the neighbours with which it has pairs; one that has none takes no part in the loss "
            "between images."
        )
    return found


def render(summary: str, gallery: str) -> str:
    """Write the section's body.

    Args:
        summary: from :func:`summarise`.
        gallery: HTML of the pictures, or why there are none.
    """
    return f"<p>{escape(summary)}</p>{gallery}"
