"""Where scene images come from: the folders of a source, and the entries that it lists, whatever its kind.

Sources only list, as streams. Whether an image decodes shows when it is read at ingest.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from orl_ray.config import Config
from orl_ray.folders import Folder
from orl_ray.scenes.coco_source import list_coco
from orl_ray.scenes.entries import Entry, SourceImage
from orl_ray.scenes.folder_source import list_folder
from orl_ray.scenes.json_file import JsonFile
from orl_ray.scenes.parquet_source import list_parquet
from orl_ray.scenes.takedowns import taken_down
from orl_ray.scenes.webdataset_source import list_webdataset
from orl_ray.settings import Value, several
from orl_ray.storage import Store, canonical_digest

_MAX_NAMED = 10
# Raised with every change of the renderer that changes pixels, and with it the version of the stage ``packed_scenes``.
_RENDERER = 1


@dataclass(frozen=True, slots=True)
class SourceFolder:
    """One folder of a source.

    Attributes:
        images: the folder.
        prefix: what paths in it begin with: "" where it is the only one, else its last name and a slash.
        annotations: the COCO JSON that lists its images, None where there is none.
    """

    images: Folder
    prefix: str = ""
    annotations: JsonFile | None = None


def source_folders(config: Config, store: Store, split: str = "train") -> list[SourceFolder]:
    """Return the folders of a source in their order; generated scenes lie in one inside the store.

    Raises:
        ValueError: several folders have the same last name.
    """
    if config.source.kind == "generated":
        folder = _generated_folder(config, store, split)
        return [SourceFolder(folder / "images", "", JsonFile(folder, "instances.json"))]
    folders = [Folder(place) for place in several(config.source.images)]
    annotations: list[JsonFile | None] = [JsonFile.at(place) for place in several(config.source.annotations)]
    prefixes = [f"{folder.name}/" if len(folders) > 1 else "" for folder in folders]
    if len(set(prefixes)) < len(folders):
        raise ValueError(f"source.images: {config.source.images}: the last names of several folders must differ")
    pairs = zip(folders, prefixes, annotations or [None] * len(folders), strict=True)
    return [SourceFolder(folder, prefix, file) for folder, prefix, file in pairs]


def entries(config: Config, store: Store, split: str = "train") -> Iterator[Entry]:
    """Stream what a source lists for one split, in source order; generated scenes are rendered first.

    The order is that of the folders; within one, that of the COCO JSON, of the paths, or of containers and of what
    lies in them. Ids may occur twice: see :mod:`orl_ray.scenes.spool`.

    Args:
        config: the config.
        store: the store; generated scenes are written into it.
        split: ``train``, what is pre-trained on, or ``test``. Without ``source.splits`` everything is ``train``.

    Raises:
        ValueError: a folder or file is not there, or is not what it should be.
    """
    if config.source.kind == "generated":
        from orl_ray.scenes.generated import write_collection

        train = config.generated.images
        count, start = (train, 0) if split == "train" else (config.generated.test_images, train)  # ids stay apart
        write_collection(
            _generated_folder(config, store, split), config.seed, split, count, config.generated.side, start
        )
    found = chain.from_iterable(_list(config, folder) for folder in source_folders(config, store, split))
    return restrict(found, JsonFile.at(config.source.splits), split) if config.source.splits else found


def list_source(config: Config, store: Store, split: str) -> list[SourceImage]:
    """List the images of a small split, such as ``test``, by rising id; of several with one id, the first.

    Bad entries are left out: they belong to the listing of the training split. So are images that were taken down.
    """
    refused = taken_down(store)
    first: dict[int, SourceImage] = {}
    for entry in entries(config, store, split):
        if isinstance(entry, SourceImage) and entry.image_id not in refused:
            first.setdefault(entry.image_id, entry)
    return [first[image_id] for image_id in sorted(first)]


def restrict(found: Iterable[Entry], splits: JsonFile, split: str) -> Iterator[Entry]:
    """Keep the entries of one split, in their order. Memory is bounded by the splits file.

    Args:
        found: the source.
        splits: a JSON ``{"train": [paths], "test": [paths], ...}`` with paths as the source lists them.
        split: the key to keep.

    Raises:
        ValueError: the file is no such JSON, the split is unknown, or it names images that are not in the source.
    """
    known = splits.load()
    if not isinstance(known, dict) or split not in known:
        names = ", ".join(map(repr, known)) if isinstance(known, dict) else "none: the file is not a JSON object"
        raise ValueError(f"no split {split!r} in {splits}; it has {names}")
    if not isinstance(known[split], list) or not all(isinstance(name, str) for name in known[split]):
        raise ValueError(f"split {split!r} in {splits} must be a list of file names")
    wanted = set(known.pop(split))
    return _restrict(found, wanted, f"split {split!r} of {splits} names images that are not in the source")


def _restrict(found: Iterable[Entry], wanted: set[str], problem: str) -> Iterator[Entry]:
    missing = set(wanted)
    for entry in found:
        if entry.path in wanted:
            missing.discard(entry.path)
            yield entry
    raise_problems(problem, sorted(missing))


def source_identity(config: Config) -> dict[str, Value]:
    """Say what a source is, beyond its settings: where it lies, and what its splits are.

    What it holds is frozen when it is listed: ``--rescan`` finds what changed.
    """
    source = config.source
    places: dict[str, Value] = {}
    if source.images:
        places["images"] = ", ".join(Folder(place).uri for place in several(source.images))
    if source.annotations:
        places["annotations"] = ", ".join(str(JsonFile.at(place)) for place in several(source.annotations))
    if source.splits:
        places["splits"] = JsonFile.at(source.splits).fingerprint()
    return places


def generated_names(values: Mapping[str, Value]) -> set[str]:
    """Name the folders of rendered scenes that a run used, below ``generated`` in its store.

    Args:
        values: the run's config, flat.
    """
    if values["source.kind"] != "generated":
        return set()
    sizes = {"train": values["generated.images"], "test": values["generated.test_images"]}
    return {_generated_name(split, values["seed"], size, values["generated.side"]) for split, size in sizes.items()}


def image_identity(config: Config) -> dict[str, Value]:
    """Say which images a source's paths name: the same names stand for other scenes under another seed or size.

    Rows of a Parquet file are numbered whichever of its columns the images are in.
    """
    if config.source.kind == "generated":
        return {"seed": config.seed, "side": config.generated.side}
    places = ", ".join(Folder(place).uri for place in several(config.source.images))
    return {"images": places, **({"column": config.source.image_column} if config.source.kind == "parquet" else {})}


def raise_problems(title: str, problems: list[str]) -> None:
    """Raise a ValueError that lists the first ten problems and counts the rest; do nothing where there is none."""
    if problems:
        more = [f"... and {len(problems) - _MAX_NAMED} more"] if len(problems) > _MAX_NAMED else []
        raise ValueError("\n  ".join([f"{title}:", *problems[:_MAX_NAMED], *more]))


def _list(config: Config, folder: SourceFolder) -> Iterator[Entry]:
    source = config.source
    if folder.annotations is not None:
        if folder.images.is_local and not folder.images.local.is_dir():
            raise ValueError(f"no image folder at {folder.images}")
        return list_coco(folder.annotations, folder.prefix)
    if source.kind == "parquet":
        return list_parquet(folder.images, folder.prefix, source.image_column, source.id_column)
    if source.kind == "webdataset":
        return list_webdataset(folder.images, folder.prefix, source.image_column)
    return list_folder(folder.images, folder.prefix)


def _generated_folder(config: Config, store: Store, split: str) -> Folder:
    size = {"train": config.generated.images, "test": config.generated.test_images}[split]
    return store.root / f"generated/{_generated_name(split, config.seed, size, config.generated.side)}"


def _generated_name(split: str, seed: Value, size: Value, side: Value) -> str:
    return f"{split}-{canonical_digest([_RENDERER, seed, split, size, side])}"
