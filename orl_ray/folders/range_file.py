"""A file object over ranged reads, for libraries that seek: Parquet and tar."""

import io
from collections.abc import Callable


class RangeFile(io.RawIOBase):
    """A file of known size that fetches a range at every read. Wrap it in ``io.BufferedReader``.

    Args:
        fetch: gives the bytes of (start, size).
        size: size of the whole file, bytes.
    """

    def __init__(self, fetch: Callable[[int, int], bytes], size: int) -> None:
        super().__init__()
        self._fetch, self._size, self._position = fetch, size, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to an offset from the start, from here or from the end."""
        self._position = max(0, offset + (0, self._position, self._size)[whence])
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill a buffer; returns the bytes read, 0 at the end."""
        size = min(len(buffer), self._size - self._position)
        if size <= 0:
            return 0
        data = self._fetch(self._position, size)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
