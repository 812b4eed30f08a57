"""Pins: a stage's result is taken as it is, by its content hash, instead of being made again.

A collection that grows would otherwise train its encoder again with every image that is added. With the encoder and
the centroids pinned, the parts that were there keep their keys, and only new parts are embedded. Imported proposals,
neighbours, RoIs and correspondences are pinned, too: no inputs of ours lead to them. An object-level result can be
pinned as the encoder: it is copied to where encoders lie, under a key of its content, before anything reads it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from orl_ray.config import FREEZABLE, IMPORTABLE, Config, Mining
from orl_ray.pipeline import collection_hash
from orl_ray.storage import PartRecord, Store, canonical_digest

# Of the facts of an imported part: what it was read from.
IMPORT = "import"
# Of the same facts: the content hash of the part that it was made for. Also the name of that part's artifact.
MADE_FOR = "scenes"
# Of the same facts: the largest values of settings of ``mining`` that what was imported serves.
HOLDS = "holds"
# Of the same facts: artifact -> content hash of the part that came from the same rows.
BESIDE = "beside"
# Of the facts of an encoder that was copied from an object-level result: key of that.
COPIED_FROM = "copied_from"
IMAGE_LEVEL, OBJECT_LEVEL = "image_level", "object_level"


class PinError(ValueError):
    """What a config freezes is not there, or does not go with the config."""


@dataclass(frozen=True, slots=True)
class Pin:
    """A result that stands for a stage, whatever the stage's inputs are now.

    Attributes:
        stage: name of the stage.
        key: key of its manifest.
        content_hash: hash of its content as a whole.
        records: its parts.
    """

    stage: str
    key: str
    content_hash: str
    records: tuple[PartRecord, ...]

    @property
    def made_for(self) -> str:
        """The artifact that its parts go with, part by part: ``scenes`` for what is imported, else ""."""
        return MADE_FOR if self.stage in IMPORTABLE else ""

    def check(self, records: Sequence[PartRecord]) -> None:
        """Check that an imported result was made for exactly these parts of the scenes.

        Raises:
            PinError: it was made for others.
        """
        made = {record.index: record.facts[MADE_FOR] for record in self.records}
        now = {record.index: record.content_hash for record in records}
        if made != now:
            either = made.keys() | now.keys()
            differing = sum(made.get(index) != now.get(index) for index in either)
            raise PinError(
                f"freeze: the {self.stage} {self.content_hash} were imported for other scenes than there are now "
                f"({differing} of {len(either)} parts differ): import the file again and freeze what that prints"
            )


def resolve_pins(config: Config, store: Store) -> dict[str, Pin]:
    """Find what ``config.freeze`` names: by content hash where it gives one, else what the newest run used.

    Args:
        config: the config.
        store: the store.

    Returns:
        Stage name -> pin.

    Raises:
        PinError: nothing was found, or what was found does not go with the config; all problems at once.
    """
    pins, problems = {}, []
    for name, wanted in parse_freeze(config.freeze):
        stage = FREEZABLE[name]
        pin = find_result(store, stage, wanted)
        if pin is None and stage == IMAGE_LEVEL and wanted:
            trained = find_result(store, OBJECT_LEVEL, wanted)
            pin = as_encoder(trained) if trained else None
        problem = _mismatch(config, pin) if pin else _not_found(store, name, wanted)
        if problem:
            problems.append(f"freeze: {problem}")
        elif pin:
            pins[stage] = pin
    problems += _unpaired(pins)
    if problems:
        raise PinError("\n".join(problems))
    return pins


def as_encoder(trained: Pin) -> Pin:
    """Return the pin under which an object-level result stands as the encoder; nothing is written yet."""
    key = canonical_digest({"encoder": OBJECT_LEVEL, "content": trained.content_hash})
    records = (
        replace(record, artifact=IMAGE_LEVEL, key=key, seconds=0.0, facts={**record.facts, COPIED_FROM: record.key})
        for record in trained.records
    )
    return Pin(IMAGE_LEVEL, key, trained.content_hash, tuple(records))


def copy_encoder(store: Store, pins: Mapping[str, Pin]) -> None:
    """Copy a pinned object-level result to where encoders lie, unless it is there.

    Raises:
        StoreError: it is gone, or changed since it was written.
    """
    pin = pins.get(IMAGE_LEVEL)
    if pin is None or store.manifest(IMAGE_LEVEL, pin.key) is not None:
        return
    for record in pin.records:
        files = {name: store.read_file(OBJECT_LEVEL, record.facts[COPIED_FROM], name) for name in record.files}
        store.write_part(
            IMAGE_LEVEL,
            record.key,
            record.index,
            files,
            rows=record.rows,
            environment=record.environment,
            facts=record.facts,
        )
    store.write_manifest(IMAGE_LEVEL, pin.key, pin.records)


def _unpaired(pins: Mapping[str, Pin]) -> list[str]:
    """Say where imported pairs of RoIs would go with RoIs of another origin."""
    if "correspondences" not in pins:
        return []
    pairs, rois = pins["correspondences"], pins.get("rois")
    wanted = {record.index: record.facts[BESIDE]["rois"] for record in pairs.records}
    if rois is not None and wanted == {record.index: record.content_hash for record in rois.records}:
        return []
    return [f"freeze: the correspondences {pairs.content_hash} go with the RoIs of the same import: freeze both"]


def parse_freeze(text: str) -> list[tuple[str, str]]:
    """Split ``encoder,centroids@ab12`` into (name, content hash or "")."""
    entries = [entry.strip().partition("@") for entry in text.split(",") if entry.strip()]
    return [(name.strip(), wanted.strip()) for name, _, wanted in entries]


def frozen_needs(config: Config) -> dict[str, tuple[str, ...]]:
    """Return the stages that ``config.freeze`` pins -> the artifacts that they need nonetheless."""
    stages = [FREEZABLE[name] for name, _ in parse_freeze(config.freeze)]
    return {stage: (MADE_FOR,) if stage in IMPORTABLE else () for stage in stages}


def grown_share(pin: Pin, images: int) -> float:
    """Return by how much the collection has grown since a pinned result was made, as a share; 0 where unknown."""
    made_from = int(pin.records[0].facts.get("images", 0)) if pin.records else 0
    return (images - made_from) / made_from if made_from else 0.0


def find_result(store: Store, stage: str, wanted: str) -> Pin | None:
    """Find a result of a stage, or None where there is none; of an importable stage only what was imported.

    Args:
        store: the store.
        stage: name of the stage.
        wanted: the beginning of its content hash; empty takes what the newest run used.
    """
    for key in _keys(store, stage, wanted):
        records = store.manifest(stage, key)
        # Results of our own are found by their inputs; one may well hold the same as an imported one.
        if records and (stage not in IMPORTABLE or IMPORT in records[0].facts):
            content = collection_hash(records)
            if content.startswith(wanted):
                return Pin(stage, key, content, tuple(records))
    return None


def _keys(store: Store, stage: str, wanted: str) -> Iterator[str]:
    """Yield the keys to look at: what runs used, newest first; with a hash given, then every manifest there is."""
    for run in store.runs(None):
        entry = run["stages"].get(stage)
        if entry and entry["content_hash"].startswith(wanted) and entry["content_hash"]:
            yield entry["key"]
    if wanted:
        yield from sorted(name.removesuffix(".json") for name in store.root.names(f"{stage}/manifests"))


def _not_found(store: Store, name: str, wanted: str) -> str:
    if FREEZABLE[name] in IMPORTABLE:
        if wanted:
            return f"no imported {name} with content hash {wanted} are in {store.root}"
        return f"no run in {store.root} has used imported {name} yet: add the hash, as the import printed it"
    if wanted:
        return f"no {name} with content hash {wanted} is in {store.root}"
    return f"no run in {store.root} has made an {name} yet: run once without freezing it"


# Settings that select pairs by similarities, which the reference's files do not hold.
_BOUNDS = ("min_similarity", "max_similarity")


def _mismatch(config: Config, pin: Pin) -> str:
    facts, rows = pin.records[0].facts, pin.records[0].rows
    for name, held in facts.get(HOLDS, {}).items():
        wanted = getattr(config.mining, name)
        if wanted > held:
            return f"the frozen {pin.stage} serve mining.{name}={held:g} at most, the config has {wanted:g}"
    bounds = [name for name in _BOUNDS if getattr(config.mining, name) != getattr(Mining(), name)]
    if pin.stage == "correspondences" and IMPORT in facts and bounds:
        return f"the frozen correspondences were imported without similarities: leave mining.{bounds[0]} at its default"
    if pin.stage == "centroids" and rows != config.mining.shards:
        return f"the frozen centroids are of {rows} shards, mining.shards is {config.mining.shards}"
    encoder = facts.get("encoder", {})
    differing = [name for name, value in encoder.items() if getattr(config.encoder, name) != value]
    return "; ".join(
        f"the frozen encoder has encoder.{name}={encoder[name]}, the config {getattr(config.encoder, name)}"
        for name in differing
    )
