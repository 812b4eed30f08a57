"""The stage ``listing``: what a source holds, frozen in numbered parts."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from orl_ray import schema
from orl_ray.config import Config
from orl_ray.execution import StageRun
from orl_ray.pipeline import Stage, one_cpu
from orl_ray.scenes.labels import has_labels, read_labels
from orl_ray.scenes.reading import annotation_file, collection_folder, image_folder
from orl_ray.scenes.sources import SourceImage, list_coco, list_folder, restrict, take
from orl_ray.settings import Value
from orl_ray.storage import TABLE, PartRecord, Store, digest_file, parquet_bytes


def source_identity(config: Config) -> dict[str, Value]:
    """Say what a source is, beyond its settings: where its images lie and what its files hold."""
    files = {"annotations": config.source.annotations, "splits": config.source.splits}
    hashes: dict[str, Value] = {name: digest_file(Path(path)) for name, path in files.items() if path}
    return {"images": str(Path(config.source.images).absolute()), **hashes} if config.source.images else hashes


def list_source(config: Config, store: Store, split: str = "train") -> list[SourceImage]:
    """List the images of one split of a source, by rising id; generated scenes are rendered first.

    Args:
        config: the config.
        store: the store; generated scenes are written into it.
        split: ``train``, what is pre-trained on, or ``test``. Without ``source.splits`` everything is ``train``.

    Raises:
        ValueError: the source is empty or broken.
    """
    if config.source.kind == "generated":
        from orl_ray.scenes.generated import write_collection

        train = config.generated.images
        count, start = (train, 0) if split == "train" else (config.generated.test_images, train)  # ids stay apart
        folder = collection_folder(config, store, split)
        write_collection(folder, config.seed, split, count, config.generated.side, start)
    folder, annotations = image_folder(config, store, split), annotation_file(config, store, split)
    images: Iterable[SourceImage] = list_coco(annotations, folder) if annotations else list_folder(folder)
    if config.source.splits:
        images = restrict(images, config.source.splits, split)
    chosen = take(images, config.source.limit if split == "train" else 0, config.seed)
    if not chosen:
        raise ValueError(f"no images found in {folder}: name another folder in source.images")
    return chosen


def write_listing(config: Config, store: Store, key: str) -> list[PartRecord]:
    """List a source and write it in parts of ``source.part_size`` images; runs in a task, never in the driver."""
    listed, size, records = list_source(config, store), config.source.part_size, []
    if len(listed) <= config.mining.k:
        raise ValueError(f"mining.k is {config.mining.k}, but the source has only {len(listed)} images: lower it")
    if (annotations := annotation_file(config, store)) and has_labels(annotations):
        read_labels(annotations)  # labels that are broken are told now, not after the trainings
    for index, start in enumerate(range(0, len(listed), size)):
        images = listed[start : start + size]
        columns = [[image.image_id for image in images], [image.path for image in images]]
        table = pa.table(columns, schema=schema.LISTING)
        files = {TABLE: parquet_bytes(table)}
        records.append(store.write_part("listing", f"{key}-{index:06d}", index, files, rows=len(images)))
    return records


def run_listing(run: StageRun) -> None:
    """List the source in one task, and write the manifest."""
    import ray

    task = ray.remote(num_cpus=1)(write_listing)
    records = ray.get(task.remote(run.config, run.store, run.plan.key))
    run.store.write_manifest("listing", run.plan.key, records)


LISTING = Stage(
    name="listing",
    title="list the source",
    version=1,
    inputs=(),
    settings=("seed", "source.kind", "source.limit", "source.part_size", "generated.images", "generated.side"),
    scope="collection",
    budget=one_cpu,
    identity=source_identity,
    work=run_listing,
)
