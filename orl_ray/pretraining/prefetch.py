"""Batches of views, made ahead of their use by threads: Pillow decodes and resizes without Python's lock."""

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from orl_ray.pretraining.objectives import INTER
from orl_ray.pretraining.sampling import SampleStream, Share
from orl_ray.pretraining.views import ViewBatch, ViewMaker

_AHEAD = 2


def view_batches(
    maker: ViewMaker,
    stream: SampleStream,
    shares: Iterable[Share],
    *,
    threads: int = 2,
    pinned: bool = False,
) -> Generator[ViewBatch]:
    """Make some batches, or parts of batches, in order, with two more in the making than the one that is in use.

    Args:
        maker: cuts the views.
        stream: says which samples a step takes.
        shares: what is wanted.
        threads: threads that decode and cut.
        pinned: put the images into pinned memory, for copies to a GPU that do not wait.

    Yields:
        One batch a share. What goes wrong in a thread is raised here.
    """
    executor = ThreadPoolExecutor(threads, thread_name_prefix="views")
    pending: deque[_Pending] = deque()
    try:
        for share in shares:
            pending.append(_Pending(executor, maker, stream, share, pinned=pinned))
            if len(pending) > _AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)


class _Pending:
    """A batch whose samples threads are writing into their places."""

    def __init__(
        self,
        executor: ThreadPoolExecutor,
        maker: ViewMaker,
        stream: SampleStream,
        share: Share,
        *,
        pinned: bool,
    ) -> None:
        samples = stream.share(share)
        places = [(part.lap, int(position)) for part in samples for position in part.positions]

        def empty(term: str) -> Tensor:
            side = maker.side(term)
            return torch.empty((len(places), side, side, 3), dtype=torch.uint8, pin_memory=pinned)

        self._images = {term: (empty(term), empty(term)) for term in maker.terms}
        arrays = {term: (first.numpy(), second.numpy()) for term, (first, second) in self._images.items()}

        def write(index: int, lap: int, position: int) -> None:
            for term, crops in maker.crops(lap, position).items():
                for array, crop in zip(arrays[term], crops, strict=True):
                    np.copyto(array[index], crop)

        self._futures: list[Future[None]] = [
            executor.submit(write, index, *place) for index, place in enumerate(places)
        ]
        self._share = share
        self._parameters = maker.parameters(samples)
        self._weights = {INTER: maker.inter_weights(samples, stream.batch(share.step))} if INTER in maker.terms else {}

    def result(self) -> ViewBatch:
        """Wait for the samples and return the batch."""
        for future in self._futures:
            future.result()
        images = {
            term: (first.permute(0, 3, 1, 2), second.permute(0, 3, 1, 2))
            for term, (first, second) in self._images.items()
        }
        return ViewBatch(self._share.step, images, self._parameters, self._weights)
