"""Read the reference's JSON files as streams, a row an image, by image id.

The files hold columns, and give images by position. Here each row gets the id of its image, and positions of
neighbours become ids. Memory is bounded by one image's row and, for k-NN and correspondences, the list of all ids, 8
bytes each. A file is read once for each of its columns, up to where that ends.

====================  ==================================================================================================
file                  layout
====================  ==================================================================================================
proposals             ``{"bbox": [image][box][x, y, w, h]}``; image i is the i-th of a COCO JSON, unless ``images``, as
                      in the other files, stands before it (our own exports)
k-NN                  ``{"info": {"knn_image_num"}, "images": {"file_name": [], "id": []},``
                      ``"pseudo_annotations": {"image_id": [], "knn_image_id": [image][k]}}``; neighbours are positions
correspondences       as k-NN, more ``info``, and ``"bbox": [image][RoI][x, y, w, h]``,
                      ``"knn_bbox_pair": [image][k][pair][qx, qy, qw, qh, kx, ky, kw, kh]``
====================  ==================================================================================================
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from orl_ray.scenes.entries import is_id, path_problem
from orl_ray.scenes.json_file import JsonFile

Boxes = NDArray[np.int32]
_END = object()
_PROPOSALS, _NEIGHBORS, _CORRESPONDENCES = "a file of proposals", "a k-NN file", "a file of correspondences"


class NeighborPairs(NamedTuple):
    """One neighbour of an image, with their pairs of boxes.

    Attributes:
        neighbor_id: image id of the neighbour.
        query_boxes: (n, 4) int32 xywh on the image, n >= 1.
        neighbor_boxes: (n, 4) int32 xywh on the neighbour; row i pairs with query box i.
    """

    neighbor_id: int
    query_boxes: Boxes
    neighbor_boxes: Boxes


class ImagePairs(NamedTuple):
    """One image of a file of correspondences.

    Attributes:
        image_id: its id.
        rois: (b, 4) int32 xywh, b >= 1.
        neighbors: by rank, nearest first.
    """

    image_id: int
    rois: Boxes
    neighbors: list[NeighborPairs]


def read_proposals(files: Sequence[JsonFile], orders: Sequence[JsonFile]) -> Iterator[tuple[int, Boxes]]:
    """Read files of proposals.

    Args:
        files: the files; several, as for COCO+, stand for one list in this order.
        orders: COCO JSONs, in the order of whose ``images`` the boxes stand. As many as there are files, or all of
            them for one file; none where the files name their images themselves (:func:`names_images`).

    Yields:
        (image id, (n, 4) int32 xywh boxes in the order of the file); n may be 0. A single box that stands without its
        list, as the reference's tool writes it, is read as one box.

    Raises:
        ValueError: files and orders differ in number, or in the number of their images; a row is no list of boxes, an
            image has no id; or a file is missing or broken.
    """
    if orders and len(files) not in (1, len(orders)):
        raise ValueError(f"{len(files)} files of proposals need as many COCO JSONs for their order, not {len(orders)}")
    for number, file in enumerate(files):
        own = orders if len(files) == 1 else orders[number : number + 1]
        ids = chain.from_iterable(map(coco_ids, own)) if own else _ids(file, "images.id")
        names = ", ".join(map(str, own)) or "its own list"
        columns = {f"boxes in {file}": _column(file, "bbox", _PROPOSALS), f"images in {names}": ids}
        for position, (value, image_id) in enumerate(_aligned(columns)):
            yield image_id, _boxes(value, 4, f"{file}: bbox[{position}]")


def names_images(file: JsonFile) -> bool:
    """Tell whether a file of proposals names its images itself, which stands at its very start.

    Raises:
        ValueError: the file is missing or is no JSON object.
    """
    return file.first_name() == "images"


def read_neighbors(file: JsonFile) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Read a k-NN file.

    Args:
        file: the file; a file of correspondences serves, too.

    Yields:
        (image id, (k,) int64 ids of its neighbours, nearest first).

    Raises:
        ValueError: ids are missing, repeated, or differ between ``images`` and ``pseudo_annotations``; a row holds
            something else than positions, more of them than ``info.knn_image_num`` says, or one behind the last image;
            or the file is missing or broken.
    """
    ids, most = _image_ids(file, _NEIGHBORS), declared(file, "knn_image_num")
    rows = _column(file, "pseudo_annotations.knn_image_id", _NEIGHBORS)
    columns: dict[str, Iterator[Any]] = {"rows of knn_image_id": rows, "images": iter(ids)}
    for position, (value, image_id) in enumerate(_aligned(columns, str(file))):
        yield int(image_id), _neighbor_ids(value, ids, most, f"{file}: knn_image_id[{position}]")


