"""How fast a training step is: ours, the published recipe's, and the bare forward and backward of the same networks.

``python -m benchmarks.training_step [--stage object_level] [--images FOLDER] [--blocks 5] [--steps 2] [--workers 0]
[--threads 1] [--peak-tflops 0] [--compile] [--least-speedup 1] [--most-wait 1] [name=value ...]`` trains on 64
photographs of a folder, or on pictures that are drawn, with RoIs and pairs drawn at random; settings are those of the
main job. Without any, on a CPU: a small network and batch. With a CUDA device: ResNet-50, 224 and 96 pixels, a batch of
256, at least twice the recipe's speed asked for and at most 5 % of waiting. **It has never run on a GPU yet.**

Block by block in turn, so many steps each, in one process:

- ours: the loop of ``pretraining/loop.py``, from encoded images to moved target;
- published: :mod:`benchmarks.published_training`, whose images ``--workers`` processes augment;
- bare: forward of the target, forward and backward of the online network, on ready views, in our layout and precision;
- with ``--compile``, ours again under ``torch.compile``.

The last line is a JSON object, of medians over blocks (range beside them):

- ``samples_per_second``: of ours; ``speedup``: ours over published, by wall time; ``cpu_speedup``: by CPU time of all
  processes, which other programs on the machine do not disturb; ``compile_speedup``.
- ``share_of_bare``: time of bare over ours. ``cpu_share_of_bare``.
- ``data_wait``: share of the time that ours waited for views.
- ``mfu``: operations of bare (counted by ``torch.utils.flop_counter``) a second of ours, over the device's peak:
  ``--peak-tflops``, or what a large matrix product reaches in the precision of the networks (``peak_tflops``).

The exit status is 0 where ``speedup`` (on a CPU ``cpu_speedup``) and ``data_wait`` keep the limits.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.published_training import PublishedTraining, PublishedViews, endless_batches
from orl_ray import config
from orl_ray.pretraining.loop import training_steps
from orl_ray.pretraining.objectives import OnlineTarget, term_weights
from orl_ray.pretraining.passes import Passes
from orl_ray.pretraining.place import Place
from orl_ray.pretraining.prefetch import view_batches
from orl_ray.pretraining.sampling import SampleStream
from orl_ray.pretraining.schedules import Schedule
from orl_ray.pretraining.state import TrainingState
from orl_ray.pretraining.step_clock import StepClock
from orl_ray.pretraining.training_set import TrainingSet
from orl_ray.pretraining.training_set_writer import TrainingSetWriter
from orl_ray.pretraining.views import ViewMaker
from orl_ray.settings import load

IMAGES = 64
_SMALL = ("encoder.backbone=resnet18", "encoder.hidden=512", "encoder.output=128")
_SMALL_STAGE = ("batch_size=16", "view_size=64", "epochs=1000", "warmup_epochs=0")


@dataclass(slots=True)
class Side:
    """One side of the comparison.

    Attributes:
        step: does one step.
        wall: seconds a step, a block each.
        cpu: CPU seconds a step, of this process and its children.
    """

    step: Callable[[], object]
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def measure(self, steps: int, device: torch.device) -> None:
        """Do some steps and note what one took."""
        wall, cpu = time.perf_counter(), _cpu_seconds()
        for _ in range(steps):
            self.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        self.wall.append((time.perf_counter() - wall) / steps)
        self.cpu.append((_cpu_seconds() - cpu) / steps)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--stage", choices=("image_level", "object_level"), default="object_level")
    parser.add_argument("--images", type=Path, help="folder of photographs; without one, pictures are drawn")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="steps a block and side")
    parser.add_argument("--workers", type=int, default=0, help="processes that augment for the published recipe")
    parser.add_argument("--threads", type=int, default=1, help="threads that decode for ours; on a CPU, all of torch's")
    parser.add_argument("--peak-tflops", type=float, default=0.0)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--least-speedup", type=float)
    parser.add_argument("--most-wait", type=float)
    parser.add_argument("settings", nargs="*", metavar="name=value")
    options = parser.parse_intermixed_args()
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    if not on_gpu:
        torch.set_num_threads(options.threads)
    wanted = load("coco", None, [*_defaults(options.stage, on_gpu=on_gpu), *options.settings])
    with tempfile.TemporaryDirectory(prefix="orl-training-step-") as name:
        training_set = _training_set(Path(name) / "set", options.images)
        result = _measure(wanted, training_set, device, options)
    least = options.least_speedup if options.least_speedup is not None else (2.0 if on_gpu else 1.0)
    most = options.most_wait if options.most_wait is not None else (0.05 if on_gpu else 1.0)
    print(json.dumps(result))
    return 0 if result["speedup" if on_gpu else "cpu_speedup"] >= least and result["data_wait"] <= most else 1


def _defaults(stage: str, *, on_gpu: bool) -> list[str]:
    if on_gpu:
        return [f"{stage}.batch_size=256", f"{stage}.epochs=100000"]
    small = [*_SMALL, *(f"{stage}.{entry}" for entry in _SMALL_STAGE)]
    return [*small, "object_level.patch_size=32"]


def _training_set(folder: Path, photographs: Path | None) -> TrainingSet:
    """Write encoded images, with twenty RoIs each and pairs with three others."""
    random = np.random.default_rng(0)
    files = sorted(photographs.iterdir())[:IMAGES] if photographs else []
    encoded = [path.read_bytes() for path in files] if files else [_drawn(random) for _ in range(IMAGES)]

    def boxes(data: bytes, count: int) -> np.ndarray[Any, Any]:
        width, height = Image.open(BytesIO(data)).size
        sides = np.stack([random.integers(48, extent // 2, count) for extent in (width, height)], axis=1)
        corners = random.integers(0, np.array([width, height]) - sides)
        return np.hstack([corners, sides])

    rois = [boxes(data, 20) for data in encoded]
    with TrainingSetWriter(folder, max_pixels=10**8) as writer:
        for position, data in enumerate(encoded):
            others = [(position + step) % len(encoded) for step in (1, 2, 3)]
            rows = [(other, rois[position][:4], rois[other][:4]) for other in others]
            writer.add(position, data, rois[position], rows)
    return TrainingSet.open(folder)


def _drawn(random: np.random.Generator) -> bytes:
    """Draw a picture of the size of COCO's, of many rectangles, as JPEG."""
    pixels = random.integers(0, 255, (480, 640, 3), np.uint8) // 8
    for _ in range(40):
        x, y = random.integers(0, 600), random.integers(0, 440)
        pixels[y : y + random.integers(8, 160), x : x + random.integers(8, 160)] += random.integers(0, 200, 3, np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", quality=90)
    return file.getvalue()


def _measure(
    wanted: config.Config, training_set: TrainingSet, device: torch.device, options: argparse.Namespace
) -> dict[str, Any]:
    settings: config.Pretraining = getattr(wanted, options.stage)
    terms = tuple(term_weights(settings))
    patch = settings.patch_size if isinstance(settings, config.ObjectLevel) else 0
    entries: list[dict[str, float]] = []
    ours = _ours(wanted, options, training_set, device, entries, compiled=False)
    views = PublishedViews(training_set, terms, settings.view_size, patch)
    network = OnlineTarget(wanted.encoder, terms, wanted.seed, options.stage)
    published = PublishedTraining(
        settings, network, device, endless_batches(views, settings.batch_size, options.workers)
    )
    bare, operations = _bare(wanted, options.stage, terms, patch, device)
    sides = {"ours": Side(lambda: next(ours)), "published": Side(published.step), "bare": Side(bare)}
    if options.compile:
        compiled = _ours(wanted, options, training_set, device, [], compiled=True)
        sides["compiled"] = Side(lambda: next(compiled))
    for side in sides.values():  # the first steps allocate, compile, and start workers
        for _ in range(2):
            side.step()
    entries.clear()
    for block in range(options.blocks):
        for side in sides.values():
            side.measure(options.steps, device)
        print(f"block {block + 1} of {options.blocks}", file=sys.stderr, flush=True)
    peak = options.peak_tflops or _peak_tflops(device)
    result = _result(sides, settings.batch_size, operations, peak)
    result["data_wait"] = round(float(np.mean([entry["data_wait"] for entry in entries])), 4)
    about = {"device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu", "stage": options.stage}
    return about | {"backbone": wanted.encoder.backbone, "batch_size": settings.batch_size} | result


def _ours(
    wanted: config.Config,
    options: argparse.Namespace,
    training_set: TrainingSet,
    device: torch.device,
    entries: list[dict[str, float]],
    *,
    compiled: bool,
) -> Iterator[dict[str, float]]:
    """Yield after each step of our loop, and note what it measured."""
    settings: config.Pretraining = getattr(wanted, options.stage)
    weights, place = term_weights(settings), Place(device=device)
    stream = SampleStream(wanted.seed, options.stage, len(training_set), settings.batch_size)
    # As many steps as the history has entries: each one is logged, which costs more than a long training pays.
    schedule = replace(Schedule.of(settings, stream), total=200)
    names = (tuple(weights), wanted.seed, options.stage)
    state = TrainingState(settings, wanted.encoder, *names, place, len(training_set))
    if compiled:
        state.compile()
    patch = settings.patch_size if isinstance(settings, config.ObjectLevel) else 0
    maker = ViewMaker(training_set, wanted.seed, options.stage, tuple(weights), settings.view_size, patch)
    passes = Passes(stream, settings.micro_batch or settings.batch_size, place)
    shares = (share for step in range(schedule.total) for share in passes.of_step(step))
    pinned, clock = device.type == "cuda", StepClock(device, settings.batch_size)
    batches = view_batches(maker, stream, shares, threads=options.threads, pinned=pinned)
    for entry in training_steps(state, schedule, weights, batches, passes, clock):
        entries.append(entry)
        yield entry


def _bare(
    wanted: config.Config, stage: str, terms: tuple[str, ...], patch: int, device: torch.device
) -> tuple[Callable[[], None], int]:
    """Return a bare forward and backward on ready views, and how many operations it is."""
    settings: config.Pretraining = getattr(wanted, stage)
    network = OnlineTarget(wanted.encoder, terms, wanted.seed, stage)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    sides = {term: settings.view_size if term == "global" else patch for term in terms}

    def ready(side: int) -> torch.Tensor:
        images = torch.rand((settings.batch_size, 3, side, side), device=device)
        return images.contiguous(memory_format=torch.channels_last)

    views = {term: (ready(side), ready(side)) for term, side in sides.items()}

    def step() -> None:
        network.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            losses, _ = network.losses(network.online, views, {})
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]

    with FlopCounterMode(display=False) as counter:
        step()
    return step, counter.get_total_flops()


