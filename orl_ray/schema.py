"""The Arrow schema of every artifact that is a table, with units and shapes.

Boxes are ``x, y, width, height`` in pixels of the upright image, origin at the top left. Similarities are cosines.
Vectors have unit length. Rows carry ``image_id``, never positions, and every table is sorted by it. Each entry of
``similarities`` and of ``proposal_index`` is null where the rows were imported from a file that has none.
"""

import pyarrow as pa

# Written into a store at its creation; a store of another version is refused.
STORE_VERSION = 2

_BOX = pa.list_(pa.int32(), 4)

LISTING = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("path", pa.string(), nullable=False, metadata={"meaning": "relative to the source's folder, with /"}),
        pa.field("bytes", pa.int64(), nullable=False, metadata={"meaning": "size of the encoded image, -1 unknown"}),
        pa.field("stamp", pa.string(), nullable=False, metadata={"meaning": "changes with the file, empty unknown"}),
        pa.field("container", pa.string(), metadata={"meaning": "the tar or Parquet file that the image lies in"}),
        pa.field("offset", pa.int64(), metadata={"meaning": "in a tar, byte of the image; in a Parquet file, row"}),
    ]
)

SCENES = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False, metadata={"unit": "pixels, upright"}),
        pa.field("height", pa.int32(), nullable=False, metadata={"unit": "pixels, upright"}),
        pa.field("content_hash", pa.string(), nullable=False, metadata={"meaning": "of the file's bytes"}),
        pa.field("part", pa.int32(), nullable=False),
    ]
)

PACKED_SCENES = pa.schema(
    [
        *SCENES,
        pa.field("pack", pa.int16(), nullable=False, metadata={"meaning": "number of the part's file of images"}),
        pa.field("offset", pa.int64(), nullable=False, metadata={"unit": "bytes into the file"}),
        pa.field("bytes", pa.int64(), nullable=False, metadata={"meaning": "size of the encoded image"}),
        pa.field("perceptual_hash", pa.uint64(), nullable=False),
        pa.field("thumbnail", pa.binary(192), nullable=False, metadata={"shape": "8 x 8 x 3 uint8, RGB"}),
    ]
)

NEAR_DUPLICATES = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False, metadata={"meaning": "an image that has a near-duplicate"}),
        pa.field("group", pa.int64(), nullable=False, metadata={"meaning": "the smallest image id of its group"}),
    ]
)

PROPOSALS = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("boxes", pa.list_(_BOX), nullable=False, metadata={"order": "seeded rank"}),
        pa.field("levels", pa.list_(pa.int16()), metadata={"meaning": "null where the source of boxes has none"}),
    ]
)

ROIS = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("boxes", pa.list_(_BOX), nullable=False, metadata={"order": "as the filter kept them, at least one"}),
        pa.field("proposal_index", pa.list_(pa.int32()), nullable=False),
    ]
)

SHARDS = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
    ]
)

NEIGHBORS = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field(
            "neighbor_ids", pa.list_(pa.int64()), nullable=False, metadata={"order": "falling similarity, then id"}
        ),
        pa.field("similarities", pa.list_(pa.float64()), nullable=False),
    ]
)

CORRESPONDENCES = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("neighbor_id", pa.int64(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False, metadata={"meaning": "0 for the nearest image"}),
        pa.field(
            "rois", pa.int32(), nullable=False, metadata={"meaning": "RoIs of the image, the base of pair ratios"}
        ),
        pa.field("query_boxes", pa.list_(_BOX), nullable=False, metadata={"order": "falling similarity"}),
        pa.field("neighbor_boxes", pa.list_(_BOX), nullable=False),
        pa.field("similarities", pa.list_(pa.float64()), nullable=False),
    ]
)

QUARANTINE = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)


def image_embeddings(width: int) -> pa.Schema:
    """Return the schema of image vectors: ``image_id`` and a unit float16 vector of ``width`` numbers."""
    return pa.schema(
        [
            pa.field("image_id", pa.int64(), nullable=False),
            pa.field("vector", pa.list_(pa.float16(), width), nullable=False),
        ]
    )


def roi_embeddings(width: int) -> pa.Schema:
    """Return the schema of RoI vectors: one row a RoI, the rows of an image together and in the order of its RoIs."""
    return pa.schema(
        [
            pa.field("image_id", pa.int64(), nullable=False),
            pa.field("box", _BOX, nullable=False),
            pa.field("vector", pa.list_(pa.float16(), width), nullable=False),
        ]
    )


GIVEN_BOXES = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("box", _BOX, nullable=False, metadata={"meaning": "rounded outwards to pixels, within the image"}),
        pa.field("box_row", pa.int64(), nullable=False, metadata={"meaning": "position in the file of boxes"}),
    ]
)


def vectors(kind: pa.DataType, width: int) -> pa.Schema:
    """Return the schema of exported vectors: a row an image, box and its row null, or a row a box of a file.

    Args:
        kind: of the numbers of a vector.
        width: how many they are.
    """
    return pa.schema(
        [
            pa.field("image_id", pa.int64(), nullable=False),
            pa.field("path", pa.string(), nullable=False),
            pa.field("box", _BOX),
            pa.field("box_row", pa.int64()),
            pa.field("vector", pa.list_(kind, width), nullable=False, metadata={"meaning": "of unit length"}),
        ]
    )


def shard_file(shard: int) -> str:
    """Name the file of a part of ``roi_embeddings`` that holds one shard's vectors."""
    return f"shard-{shard:05d}.arrow"