def read_correspondences(files: Sequence[JsonFile]) -> Iterator[ImagePairs]:
    """Read a file of correspondences, or the parts of one that were not merged.

    Args:
        files: the merged file, or all parts in their order.

    Yields:
        One image after another.

    Raises:
        ValueError: as :func:`read_neighbors`; columns differ in length, as those of a single part do; pairs are not as
            many as neighbours, or none; or parts list other images than the first.
    """
    file, named = files[0], ", ".join(map(str, files))
    ids, most = _image_ids(file, _CORRESPONDENCES), declared(file, "knn_image_num")
    for part in files[1:]:
        if not np.array_equal(ids, _image_ids(part, _CORRESPONDENCES)):
            raise ValueError(f"{part} lists other images than {file}: they are no parts of one file")
        neighbors = (_column(one, "pseudo_annotations.knn_image_id", _CORRESPONDENCES) for one in (file, part))
        if any(ours != theirs for ours, theirs in zip_longest(*neighbors)):
            raise ValueError(f"{part} lists other neighbours than {file}: they are no parts of one file")
    columns = {
        "images": iter(ids),
        "rows of bbox": _column_of_parts(files, "pseudo_annotations.bbox"),
        "rows of knn_image_id": _column(file, "pseudo_annotations.knn_image_id", _CORRESPONDENCES),
        "rows of knn_bbox_pair": _column_of_parts(files, "pseudo_annotations.knn_bbox_pair"),
    }
    hint = "; of a file in parts, name all parts in their order"
    for position, (image_id, rois, neighbors, pairs) in enumerate(_aligned(columns, named, hint)):
        own = _boxes(rois, 4, f"{named}: bbox[{position}]")
        found = _neighbor_ids(neighbors, ids, most, f"{named}: knn_image_id[{position}]")
        where = f"{named}: knn_bbox_pair[{position}]"
        if not len(own):
            raise ValueError(f"{named}: bbox[{position}]: no RoI")
        if not isinstance(pairs, list) or len(pairs) != len(found):
            count = len(pairs) if isinstance(pairs, list) else "no list"
            raise ValueError(f"{where}: pairs of {count} neighbours, knn_image_id has {len(found)}")
        boxes = [_boxes(value, 8, f"{where}[{rank}]") for rank, value in enumerate(pairs)]
        if not all(map(len, boxes)):
            raise ValueError(f"{where}: a neighbour without pairs")
        rows = zip(found.tolist(), boxes, strict=True)
        yield ImagePairs(int(image_id), own, [NeighborPairs(i, both[:, :4], both[:, 4:]) for i, both in rows])


def declared(file: JsonFile, name: str) -> float | None:
    """Return a number that a file's ``info`` declares, such as ``knn_image_num``, or None where it does not.

    Raises:
        ValueError: the file is missing or broken, or what is declared is no number.
    """
    info = file.member("info")
    value = info.get(name) if isinstance(info, dict) else None
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ValueError(f"{file}: info.{name} is {value!r}, no number")
    return value


