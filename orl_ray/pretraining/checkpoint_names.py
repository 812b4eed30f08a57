"""What checkpoints are called, and by that which of them stay. Needs no torch."""

from collections.abc import Collection

PREFIX, _KEPT = "step-", "-kept"


def checkpoint_name(step: int, *, kept: bool) -> str:
    """Name a checkpoint: names sort by steps."""
    return f"{PREFIX}{step:012d}{_KEPT if kept else ''}"


def is_kept(name: str) -> bool:
    """Tell by its name whether a checkpoint stays beside the latest ones, and after the training."""
    return name.startswith(PREFIX) and name.endswith(_KEPT)


def outdated(names: Collection[str], latest: int, kept: int) -> list[str]:
    """Say which checkpoints go.

    Args:
        names: of checkpoints.
        latest: how many stay of those that a training only goes on from, the newest.
        kept: how many stay of those that are kept, the newest; 0 for all.
    """
    passing = sorted(name for name in names if not is_kept(name))
    lasting = sorted(name for name in names if is_kept(name))
    return passing[:-latest] + (lasting[:-kept] if kept else [])
