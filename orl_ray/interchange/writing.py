"""Export artifacts of a store as the reference's JSON files, as streams.

The parts are read in their order, and each image's values put aside on the local disk; from there they go into the
columns of the JSON, in the order that is asked for. Memory is bounded by two parts and 32 bytes an image; the disk
must hold the file twice.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from orl_ray.columns import box_lists_of
from orl_ray.config import Config, Rois
from orl_ray.interchange.columns_file import RowsFile, Value, compact, published, write_json
from orl_ray.interchange.reading import coco_ids
from orl_ray.pins import IMPORT
from orl_ray.pretraining.export import objects_of, paired_images
from orl_ray.progress import StageProgress
from orl_ray.scenes.json_file import JsonFile
from orl_ray.storage import PartRecord, Store

_NAMED = 5
Parts = Sequence[PartRecord]
# An image's id, and its values: the name of its file, then one for each column of the layout.
_Row = tuple[int, list[Any]]


class Target(NamedTuple):
    """Where an export goes, and how.

    Attributes:
        file: the file; written whole or not at all.
        orders: COCO JSONs in whose order the images shall stand; none: by part, then by id.
        aligned: positions must be those of the COCO JSONs: refuse where the store lacks an image of theirs.
        progress: told of every image.
    """

    file: JsonFile
    orders: Sequence[JsonFile]
    aligned: bool
    progress: StageProgress


class Exported(NamedTuple):
    """What an export wrote.

    Attributes:
        images: images in the file.
        left_out: images of the COCO JSONs that the store lacks; without ``aligned`` the file is without them, too.
        short: images with fewer than ``mining.k`` neighbours, where the reference's code expects as many.
    """

    images: int
    left_out: int
    short: int = 0


@dataclass(frozen=True, slots=True)
class Order:
    """The images of a file, by position.

    Attributes:
        image_ids: (n,) int64 ids, none twice.
        left_out: as in :class:`Exported`.
    """

    image_ids: NDArray[np.int64]
    left_out: int
    _by_id: NDArray[np.int64]

    def positions(self, image_ids: ArrayLike) -> NDArray[np.int64]:
        """Return the positions of images.

        Raises:
            ValueError: one is not in the file.
        """
        wanted = np.asarray(image_ids, np.int64)
        at = self._by_id[np.minimum(np.searchsorted(self.image_ids, wanted, sorter=self._by_id), len(self._by_id) - 1)]
        unknown = wanted[self.image_ids[at] != wanted]
        if unknown.size:
            raise ValueError(f"image {unknown.ravel()[0]} is a neighbour of an image of the file, but is not in it")
        return at


def export_proposals(store: Store, scenes: Parts, proposals: Parts, target: Target) -> Exported:
    """Write a file of proposals.

    Beside what the reference's files hold it names its images, which the reference ignores.

    Args:
        store: the store.
        scenes: all parts of the scenes.
        proposals: all parts of the proposals.
        target: where to.

    Raises:
        ValueError: the images of the store are not those of the COCO JSONs, or a COCO JSON cannot be read.
        StoreError: a part is not there, or changed since it was written.
    """

    def rows(part: PartRecord, names: dict[int, str]) -> Iterator[_Row]:
        table = store.read_table("proposals", part.key)
        boxes = zip(table["image_id"].to_pylist(), box_lists_of(table, "boxes"), strict=True)
        yield from ((image_id, [names[image_id], own.tolist()]) for image_id, own in boxes)

    order = order_images(_image_ids(store, proposals), target)
    _write(target, order, _all_rows(store, scenes, proposals, rows), ("bbox",))
    return Exported(len(order.image_ids), order.left_out)


def export_neighbors(store: Store, scenes: Parts, neighbors: Parts, target: Target, k: int) -> Exported:
    """Write a k-NN file of the ``k`` nearest neighbours; other arguments and errors as :func:`export_proposals`."""
    short = 0

    def rows(part: PartRecord, names: dict[int, str]) -> Iterator[_Row]:
        nonlocal short
        table = store.read_table("neighbors", part.key, columns=["image_id", "neighbor_ids"])
        for row in table.to_pylist():
            nearest = row["neighbor_ids"][:k]
            short += len(nearest) < k
            yield row["image_id"], [names[row["image_id"]], order.positions(nearest).tolist()]

    order = order_images(_image_ids(store, neighbors), target)
    _write(target, order, _all_rows(store, scenes, neighbors, rows), ("knn_image_id",), {"knn_image_num": k})
    return Exported(len(order.image_ids), order.left_out, short)


def export_correspondences(
    config: Config, store: Store, scenes: Parts, rois: Parts, correspondences: Parts, target: Target
) -> Exported:
    """Write a file of correspondences: what ``mining.k`` and ``mining.pair_ratio`` select for training.

    Images without a pair on either side are not in it, as they are not in the training set.

    Args:
        config: the config.
        store: the store.
        scenes: all parts of the scenes.
        rois: all parts of the RoIs.
        correspondences: all parts of the correspondences.
        target: where to.

    Raises:
        ValueError: as :func:`export_proposals`.
        StoreError: as there.
    """
    mining, short = config.mining, 0
    paired, pairs_of = paired_images(store, correspondences), {record.index: record for record in correspondences}

    def rows(part: PartRecord, names: dict[int, str]) -> Iterator[_Row]:
        nonlocal short
        for image_id, (own, near) in objects_of(store, part, pairs_of[part.index], mining, paired).items():
            short += len(near) < mining.k
            positions = order.positions([neighbor for neighbor, *_ in near]).tolist()
            pairs = [np.hstack([query, neighbor]).tolist() for _, query, neighbor in near]
            yield image_id, [names[image_id], own.tolist(), positions, pairs]

    ids = _image_ids(store, rois)
    order = order_images(ids[np.isin(ids, paired, assume_unique=True)], target)
    made_by = rois[0].facts[IMPORT]["info"] if IMPORT in rois[0].facts else _roi_info(config.rois)
    info = {**made_by, "knn_image_num": mining.k, "knn_bbox_pair_ratio": mining.pair_ratio}
    _write(target, order, _all_rows(store, scenes, rois, rows), ("bbox", "knn_image_id", "knn_bbox_pair"), info)
    return Exported(len(order.image_ids), order.left_out, short)


def order_images(stored: NDArray[np.int64], target: Target) -> Order:
    """Decide on the order of a file's images.

    Args:
        stored: (n,) int64 ids of the images that the store has, by part, then by id.
        target: names the COCO JSONs, if any, and says whether they must be matched.

    Raises:
        ValueError: a COCO JSON names an image twice, or lacks one of the store's; the store lacks one of theirs where
            that is not allowed.
    """
    if not target.orders:
        return Order(stored, 0, np.argsort(stored))
    named = ", ".join(map(str, target.orders))
    wanted = np.concatenate([np.fromiter(coco_ids(order), np.int64) for order in target.orders])
    unique, first = np.unique(wanted, return_index=True)
    if target.aligned and len(unique) < len(wanted):
        raise ValueError(f"{named}: {len(wanted) - len(unique)} images stand there twice")
    wanted = wanted[np.sort(first)]
    if len(extra := np.setdiff1d(stored, wanted)):
        raise ValueError(f"{len(extra)} images of the store are not in {named}, such as {_some(extra)}")
    known = np.isin(wanted, stored, assume_unique=True)
    lacking = wanted[~known]
    if target.aligned and len(lacking):
        raise ValueError(
            f"{len(lacking)} of {len(wanted)} images of {named} are not in the store, such as {_some(lacking)}: "
            "positions cannot be those of the COCO JSON. Without --order the file names the images that it holds"
        )
    return Order(wanted[known], len(lacking), np.argsort(wanted[known]))


def _some(image_ids: NDArray[np.int64]) -> str:
    return ", ".join(map(str, image_ids[:_NAMED]))


def _image_ids(store: Store, parts: Parts) -> NDArray[np.int64]:
    """Return the image ids of an artifact, by part, then by id."""
    tables = (store.read_table(part.artifact, part.key, columns=["image_id"]) for part in parts)
    return np.concatenate([np.empty(0, np.int64), *(table["image_id"].to_numpy() for table in tables)])


def _all_rows(
    store: Store, scenes: Parts, parts: Parts, rows: Callable[[PartRecord, dict[int, str]], Iterator[_Row]]
) -> Iterator[_Row]:
    """Chain the rows of all parts; each gets the names of its images' files."""
    of_index = {record.index: record for record in scenes}
    for part in parts:
        table = store.read_table("scenes", of_index[part.index].key, columns=["image_id", "path"])
        yield from rows(part, dict(zip(table["image_id"].to_pylist(), table["path"].to_pylist(), strict=True)))


