"""An encoder from elsewhere takes the place of image-level pre-training: published weights, or supervised ones.

It becomes a result of ``image_level`` that no stage made, under a key of its own content, and a run uses it by a pin
(``freeze=encoder@HASH``), as it uses other imports.
"""

from safetensors.torch import save

from orl_ray.config import Encoder
from orl_ray.encoders.weight_files import OutsideEncoder, read_encoder
from orl_ray.folders import file_at
from orl_ray.interchange.importing import Imported
from orl_ray.pins import IMAGE_LEVEL, IMPORT
from orl_ray.storage import Store, canonical_digest, digest


def import_encoder(store: Store, place: str, wanted: Encoder) -> tuple[Imported, OutsideEncoder]:
    """Import a file of weights as a result of ``image_level``. Importing it again gives the same.

    Args:
        store: the store; it needs no scenes yet.
        place: as :func:`~orl_ray.encoders.weight_files.read_encoder` takes it.
        wanted: the encoder that the settings describe.

    Returns:
        What was written, and the encoder.

    Raises:
        ValueError: as ``read_encoder``, or the weights are of another network than the settings say.
    """
    found = read_encoder(place)
    described = describe(found)
    differing = [f"encoder.{name}={value}" for name, value in described.items() if getattr(wanted, name) != value]
    if differing:
        raise ValueError(f"{place}: to use these weights, set {' '.join(differing)}")
    return store_encoder(store, found, file_at(place)[1]), found


def describe(found: OutsideEncoder) -> dict[str, str | int]:
    """Return the settings of the section ``encoder`` that weights need: of a projector only where they have one."""
    sizes = {}
    if found.projector:
        sizes = {"hidden": len(found.projector["0.weight"]), "output": len(found.projector["3.weight"])}
    return {"backbone": found.architecture, **sizes}


def store_encoder(store: Store, found: OutsideEncoder, name: str) -> Imported:
    """Write weights as a result of ``image_level``, under a key of their content.

    Args:
        store: the store.
        found: the weights.
        name: of their file, for people.
    """
    modules = {"online.backbone.": found.backbone.state_dict(), "online.projector.": found.projector}
    tensors = {prefix + name: tensor for prefix, state in modules.items() for name, tensor in state.items()}
    files = {"model.safetensors": save(tensors), "backbone.safetensors": save(found.backbone.state_dict())}
    key = canonical_digest({"encoder": IMPORT, "weights": digest(files["model.safetensors"])})
    facts = {"history": [], "encoder": describe(found), IMPORT: {"file": name, "layout": found.layout}}
    record = store.write_part(IMAGE_LEVEL, key, 0, files, rows=0, facts=facts)
    store.write_manifest(IMAGE_LEVEL, key, [record])
    return Imported({IMAGE_LEVEL: [record]}, {IMAGE_LEVEL: key})
