"""What near-duplicates are found, what is taken for one by mistake, and what the search costs.

``python -m benchmarks.near_duplicates [--images N]`` prints, with the default limits: the time of a fingerprint; the
share of slightly different copies of real photographs that are recognised, by kind of change; the groups among all
photographs as they are; and the time and memory of grouping N fingerprints (default a million: some minutes), most of
them unrelated, a tenth of them a film from one spot. Photographs are those of ``ORL_SCENES``.
"""

import argparse
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import photo_copies
from benchmarks.photo_copies import Photograph
from orl_ray.config import NearDuplicates
from orl_ray.scenes.decode import decode
from orl_ray.scenes.near_duplicates import THUMBNAIL_BYTES, fingerprint, group_near_duplicates

Prints = tuple[NDArray[np.uint64], NDArray[np.uint8]]
Change = Callable[[Photograph, np.random.Generator], Photograph]

LIMITS = NearDuplicates()
CHANGES: dict[str, Change] = {
    "JPEG quality 50 to 95": lambda image, rng: photo_copies.reencoded(image, int(rng.integers(50, 96))),
    "resized to 50-100 %": lambda image, rng: photo_copies.resized(image, rng.uniform(0.5, 1)),
    "1-4 % off one side": lambda image, rng: photo_copies.cropped(image, rng.uniform(0.01, 0.04), 0, 0, 0),
    "1-4 % off each side": lambda image, rng: photo_copies.cropped(image, *rng.uniform(0.01, 0.04, 4)),
    "4 % off each side": lambda image, _: photo_copies.cropped(image, 0.04, 0.04, 0.04, 0.04),
    "contrast, brightness +-10 %": lambda image, rng: photo_copies.relit(
        image, rng.uniform(0.9, 1.1), rng.uniform(-25, 25)
    ),
    "rotated by 1-2 degrees": lambda image, rng: photo_copies.rotated(image, rng.choice([-1, 1]) * rng.uniform(1, 2)),
    "shifted by up to 3 %": lambda image, rng: photo_copies.shifted(image, *rng.uniform(-0.03, 0.03, 2)),
    "burst: all of it, smaller": photo_copies.burst,
}


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_000_000, help="fingerprints that are grouped")
    options = parser.parse_args()
    print(f"limits: {LIMITS.max_distance} bits, {LIMITS.max_colour_difference:g} grey levels")
    folder = Path(os.environ.get("ORL_SCENES", Path(__file__).parents[2] / "shared" / "data")) / "coco_pool" / "images"
    if folder.is_dir():
        _photographs(sorted(folder.iterdir()))
    else:
        print("no photographs: set ORL_SCENES to a folder with coco_pool/; recall and false groups are left out")
    _cost(options.images)


def _photographs(files: list[Path]) -> None:
    """Print recall on every fourth photograph and the groups among all of them."""
    rng = np.random.default_rng(0)
    originals: list[tuple[int, bytes]] = []
    copies: dict[str, list[tuple[int, bytes]]] = {name: [] for name in CHANGES}
    seconds = 0.0
    for number, file in enumerate(files):
        image = decode(file.read_bytes(), 10**8)
        started = time.perf_counter()
        originals.append(fingerprint(image))
        seconds += time.perf_counter() - started
        if number % 4 == 0:
            for name, change in CHANGES.items():
                copies[name].append(fingerprint(change(image, rng)))
    print(f"a fingerprint: {1000 * seconds / len(files):.2f} ms after decoding, {len(files)} photographs")
    for name, changed in copies.items():
        members, groups = _group(_stacked([*originals[::4], *changed]))
        own = dict(zip(members.tolist(), groups.tolist(), strict=True))
        count = len(changed)
        found = [own.get(i, -1) == own.get(i + count, -2) for i in range(count)]
        print(f"recognised: {100 * np.mean(found):5.1f} %  {name} ({count} copies)")
    prints = _stacked(originals)
    members, groups = _group(prints)
    print(f"grouped as they are: {len(members)} of {len(files)} photographs, in {len(np.unique(groups))} groups")
    for name in np.unique(groups):
        print("  " + ", ".join(files[member].name for member in members[groups == name]))
    hashes = prints[0]
    near = sum(int((np.bitwise_count(one ^ hashes[:i]) <= LIMITS.max_distance).sum()) for i, one in enumerate(hashes))
    print(f"pairs with near hashes, before thumbnails are compared: {near} of {len(files) * (len(files) - 1) // 2:,}")


def _cost(images: int) -> None:
    """Print time and memory of grouping made-up fingerprints: a tenth are frames of one film."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 1 << 64, images, dtype=np.uint64)
    thumbnails = rng.integers(0, 256, (images, THUMBNAIL_BYTES), dtype=np.uint8)
    for film in (0, images // 10):
        hashes[:film] = hashes[0]
        for _ in range(3):
            hashes[:film] ^= np.uint64(1) << rng.integers(0, 64, film, dtype=np.uint64)
        thumbnails[:film] = rng.integers(100, 103, (film, THUMBNAIL_BYTES))
        before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        members, groups = _group((hashes, thumbnails))
        seconds, grown = time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(
            f"grouping {images:,} fingerprints, {film:,} of them a film: {seconds:.1f} CPU seconds, at most "
            f"{grown / 1024:.0f} MB beside the {hashes.nbytes / 2**20 + thumbnails.nbytes / 2**20:.0f} MB of them; "
            f"{len(members):,} images in {len(np.unique(groups)):,} groups"
        )


def _group(prints: Prints) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return group_near_duplicates(np.arange(len(prints[0])), *prints, LIMITS.max_distance, LIMITS.max_colour_difference)


def _stacked(prints: list[tuple[int, bytes]]) -> Prints:
    hashes = np.array([perceptual_hash for perceptual_hash, _ in prints], dtype=np.uint64)
    return hashes, np.array([np.frombuffer(thumbnail, np.uint8) for _, thumbnail in prints])


if __name__ == "__main__":
    main()
