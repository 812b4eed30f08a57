"""The command ``embed``: vectors of images, or of boxes in them, as a folder of Parquet files.

The work is that of a run: the source is listed and packed into the store once, parts are embedded by Ray Data, and the
same command goes on where it was cut off. What is in the store is then copied out, one part at a time.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from orl_ray.checks import PreflightError
from orl_ray.cli import run_once
from orl_ray.config import Config
from orl_ray.embeddings.given_boxes import ARTIFACT as GIVEN_BOXES
from orl_ray.embeddings.vector_stages import KINDS, VECTORS, vector_stages
from orl_ray.encoders.weight_files import read_encoder
from orl_ray.execution import Request, RunSummary, needs_of
from orl_ray.folders import Folder, file_at
from orl_ray.interchange.encoder import describe, store_encoder
from orl_ray.occupancy import StoreBusyError, at_work
from orl_ray.options import add_settings, config_of, is_setting
from orl_ray.pins import IMAGE_LEVEL, resolve_pins
from orl_ray.pipeline import Stage, StagePlan, plan
from orl_ray.preflight import check_endpoints
from orl_ray.progress import Console
from orl_ray.storage import TABLE, Store, StoreError, new_run_id

# Beside the Parquet files: what they hold. Written first, so that an interrupted copy is known and gone on with; what
# begins with an underscore is left alone by whoever reads the folder as one table.
DESCRIPTION = "_vectors.json"
_NEEDED = ("listing", "packed_scenes", "scenes", IMAGE_LEVEL)


def embed_command(arguments: Sequence[str]) -> int:
    """Embed the images of a source, or boxes in them, with weights from any file.

    Args:
        arguments: the command line behind ``embed``.

    Returns:
        The exit code, as of :func:`orl_ray.cli.full_pipeline`.
    """
    options = _parser().parse_intermixed_args(arguments)
    try:
        weights, out = _places(options.arguments)
        config = config_of(options, [entry for entry in options.arguments if is_setting(entry)])
        store, folder = Store(config.execution.store), Folder(out)
        config = _with_encoder(config, store, weights)
        stages, description = _stages(config, options), _description(config, options)
        _check_folder(folder, description)
        check_endpoints(config, store, lambda: needs_of(config, _plans(config, stages, store), Request()))
    except (ValueError, OSError, StoreError, StoreBusyError, PreflightError) as error:
        print(error, file=sys.stderr)
        return 2
    runs: list[RunSummary] = []
    code = run_once(config, stages, store, Console(), Request(), runs)
    if code:
        return code
    try:
        _copy_out(store, {p.stage.name: p for p in runs[0].plans}, folder, description)
    except (ValueError, OSError, StoreError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _places(arguments: Sequence[str]) -> list[str]:
    places = [entry for entry in arguments if not is_setting(entry)]
    if len(places) != 2:
        raise ValueError(f"name a file of weights and a folder to write to; got {', '.join(places) or 'neither'}")
    return places


def _with_encoder(config: Config, store: Store, weights: str) -> Config:
    """Put weights into the store as an encoder, and return a config that is frozen to it."""
    found = read_encoder(weights)
    store.prepare()
    with at_work(store, new_run_id(), config.execution.lease_seconds):
        imported = store_encoder(store, found, file_at(weights)[1])
    fitting: dict[str, Any] = describe(found)
    encoder = replace(config.encoder, **fitting)
    return replace(config, encoder=encoder, rounds=1, freeze=f"encoder@{imported.content_hash(IMAGE_LEVEL)}")


def _stages(config: Config, options: argparse.Namespace) -> list[Stage]:
    from orl_ray.graph import main_job

    needed = [stage for stage in main_job(config.mining.scope) if stage.name in _NEEDED]
    return [*needed, *vector_stages(options.boxes, options.numbers)]


def _plans(config: Config, stages: Sequence[Stage], store: Store) -> list[StagePlan]:
    return plan(config, stages, store, resolve_pins(config, store))


def _description(config: Config, options: argparse.Namespace) -> dict[str, Any]:
    sizes = ("roi_size",) if options.boxes else ("image_resize", "image_crop")
    return {
        "backbone": config.encoder.backbone,
        "weights": config.freeze.partition("@")[2],
        "of": "boxes" if options.boxes else "images",
        "numbers": options.numbers,
        **{name: getattr(config.embeddings, name) for name in sizes},
    }


def _check_folder(folder: Folder, description: dict[str, Any]) -> None:
    """Refuse a folder that holds anything but vectors of this description, so that two kinds never mix."""
    names = folder.names()
    held = json.loads(folder.read(DESCRIPTION)) if DESCRIPTION in names else {}
    if names and not held.items() >= description.items():
        differing = [name for name, value in description.items() if held.get(name, value) != value]
        problem = f"vectors of another {', '.join(differing)}" if differing else "something else"
        raise ValueError(f"{folder} holds {problem}: name a new folder (what is embedded stays in the store)")


def _copy_out(store: Store, plans: dict[str, StagePlan], folder: Folder, description: dict[str, Any]) -> None:
    """Copy the parts out, one in memory at a time."""
    records = plans[VECTORS].records
    count = sum(record.facts["vectors"] for record in records)
    description = description | {"content_hash": plans[VECTORS].content_hash, "files": len(records), "vectors": count}
    _check_folder(folder, description)
    folder.write(DESCRIPTION, json.dumps(description, indent=1).encode())
    for record in records:
        folder.write(f"part-{record.index:06d}.parquet", store.read_file(VECTORS, record.key, TABLE))
    print(f"{count:,} vectors in {len(records):,} Parquet files: {folder}")
    for record in plans[GIVEN_BOXES].records if GIVEN_BOXES in plans else ():
        for what, name in (("of images that the source lacks", "unknown"), ("outside their images", "outside")):
            if record.facts[name]:
                print(f"{record.facts[name]:,} boxes {what}, left out")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m orl_ray embed",
        description="Embed the images of a source, or boxes in them. The same command resumes.",
    )
    parser.add_argument(
        "arguments",
        nargs="+",
        metavar="WEIGHTS OUT name=value",
        help="a file of weights (ours, the reference's, torchvision's, timm's, of transformers or detectron2), the "
        "folder to write to, and settings: the source, the sizes under embeddings, the store to work in",
    )
    parser.add_argument(
        "--boxes",
        default="",
        metavar="FILE",
        help="embed boxes instead of whole images: a COCO JSON with annotations, or a .parquet with columns box (xywh, "
        "pixels) and image_id or path",
    )
    parser.add_argument("--numbers", default="float16", choices=list(KINDS), help="of the vectors (default: float16)")
    add_settings(parser, positional=False)
    return parser
