"""Near-duplicates on the report page: how many there are, what became of them, and what some groups look like."""

from collections.abc import Mapping
from html import escape

import numpy as np
from numpy.typing import NDArray

from orl_ray import draws
from orl_ray.scenes.near_duplicate_stage import Groups


def summarise(facts: Mapping[str, int], images: int, skipped: bool) -> str:
    """Say how many near-duplicates there are and whether they may be neighbours.

    Args:
        facts: of the record of ``near_duplicates``.
        images: images of the collection.
        skipped: ``mining.skip_near_duplicates``.

    Returns:
        A sentence or three.
    """
    if not facts["groups"]:
        return f"There are no near-duplicates among {images:,} images."
    groups = "1 group" if facts["groups"] == 1 else f"{facts['groups']:,} groups"
    found = (
        f"{facts['images']:,} of {images:,} images have near-duplicates, in {groups}; the largest holds "
        f"{facts['largest']:,}. A group is all in an evaluation fold or all out of it. "
    )
    pairs = "1 pair" if facts["pairs"] == 1 else f"{facts['pairs']:,} pairs"
    if skipped:
        return found + f"No image has a neighbour of its own group: that kept {pairs} apart."
    return found + f"The {pairs} may be neighbours, as mining.skip_near_duplicates is false."


def drawn_groups(groups: Groups, wanted: int, members: int, seed: int) -> list[NDArray[np.int64]]:
    """Draw the groups that a page shows.

    Args:
        groups: the near-duplicates.
        wanted: groups at most.
        members: images of each group at most, those with the smallest ids.
        seed: the run's seed.

    Returns:
        For each drawn group its (m,) int64 image ids; groups by rising id.
    """
    names = np.unique(groups.groups)
    drawn = draws.uniform(draws.stream(seed, "report", "near_duplicates"), names, 1)[:, 0]
    chosen = np.sort(names[np.argsort(drawn, kind="stable")[:wanted]])
    return [groups.image_ids[groups.groups == name][:members] for name in chosen]


def render(summary: str, gallery: str) -> str:
    """Write the section's body.

    Args:
        summary: from :func:`summarise`.
        gallery: HTML of the pictures, or "" where there are none.
    """
    return f"<p>{escape(summary)}</p>{gallery}"
