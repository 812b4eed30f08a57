"""Images a second of a full read of a collection: packed, against one file an image; on a disk and on S3.

``python -m benchmarks.packed_scenes [--images 1500] [--threads 1 8] [--repeats 3] [--s3 s3://bucket/folder]`` lists and
packs photographs from ``coco_pool`` under ``ORL_SCENES`` (or ``../shared/data``; generated scenes where there are
none) by the main job's own functions, copies source and packs to S3 (moto's server on this machine, or ``--s3`` with
the usual AWS environment), and reads all encoded bytes, without decoding them, by the main job's own readers. Both
sides have the same number of threads. Each measurement is a process of its own with new connections; sides take turns;
on the disk, the page cache is dropped first. It prints one line of JSON a place and number of threads: medians of
images/s, and the median and range of the ratio.

The packed side checks the hash of what it reads, the other side cannot. moto's server answers from this machine's
memory and takes a few milliseconds of its CPU a request: a real service takes longer for a request, and serves more at
once.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from orl_ray.config import Config
from orl_ray.folders import Folder
from orl_ray.part_runner import PartWorker, WorkerContext, prepare_nothing
from orl_ray.scenes.generated import write_collection
from orl_ray.scenes.listing import write_listing
from orl_ray.scenes.packing import pack_part
from orl_ray.scenes.packs import read_pack
from orl_ray.settings import load
from orl_ray.storage import Store, parquet_bytes

_GENERATED_SIDE = 320
_START_SECONDS = 30.0


def main() -> int:
    """Read both ways in turn and print the rates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--s3", default="", help="an empty folder in a bucket; default: moto's server on this machine")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="orl-packed-") as scratch, contextlib.ExitStack() as stack:
        source, store = Folder(Path(scratch) / "source"), Store(Path(scratch) / "store")
        kind = _collect(source, options.images)
        keys = _pack(source, store)
        place = Folder(options.s3 or stack.enter_context(_moto_server()))
        _copy(source, place / "source")
        _copy(store.root, place / "store")
        os.sync()
        sizes = [info.bytes for info in source.files()]
        print(json.dumps({"images": len(sizes), "kind": kind, "mean_bytes": sum(sizes) // len(sizes)}), flush=True)
        places = {"disk": (source, store), "s3": (place / "source", Store(place / "store"))}
        try:
            for name, (files, packs) in places.items():
                for threads in options.threads:
                    print(
                        json.dumps({"place": name, **_compare(files, packs, keys, threads, options.repeats)}),
                        flush=True,
                    )
        finally:
            place.delete_folder()
    return 0


def _collect(source: Folder, images: int) -> str:
    """Put so many images into a folder; say which."""
    root = Path(os.environ.get("ORL_SCENES", Path(__file__).resolve().parents[2] / "shared" / "data"))
    photographs = sorted((root / "coco_pool" / "images").glob("*.jpg"))[:images]
    if len(photographs) == images:
        for path in photographs:
            source.write(path.name, path.read_bytes())
        return "photographs of coco_pool"
    with tempfile.TemporaryDirectory() as folder:
        write_collection(Path(folder) / "scenes", 0, "train", images, _GENERATED_SIDE)
        _copy(Folder(folder) / "scenes/images", source)
    return "generated scenes"


def _pack(source: Folder, store: Store) -> list[str]:
    """List and pack a folder as the main job does; return the keys of the packed parts."""
    overrides = ["source.kind=folder", f"source.images={source}", f"execution.store={store.root}"]
    config: Config = load("coco", None, overrides)
    store.prepare()
    worker = PartWorker("packed_scenes", pack_part, prepare_nothing, WorkerContext(config, store, {}))
    listed = write_listing(config, store, "listing")
    for record in listed:
        worker({"index": record.index, "key": f"packed-{record.index}", "inputs": json.dumps({"listing": record.key})})
    return [f"packed-{record.index}" for record in listed]


def _copy(folder: Folder, to: Folder) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda info: to.write(info.path, folder.read(info.path)), folder.files()))


def _compare(files: Folder, packs: Store, keys: list[str], threads: int, repeats: int) -> dict[str, object]:
    paths = [info.path for info in files.files()]
    rates: dict[str, list[float]] = {"files": [], "packs": []}
    read: set[int] = set()
    for _ in range(repeats):
        for side, found in rates.items():
            for folder in (files, packs.root):
                if folder.is_local:
                    _drop_from_cache(folder)
            if side == "files":
                size, seconds = _in_new_process(read_files, files, paths, threads)
            else:
                size, seconds = _in_new_process(read_packs, packs, keys, threads)
            found.append(len(paths) / seconds)
            read.add(size)
    if len(read) != 1:
        raise RuntimeError(f"both sides must read the same bytes, not {read}")
    ratios = [packed / plain for packed, plain in zip(rates["packs"], rates["files"], strict=True)]
    return {
        "threads": threads,
        "files_images_s": round(statistics.median(rates["files"])),
        "packs_images_s": round(statistics.median(rates["packs"])),
        "ratio": round(statistics.median(ratios), 2),
        "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
    }


def read_files(folder: Folder, paths: list[str], threads: int) -> int:
    """Read every image as a file of its own; return their bytes."""
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(lambda path: len(folder.read(path)), paths))


def read_packs(store: Store, keys: list[str], threads: int) -> int:
    """Read every image from its pack; return their bytes."""
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(lambda key: sum(len(data) for _, data in read_pack(store, key)), keys))


def _in_new_process(
    read: Callable[..., int], place: Folder | Store, names: list[str], threads: int
) -> tuple[int, float]:
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_timed, (read, place, names, threads))


def _timed(read: Callable[..., int], place: Folder | Store, names: list[str], threads: int) -> tuple[int, float]:
    # Modules, which both libraries load late, are no part of the time; connections are.
    import boto3  # noqa: F401

    pq.read_table(pa.BufferReader(parquet_bytes(pa.table({"id": [0]}))))
    started = time.monotonic()
    size = read(place, names, threads)
    return size, time.monotonic() - started


def _drop_from_cache(folder: Folder) -> None:
    for info in folder.files():
        descriptor = os.open(folder.local / info.path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _moto_server() -> Iterator[str]:
    """Run moto's S3 server on a free port, lead this process and its children to it; yield a bucket's URI."""
    import boto3

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen(  # noqa: S603 -- our own server
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        os.environ.update(AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}", AWS_DEFAULT_REGION="us-east-1")
        os.environ.update(AWS_ACCESS_KEY_ID="testing", AWS_SECRET_ACCESS_KEY="testing")  # noqa: S106 -- moto takes any
        limit = time.monotonic() + _START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                if server.poll() is not None or time.monotonic() > limit:
                    raise RuntimeError("moto's server did not start: install the extra dev") from None
                time.sleep(0.1)
        boto3.client("s3").create_bucket(Bucket="packed-scenes")
        yield "s3://packed-scenes/benchmark"
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    sys.exit(main())
