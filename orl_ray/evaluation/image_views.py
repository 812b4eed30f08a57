"""Image files to the square views that protocols look at, a few ahead of their use, by threads."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orl_ray.scenes.decode import BadImageError, center_crop, crop_resize, decode, resize_shorter

SHORTER = 256  # the shorter side that images are first resized to
MAX_PIXELS = 200_000_000
_AHEAD = 64

View = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""An image (H, W, 3) uint8 to a view (side, side, 3) uint8."""


def read(path: Path) -> NDArray[np.uint8]:
    """Decode an image file to (H, W, 3) uint8 RGB, its EXIF orientation applied.

    Raises:
        ValueError: the file is missing or no readable image: a benchmark with holes is another benchmark.
    """
    try:
        return decode(path.read_bytes(), MAX_PIXELS)
    except (BadImageError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}): the data set is not whole") from error


def warped(side: int) -> View:
    """Return the view of the SVM protocol: shorter side to 256, then warped to a square, nothing cut off."""

    def view(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        resized = resize_shorter(image, SHORTER)
        whole = np.array([0, 0, resized.shape[1], resized.shape[0]], np.int32)
        return crop_resize(resized, whole, side)

    return view


def central(side: int) -> View:
    """Return the view that classifiers are scored on: shorter side to 8/7 of ``side`` (256 for 224), central square."""

    def view(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return center_crop(resize_shorter(image, round(side * SHORTER / 224)), side)

    return view


def views(paths: Sequence[Path], view: View, threads: int) -> Generator[NDArray[np.uint8]]:
    """Read files and cut views, in order.

    Args:
        paths: image files.
        view: what to cut.
        threads: threads that decode and cut.

    Yields:
        (side, side, 3) uint8, one a path; at most 64 wait to be used.

    Raises:
        ValueError: a file cannot be read.
    """

    def make(path: Path) -> NDArray[np.uint8]:
        return view(read(path))

    executor = ThreadPoolExecutor(threads, thread_name_prefix="views")
    pending: deque[Future[NDArray[np.uint8]]] = deque()
    try:
        for path in paths:
            pending.append(executor.submit(make, path))
            if len(pending) > _AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)
