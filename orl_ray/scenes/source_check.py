"""The deep check of a source: every image that was packed is read again where it came from, and compared."""

from collections import Counter
from collections.abc import Iterator

from orl_ray.config import Config
from orl_ray.execution import StageRun
from orl_ray.pipeline import PartPlan
from orl_ray.scenes.decode import MISSING, BadImageError
from orl_ray.scenes.packs import ARTIFACT
from orl_ray.scenes.source_reading import read_entries
from orl_ray.stage_task import stage_task
from orl_ray.storage import Store, digest

_NAMED = 10


def check_part(config: Config, store: Store, part: PartPlan) -> dict[str, list[str]]:
    """Compare the source of one part with what was packed; runs in a task.

    Args:
        config: the config.
        store: the store.
        part: the part of ``packed_scenes``, with the key of its part of the listing.

    Returns:
        ``same``, ``changed``, ``gone`` or ``unreadable`` -> the paths of the images.
    """
    packed = store.read_table(ARTIFACT, part.key, columns=["image_id", "content_hash"])
    hashes = dict(zip(packed["image_id"].to_pylist(), packed["content_hash"].to_pylist(), strict=True))
    listed = store.read_table("listing", part.inputs["listing"]).to_pylist()
    found: dict[str, list[str]] = {}
    for row, data in read_entries(config, store, [row for row in listed if row["image_id"] in hashes]):
        if isinstance(data, BadImageError):
            outcome = "gone" if str(data) == MISSING else "unreadable"
        else:
            outcome = "same" if digest(data) == hashes[row["image_id"]] else "changed"
        found.setdefault(outcome, []).append(row["path"])
    return found


def check_source(run: StageRun, deep: bool) -> list[str]:
    """Check all parts, a task a CPU; nothing is written: the store keeps what it packed.

    Args:
        run: the stage's run.
        deep: nothing is done where this is False.

    Returns:
        Lines for people.
    """
    if not deep:
        return []
    counts: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    for found in _check_parts(run):
        for outcome, paths in found.items():
            counts[outcome] += len(paths)
            examples[outcome] = (examples.get(outcome, []) + paths)[:_NAMED]
        run.progress.advance(sum(map(len, found.values())))
    lines = [f"deep check: {counts.total()} images compared with their source, {counts['same']} the same"]
    for name in sorted(counts.keys() - {"same"}):
        more = ", ..." if counts[name] > len(examples[name]) else ""
        lines.append(f"deep check: {counts[name]} {name}: {', '.join(examples[name])}{more}")
    if counts.total() > counts["same"]:
        lines.append("deep check: the store keeps the images as they were packed; a new store takes the new ones")
    return lines


def _check_parts(run: StageRun) -> Iterator[dict[str, list[str]]]:
    import ray

    task = stage_task(run, check_part)
    present = {record.key for record in run.plan.records}
    waiting = [part for part in run.plan.wanted if part.key in present]
    config, store = ray.put(run.config), ray.put(run.store)
    running = [task.remote(config, store, part) for part in waiting[: 2 * run.cpus]]
    for part in waiting[2 * run.cpus :] + [None] * len(running):
        done, running = ray.wait(running, num_returns=1)
        if part is not None:
            running.append(task.remote(config, store, part))
        yield ray.get(done[0])
