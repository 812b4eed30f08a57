"""The exported training set: a folder of memory-mapped arrays that any machine with NumPy can train from.

Images lie in it, or stay in the store's packs and come through a cache beside the arrays (``pack_cache``).

====================  ==========  ==================================================================================
file                  shape       content
====================  ==========  ==================================================================================
image_ids.npy         (N,)        int64, in the order in which images were added; an image's *position* is its index
image_offsets.npy     (N,)        int64, where the bytes of each image begin in its file
image_sizes.npy       (N,)        int64, their number
images.bin                        the encoded images, one behind the other; or, where images stay in the store:
image_packs.npy       (N,)        int32, the pack of each image
image_hashes.npy      (N, 32)     uint8, the hash of its bytes in hexadecimal digits
roi_offsets.npy       (N + 1,)    int64, into roi_boxes
roi_boxes.npy         (R, 4)      int32 xywh pixels
row_offsets.npy       (N + 1,)    int64, into the rows; a row is an (image, neighbour) with at least one pair
neighbor_ids.npy      (P,)        int64, the neighbour of each row
pair_offsets.npy      (P + 1,)    int64, into the pairs of boxes
query_boxes.npy       (Q, 4)      int32 xywh, on the row's image
neighbor_boxes.npy    (Q, 4)      int32 xywh, on the row's neighbour
sorted_ids.npy        (N,)        int64, the image ids by value
sorted_positions.npy  (N,)        int64, the position of each of them
meta.json                         format version, counts, limits; the store and the packs, where images stay there
====================  ==========  ==================================================================================
"""

import json
import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orl_ray.pretraining.decoded_images import DecodedImages

FORMAT_VERSION = 2
META = "meta.json"
IMAGES = "images.bin"
PACKS = "packs"
DECODED = "decoded"


@dataclass(frozen=True, slots=True)
class Row:
    """One neighbour of an image, with their pairs of boxes.

    Attributes:
        neighbor_id: image id of the neighbour.
        query_boxes: (m, 4) int32 xywh on the image, m >= 1, by falling similarity.
        neighbor_boxes: (m, 4) int32 xywh on the neighbour; row i pairs with query box i.
    """

    neighbor_id: int
    query_boxes: NDArray[np.int32]
    neighbor_boxes: NDArray[np.int32]