def _write(
    target: Target, order: Order, rows: Iterable[_Row], columns: Sequence[str], info: dict[str, Any] | None = None
) -> None:
    """Write rows in an order; without ``info`` as the plain columns of a file of proposals."""
    with published(target.file) as (aside, result), aside.open("w+b") as stream:
        file = RowsFile(stream, len(order.image_ids))
        for image_id, values in rows:
            file.add(int(order.positions(image_id)), values)
            target.progress.advance(1)
        content: dict[str, Value] = {name: file.column(number) for number, name in enumerate(columns, 1)}
        images: dict[str, Value] = {"images": {"file_name": file.column(0), "id": _id_column(order)}}
        if info is None:
            layout = {**images, **content}
        else:
            annotations: dict[str, Value] = {"image_id": _id_column(order), **content}
            layout = {"info": compact(info), **images, "pseudo_annotations": annotations}
        with result.open("wb") as out:
            write_json(out, layout)


def _id_column(order: Order) -> Iterator[bytes]:
    return (str(image_id).encode() for image_id in order.image_ids)


def _roi_info(rois: Rois) -> dict[str, float | None]:
    """Name the settings of the RoI filter as the reference does; a share of the image's side has no name there."""
    share = {"bbox_min_share": rois.min_share} if rois.min_share else {}
    return {
        "bbox_min_size": None if rois.min_share else rois.min_size,
        **share,
        "bbox_max_aspect_ratio": rois.max_aspect,
        "bbox_max_iou": rois.max_iou,
        "intra_bbox_num": rois.max_rois,
    }
