"""Decoded images on this node's disk, so that an image is decoded once a training instead of twice an epoch.

Each is written when it is first decoded, until so many bytes are held; nothing is ever thrown out, as every image comes
up as often as any other. All processes of a node share the folder. What is read are the decoder's own pixels: nothing
changes but the time.
"""

import fcntl
import os
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_HELD = "held"


@dataclass(frozen=True, slots=True)
class DecodedImages:
    """Images by name, in a folder that exists.

    Args:
        folder: the node's folder.
        limit: most bytes of pixels to keep.
    """

    folder: Path
    limit: int

    def get(self, name: str) -> NDArray[np.uint8] | None:
        """Return an image, mapped so that only what is touched is read, or None where it was not kept."""
        try:
            image: NDArray[np.uint8] = np.asarray(np.load(self.folder / f"{name}.npy", mmap_mode="c"))
        except FileNotFoundError:
            return None
        return image

    def keep(self, name: str, image: NDArray[np.uint8]) -> None:
        """Write an (H, W, 3) uint8 image, whole or not at all, if there is room for it."""
        if not self._reserve(image.nbytes):
            return
        half = self.folder / f".{name}.{os.getpid()}-{threading.get_ident()}"
        with half.open("wb") as file:
            np.save(file, image)
        half.replace(self.folder / f"{name}.npy")

    def _reserve(self, size: int) -> bool:
        """Count the bytes of an image among those held, unless that were too many."""
        with (self.folder / _HELD).open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            held = int(file.read() or b"0")
            if held + size > self.limit:
                return False
            file.truncate(0)
            file.write(b"%d" % (held + size))
            return True