def coco_ids(order: JsonFile) -> Iterator[int]:
    """Stream the image ids of a COCO JSON in the order of its ``images``; -1 stands for rows that the listing refuses.

    Raises:
        ValueError: the file is missing or broken.
    """
    for _, _, row in order.lists("images"):
        image_id, name = (row.get("id"), row.get("file_name")) if isinstance(row, dict) else (None, None)
        refused = not is_id(image_id) or (name is not None and (not isinstance(name, str) or path_problem(name)))
        yield -1 if refused else int(image_id or 0)


def _image_ids(file: JsonFile, kind: str) -> NDArray[np.int64]:
    """Return the ids of a file's images, by position."""
    ids, again = (
        np.fromiter(_ids(file, name, kind), np.int64) for name in ("images.id", "pseudo_annotations.image_id")
    )
    if not np.array_equal(ids, again):
        raise ValueError(f"{file}: images.id and pseudo_annotations.image_id differ ({len(ids)} and {len(again)} ids)")
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) < len(ids):
        raise ValueError(f"{file}: images.id holds {unique[counts > 1][0]} twice")
    return ids


def _ids(file: JsonFile, name: str, kind: str = _PROPOSALS) -> Iterator[int]:
    for position, value in enumerate(_column(file, name, kind)):
        if not is_id(value):
            raise ValueError(f"{file}: {name}[{position}] is {str(value)[:40]}, no integer in [0, 2**63)")
        yield value


def _column(file: JsonFile, name: str, kind: str) -> Iterator[Any]:
    return (value for _, _, value in file.lists(name, kind=kind))


def _column_of_parts(files: Sequence[JsonFile], name: str) -> Iterator[Any]:
    return chain.from_iterable(_column(file, name, _CORRESPONDENCES) for file in files)


def _aligned(columns: Mapping[str, Iterator[Any]], where: str = "", hint: str = "") -> Iterator[tuple[Any, ...]]:
    """Zip columns, which must be of one length; the error says how long each one is."""
    for position, row in enumerate(zip_longest(*columns.values(), fillvalue=_END)):
        if any(value is _END for value in row):
            own = [position + (value is not _END) for value in row]
            counts = [count + sum(1 for _ in column) for count, column in zip(own, columns.values(), strict=True)]
            told = ", ".join(f"{count} {name}" for name, count in zip(columns, counts, strict=True))
            raise ValueError(f"{where}{': ' if where else ''}{told}: they must be as many{hint}")
        yield row


def _boxes(value: Any, width: int, where: str) -> Boxes:
    """Read a list of boxes, or of pairs of boxes: (n, width) int32."""
    if value == []:
        return np.empty((0, width), np.int32)
    try:
        numbers = np.array(value)
    except ValueError:  # lists of different lengths
        numbers = np.empty(0)
    if numbers.ndim == 1 and numbers.size == width:
        numbers = numbers[None]
    if numbers.ndim != 2 or numbers.shape[1] != width or numbers.dtype.kind not in "if":
        raise ValueError(f"{where}: not a list of {width} numbers a {'box' if width == 4 else 'pair of boxes'}")
    boxes = numbers.astype(np.int32) if np.abs(numbers).max() < 2**31 else np.zeros_like(numbers, np.int32)
    if (boxes != numbers).any():  # written so that NaN fails, too
        raise ValueError(f"{where}: a coordinate that is no whole number of pixels")
    return boxes


def _neighbor_ids(value: Any, ids: NDArray[np.int64], most: float | None, where: str) -> NDArray[np.int64]:
    if not isinstance(value, list) or any(type(position) is not int for position in value):
        raise ValueError(f"{where}: not a list of positions")
    if most is not None and len(value) > most:
        raise ValueError(f"{where}: {len(value)} neighbours, info.knn_image_num declares {most}")
    wrong = next((position for position in value if not 0 <= position < len(ids)), None)
    if wrong is not None:
        raise ValueError(f"{where}: position {wrong} of {len(ids)} images (neighbours are given by position, not id)")
    if len(set(value)) < len(value):
        raise ValueError(f"{where}: a neighbour stands twice")
    return ids[np.array(value, np.int64)]