class TrainingSet:
    """A training set opened for reading; only the pages that are touched enter memory. Safe to share between threads.

    Attributes:
        folder: where it lies.
        max_pixels: the pixel limit for its images.
        image_ids: (N,) int64, in the order of positions.
        decoded: keeps decoded images beside the arrays; None where none are to be kept.
    """

    def __init__(self, folder: Path, meta: dict[str, Any]) -> None:
        self.folder = folder
        self.max_pixels = int(meta["max_pixels"])
        self.image_ids = _mapped(folder, "image_ids")
        self._image_offsets = _mapped(folder, "image_offsets")
        self._image_sizes = _mapped(folder, "image_sizes")
        self._roi_offsets = _mapped(folder, "roi_offsets")
        self._roi_boxes = _mapped(folder, "roi_boxes")
        self._row_offsets = _mapped(folder, "row_offsets")
        self._neighbor_ids = _mapped(folder, "neighbor_ids")
        self._pair_offsets = _mapped(folder, "pair_offsets")
        self._query_boxes = _mapped(folder, "query_boxes")
        self._neighbor_boxes = _mapped(folder, "neighbor_boxes")
        self._sorted_ids = _mapped(folder, "sorted_ids")
        self._sorted_positions = _mapped(folder, "sorted_positions")
        self.decoded: DecodedImages | None = None
        if limit := meta["decoded_bytes"]:
            self.decoded = DecodedImages(folder / DECODED, int(limit))
        self._images: _ImageFile | _PackedImages
        self._images = _PackedImages(folder, meta[PACKS]) if PACKS in meta else _ImageFile(folder)

    @classmethod
    def open(cls, folder: Path) -> "TrainingSet":
        """Open a finished training set.

        Args:
            folder: written by ``TrainingSetWriter``.

        Raises:
            ValueError: the folder is no finished training set, of another format version, or its files disagree.
        """
        path = folder / META
        if not path.is_file():
            raise ValueError(f"{folder} is no training set: it has no {META}; export it again")
        meta = json.loads(path.read_text(encoding="utf-8"))
        if meta["format_version"] != FORMAT_VERSION:
            raise ValueError(
                f"{folder} has format {meta['format_version']}, this code reads {FORMAT_VERSION}; export it again"
            )
        opened = cls(folder, meta)
        counts = opened.counts()
        if counts != meta["counts"]:
            raise ValueError(
                f"the files of {folder} hold {counts}, its {META} says {meta['counts']}; copy or export it again"
            )
        return opened

    def __reduce__(self) -> tuple[Callable[[Path], "TrainingSet"], tuple[Path]]:
        return TrainingSet.open, (self.folder,)  # another process maps the files itself

    def __len__(self) -> int:
        return len(self.image_ids)

    def counts(self) -> dict[str, int]:
        """Return the number of images, image bytes, RoIs, rows and pairs that the files hold."""
        return {
            "images": len(self.image_ids),
            "bytes": self._images.size or int(self._image_sizes.sum()),
            "rois": len(self._roi_boxes),
            "rows": len(self._neighbor_ids),
            "pairs": len(self._query_boxes),
        }

    def image_bytes(self, position: int, *, alone: bool = False) -> bytes:
        """Return the encoded image at a position.

        Args:
            position: of the image.
            alone: whether it is wanted without those beside it, as a neighbour is that lies anywhere: where images stay
                in the store, the whole pack of any other is fetched.

        Raises:
            StoreError: the image stayed in the store, and is not there any more, or changed.
        """
        offset, size = int(self._image_offsets[position]), int(self._image_sizes[position])
        return self._images.read(position, offset, size, alone=alone)

    def expect(self, positions: NDArray[np.int64]) -> None:
        """Fetch what images at (n,) positions need in the background, where they stay in the store."""
        self._images.expect(positions)

    def rois(self, position: int) -> NDArray[np.int32]:
        """Return the (n, 4) int32 xywh RoIs of the image at a position; n = 0 in an image-level set."""
        boxes: NDArray[np.int32] = self._roi_boxes[self._roi_offsets[position] : self._roi_offsets[position + 1]]
        return boxes

    def row_counts(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the (n,) int64 numbers of rows of the images at (n,) positions."""
        counts: NDArray[np.int64] = self._row_offsets[positions + 1] - self._row_offsets[positions]
        return counts

    def rows(self, position: int) -> "Rows":
        """Return the rows of the image at a position, neighbours by falling similarity."""
        return Rows(self, int(self._row_offsets[position]), int(self._row_offsets[position + 1]))

    def position(self, image_id: int) -> int:
        """Return the position of an image.

        Raises:
            ValueError: the set has no such image.
        """
        index = int(np.searchsorted(self._sorted_ids, image_id))
        if index == len(self) or self._sorted_ids[index] != image_id:
            raise ValueError(f"the training set {self.folder} has no image {image_id}")
        return int(self._sorted_positions[index])

    def row(self, number: int) -> Row:
        """Return a row by its number in the whole set."""
        pairs = slice(self._pair_offsets[number], self._pair_offsets[number + 1])
        return Row(int(self._neighbor_ids[number]), self._query_boxes[pairs], self._neighbor_boxes[pairs])


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one image as a sequence, read when asked for."""

    training_set: TrainingSet
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self.training_set.row(self.start + index)

    def __iter__(self) -> Iterator[Row]:
        return (self.training_set.row(number) for number in range(self.start, self.stop))


class _ImageFile:
    """The images in one mapped file.

    Attributes:
        size: its bytes.
    """

    def __init__(self, folder: Path) -> None:
        with (folder / IMAGES).open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.size = len(self._bytes)

    def read(self, _position: int, offset: int, size: int, *, alone: bool) -> bytes:  # noqa: ARG002
        return self._bytes[offset : offset + size]

    def expect(self, positions: NDArray[np.int64]) -> None:
        """Everything is here."""


class _PackedImages:
    """The images in packs of a store.

    Attributes:
        size: 0, as nothing need lie here yet.
    """

    def __init__(self, folder: Path, meta: dict[str, Any]) -> None:
        from orl_ray.pretraining.pack_cache import Pack, PackCache  # Arrow, and the clients of buckets
        from orl_ray.storage import Store

        self.size = 0
        self._packs, self._hashes = _mapped(folder, "image_packs"), _mapped(folder, "image_hashes")
        packs = [Pack(*entry) for entry in meta["packs"]]
        self._cache = PackCache(folder / PACKS, Store(meta["store"]), packs, int(meta["cache_bytes"]))

    def read(self, position: int, offset: int, size: int, *, alone: bool) -> bytes:
        content_hash = self._hashes[position].tobytes().decode()
        return self._cache.read(int(self._packs[position]), offset, size, content_hash, whole=not alone)

    def expect(self, positions: NDArray[np.int64]) -> None:
        self._cache.expect(np.unique(self._packs[positions]).tolist())


def _mapped(folder: Path, name: str) -> NDArray[Any]:
    """Map an array; as a plain ndarray, whose slices are several times faster than a memmap's."""
    return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r"))
