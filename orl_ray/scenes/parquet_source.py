"""Images in a column of Parquet files, one row group in memory at a time.

The column holds encoded images as bytes, or as the struct ``{bytes, path}`` of Hugging Face's data sets.
"""

import contextlib
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from orl_ray.folders import FileInfo, Folder
from orl_ray.scenes.containers import list_containers
from orl_ray.scenes.entries import BadEntry, Entry, SourceImage, is_id, path_id

_ID_ROWS, _IMAGE_ROWS = 65_536, 16


class UnusableFileError(Exception):
    """A file is no Parquet file, is damaged, or has no column of images or ids. The message is one line."""


def list_parquet(folder: Folder, prefix: str = "", image_column: str = "", id_column: str = "") -> Iterator[Entry]:
    """List the rows of all ``*.parquet`` files of a folder, by rising path of the file, then by row.

    Args:
        folder: the source's folder.
        prefix: what the paths begin with, "" or ``name/``.
        image_column: the column of images; "" takes the only one of bytes, or of structs with ``bytes``.
        id_column: a column of integers with the ids; "" takes the :func:`~orl_ray.scenes.entries.path_id` of
            ``<file>/<row>``.

    Returns:
        An iterator that reads footers, and ids where there is a column of them. A file that is broken or has no such
        column is one bad entry, a row without an id another.

    Raises:
        ValueError: there is no such folder on this disk.
    """
    return _list(folder, prefix, image_column, id_column)


def read_images(folder: Folder, file: str, rows: Sequence[int], image_column: str) -> Iterator[tuple[int, bytes]]:
    """Yield (row, encoded image) of some rows of a file, by rising row; each row group is read once.

    A few images are in memory at a time, and one compressed page.

    Args:
        folder: the source's folder.
        file: the Parquet file in it.
        rows: row numbers, ascending; those of null images and those behind the end of the file are left out.
        image_column: as for :func:`list_parquet`.

    Raises:
        UnusableFileError: the file is no Parquet file any more, is damaged, or has no such column.
        OSError: as :meth:`Folder.read`.
    """
    with _parquet(folder, file) as parquet:
        leaf = _image_leaf(parquet.schema_arrow, image_column)
        starts = _group_starts(parquet)
        for group, start in enumerate(starts[:-1]):
            wanted = {row - start for row in rows if start <= row < starts[group + 1]}
            if wanted:
                for row, image in _group_images(parquet, group, leaf, wanted):
                    yield start + row, image


def _list(folder: Folder, prefix: str, image_column: str, id_column: str) -> Iterator[Entry]:
    for found in list_containers(folder, ".parquet", prefix):
        if isinstance(found, BadEntry):
            yield found
            continue
        try:
            yield from _list_file(folder, found, prefix, image_column, id_column)
        except UnusableFileError as error:
            yield BadEntry(prefix + found.path, str(error))


def _list_file(folder: Folder, file: FileInfo, prefix: str, image_column: str, id_column: str) -> Iterator[Entry]:
    container = prefix + file.path
    with _parquet(folder, file.path) as parquet:
        _image_leaf(parquet.schema_arrow, image_column)
        for row, image_id in enumerate(_ids(parquet, id_column)):
            path = f"{container}/{row}"
            if not id_column:
                yield SourceImage(path_id(path), path, -1, file.stamp, container, row)
            elif is_id(image_id):
                yield SourceImage(int(image_id or 0), path, -1, file.stamp, container, row)
            else:
                yield BadEntry(path, f"no integer in [0, 2**63) in the column {id_column!r}")


@contextlib.contextmanager
def _parquet(folder: Folder, file: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file; whatever is wrong with its content becomes an UnusableFileError."""
    try:
        with folder.open(file) as stream, pq.ParquetFile(stream) as parquet:
            yield parquet
    except OSError as error:
        if type(error) is not OSError or error.errno is not None:  # of the storage, not of the content
            raise
        raise UnusableFileError(f"damaged Parquet file: {' '.join(str(error).split())}") from error
    except pa.ArrowException as error:
        raise UnusableFileError(f"unusable Parquet file: {' '.join(str(error).split())}") from error


def _ids(parquet: pq.ParquetFile, id_column: str) -> Iterator[int | None]:
    if not id_column:
        yield from (None for _ in range(parquet.metadata.num_rows))
        return
    schema = parquet.schema_arrow
    if id_column not in schema.names or not pa.types.is_integer(schema.field(id_column).type):
        raise UnusableFileError(f"no column {id_column!r} of integers")
    for batch in parquet.iter_batches(_ID_ROWS, columns=[id_column], use_threads=False):
        yield from batch.column(0).to_pylist()


def _image_leaf(schema: pa.Schema, wanted: str) -> tuple[str, ...]:
    """Find the column of images; return its name, and that of the field inside it."""
    leaves = {field.name: leaf for field in schema if (leaf := _leaf(field))}
    if wanted and wanted not in leaves:
        raise UnusableFileError(f"no column {wanted!r} of bytes, or of structs with 'bytes'")
    if not leaves:
        raise UnusableFileError("no column of bytes, or of structs with 'bytes'")
    if not wanted and len(leaves) > 1:
        raise UnusableFileError(f"images may be in any of {', '.join(leaves)}: name one in source.image_column")
    return leaves[wanted or next(iter(leaves))]


def _leaf(field: pa.Field) -> tuple[str, ...]:
    if _is_bytes(field.type):
        return (field.name,)
    if pa.types.is_struct(field.type):
        position = field.type.get_field_index("bytes")
        if position >= 0 and _is_bytes(field.type.field(position).type):
            return (field.name, "bytes")
    return ()


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _group_starts(parquet: pq.ParquetFile) -> list[int]:
    starts = [0]
    for group in range(parquet.num_row_groups):
        starts.append(starts[-1] + parquet.metadata.row_group(group).num_rows)
    return starts


def _group_images(
    parquet: pq.ParquetFile, group: int, leaf: tuple[str, ...], wanted: set[int]
) -> Iterator[tuple[int, bytes]]:
    start, last = 0, max(wanted)
    for batch in parquet.iter_batches(_IMAGE_ROWS, row_groups=[group], columns=[".".join(leaf)], use_threads=False):
        column = batch.column(0)
        for name in leaf[1:]:
            column = pa.compute.struct_field(column, name)
        for row in sorted(wanted & set(range(start, start + len(batch)))):
            if column[row - start].is_valid:
                yield row, column[row - start].as_py()
        start += len(batch)
        if start > last:
            return
