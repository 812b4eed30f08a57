"""Batches of views, made ahead of their use by threads or by processes; the same batches either way.

Threads share the process that trains: decoding and resizing let go of Python's lock, drawing boxes does not. Processes
have a lock each and make a whole batch each, which then crosses in shared memory.
"""

import multiprocessing
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from orl_ray.pretraining.augmentation import Parameters
from orl_ray.pretraining.cuts import Cut
from orl_ray.pretraining.device_decoding import EncodedBatch
from orl_ray.pretraining.objectives import INTER
from orl_ray.pretraining.sampling import SampleStream, Share
from orl_ray.pretraining.views import ViewBatch, ViewMaker

Batch = ViewBatch | EncodedBatch
_AHEAD = 2


def view_batches(
    maker: ViewMaker,
    stream: SampleStream,
    shares: Iterable[Share],
    *,
    threads: int = 2,
    processes: int = 0,
    pinned: bool = False,
) -> Generator[Batch]:
    """Make some batches, or parts of batches, in order, with two more in the making than the one that is in use.

    Args:
        maker: cuts the views.
        stream: says which samples a step takes.
        shares: what is wanted.
        threads: threads that decode and cut, where there are no processes.
        processes: processes that decode and cut, each with two batches in the making; 0 takes threads.
        pinned: put the images into pinned memory, for copies to a GPU that do not wait.

    Yields:
        One batch a share. What goes wrong in a thread or a process is raised here.
    """
    if processes:
        yield from _from_processes(maker, stream, shares, processes, pinned=pinned)
    else:
        yield from _from_threads(maker, stream, shares, threads, pinned=pinned)


def _from_threads(
    maker: ViewMaker, stream: SampleStream, shares: Iterable[Share], threads: int, *, pinned: bool
) -> Generator[Batch]:
    executor = ThreadPoolExecutor(threads, thread_name_prefix="views")
    pending: deque[_Filling] = deque()
    try:
        for share in shares:
            filling = _Filling(maker, stream, share, pinned=pinned)
            filling.start(executor)
            pending.append(filling)
            if len(pending) > _AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)


def _from_processes(
    maker: ViewMaker, stream: SampleStream, shares: Iterable[Share], processes: int, *, pinned: bool
) -> Generator[Batch]:
    # Forked by a server that has imported this file: quicker than starting each anew, and safe beside threads.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    loader: DataLoader[Batch] = DataLoader(
        _Batches(maker, stream),
        batch_size=None,
        sampler=shares,
        num_workers=processes,
        prefetch_factor=_AHEAD,
        collate_fn=_as_it_is,
        pin_memory=pinned,
        multiprocessing_context=context,
    )
    yield from loader


@dataclass(frozen=True, slots=True)
class _Batches(Dataset[Batch]):
    """All batches, by their share, made one after the other in the process that asks."""

    maker: ViewMaker
    stream: SampleStream

    def __getitem__(self, share: Share) -> Batch:
        filling = _Filling(self.maker, self.stream, share, pinned=False)
        for fill in filling.fills:
            fill()
        return filling.batch


def _as_it_is(batch: Any) -> Any:
    return batch


class _Filling:
    """A batch that is still to be filled in.

    Attributes:
        batch: the batch.
        fills: one call a sample, which puts what it makes into its place.
    """

    def __init__(self, maker: ViewMaker, stream: SampleStream, share: Share, *, pinned: bool) -> None:
        samples = stream.share(share)
        if stream.window:
            maker.training_set.expect(stream.a_window_ahead(share))
        weights = {INTER: maker.inter_weights(samples, stream.batch(share.step))} if INTER in maker.terms else {}
        places = [(part.lap, int(position)) for part in samples for position in part.positions]
        blank = _blank_files if maker.on_device else partial(_blank_images, pinned=pinned)
        self.batch: Batch
        self.batch, fill = blank(maker, len(places), share.step, maker.parameters(samples), weights)
        self.fills = [partial(fill, index, *place) for index, place in enumerate(places)]
        self._futures: list[Future[None]] = []

    def start(self, executor: ThreadPoolExecutor) -> None:
        """Let threads fill the batch in."""
        self._futures = [executor.submit(fill) for fill in self.fills]

    def result(self) -> Batch:
        """Wait for the threads and return the batch."""
        for future in self._futures:
            future.result()
        return self.batch


_Fill = Callable[[int, int, int], None]
_Drawn = dict[str, tuple[Parameters, Parameters]]


def _blank_images(
    maker: ViewMaker, count: int, step: int, parameters: _Drawn, weights: dict[str, Tensor], *, pinned: bool
) -> tuple[ViewBatch, _Fill]:
    """Return a batch of unwritten images, and what writes the views of one sample."""

    def empty(term: str) -> Tensor:
        side = maker.side(term)
        return torch.empty((count, side, side, 3), dtype=torch.uint8, pin_memory=pinned)

    images = {term: (empty(term), empty(term)) for term in maker.terms}
    arrays = {term: (first.numpy(), second.numpy()) for term, (first, second) in images.items()}

    def fill(index: int, lap: int, position: int) -> None:
        for term, crops in maker.crops(lap, position).items():
            for array, crop in zip(arrays[term], crops, strict=True):
                np.copyto(array[index], crop)

    views = {term: (first.permute(0, 3, 1, 2), second.permute(0, 3, 1, 2)) for term, (first, second) in images.items()}
    return ViewBatch(step, views, parameters, weights), fill


def _blank_files(
    maker: ViewMaker, count: int, step: int, parameters: _Drawn, weights: dict[str, Tensor]
) -> tuple[EncodedBatch, _Fill]:
    """Return a batch without files yet, and what adds those of one sample."""
    files: dict[int, Tensor] = {}
    samples: list[dict[str, tuple[Cut, Cut]]] = [{}] * count

    def fill(index: int, lap: int, position: int) -> None:
        samples[index] = maker.cuts(lap, position)
        for image in {cut.position for pair in samples[index].values() for cut in pair}:
            if image not in files:
                files[image] = maker.encoded(image, alone=image != position)

    return EncodedBatch(step, maker.terms, files, samples, parameters, weights), fill