def _peak_tflops(device: torch.device) -> float:
    """Measure what a matrix product reaches, in bfloat16 on a GPU and in float32 on a CPU."""
    size, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (1024, torch.float32)
    left, right = (torch.rand((size, size), device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        product = left @ right
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    del product
    return 2 * size**3 / best / 1e12


def _result(sides: dict[str, Side], batch_size: int, operations: int, peak: float) -> dict[str, Any]:
    def ratio(one: str, other: str, clock: str) -> list[float]:
        pairs = zip(getattr(sides[one], clock), getattr(sides[other], clock), strict=True)
        return [round(first / second, 3) for first, second in pairs]

    compared = {
        "speedup": ratio("published", "ours", "wall"),
        "cpu_speedup": ratio("published", "ours", "cpu"),
        "share_of_bare": ratio("bare", "ours", "wall"),
        "cpu_share_of_bare": ratio("bare", "ours", "cpu"),
    }
    if "compiled" in sides:
        compared["compile_speedup"] = ratio("ours", "compiled", "wall")
        compared["compile_cpu_speedup"] = ratio("ours", "compiled", "cpu")
    seconds = median(sides["ours"].wall)
    result: dict[str, Any] = {"samples_per_second": round(batch_size / seconds, 2)}
    for name, ratios in compared.items():
        result |= {name: median(ratios), f"{name}_range": [min(ratios), max(ratios)]}
    result |= {"gflop_a_sample": round(operations / batch_size / 1e9, 3), "peak_tflops": round(peak, 3)}
    return result | {"mfu": round(operations / seconds / 1e12 / peak, 4)}


def _cpu_seconds() -> float:
    """CPU seconds of this process and of its living children."""
    process = psutil.Process()
    family = [process, *process.children(recursive=True)]
    return sum(times.user + times.system for times in (member.cpu_times() for member in family))


if __name__ == "__main__":
    sys.exit(main())
