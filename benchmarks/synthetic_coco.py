"""A COCO JSON of any number of images, and files for all of them; nothing of it is held in memory."""

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TextIO

import cv2
import numpy as np

_WIDTH, _HEIGHT = 64, 48
_CATEGORIES = 80
_SHAPES = 1000
_FOLDER_IMAGES = 1000
# Hard links to one file: ext4 takes 65,000, others more.
_MOST_LINKS, _LEAST_PICTURES = 10_000, 100
_LINES_A_WRITE = 10_000


def write_coco(folder: Path, images: int, annotations_per_image: int, pictures: int = 0) -> tuple[Path, Path]:
    """Write a collection as COCO lays it out: every field of its images and annotations, ids in no order.

    Image files are hard links to small JPEGs, a thousand a sub-folder: each path is read and decoded like any other.

    Args:
        folder: an empty folder.
        images: how many.
        annotations_per_image: how many of each, with polygons of 8 to 40 points.
        pictures: how many different JPEGs; 0 takes as few as links allow, at least a hundred.

    Returns:
        The folder of images, and the JSON.
    """
    root, file = folder / "train", folder / "instances_train.json"
    different = pictures or max(_LEAST_PICTURES, -(-images // _MOST_LINKS))
    _link_images(root, _write_pictures(folder / "pictures", different), images)
    with file.open("w") as stream:
        stream.write('{"info": {"description": "synthetic"},"licenses": [{"url": "none","id": 1,"name": "none"}],')
        _write_list(stream, "images", map(_image, range(images)))
        stream.write(",")
        _write_list(stream, "annotations", _annotations(images, images * annotations_per_image))
        stream.write(",")
        _write_list(stream, "categories", map(_category, range(1, _CATEGORIES + 1)))
        stream.write("}")
    return root, file


def _write_pictures(folder: Path, count: int) -> list[Path]:
    folder.mkdir()
    random, paths = np.random.default_rng(0), []
    for number in range(count):
        coarse = random.integers(0, 256, (3, 4, 3), np.uint8)
        picture = cv2.resize(coarse, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_CUBIC)
        paths.append(folder / f"{number}.jpg")
        paths[-1].write_bytes(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 60])[1].tobytes())
    return paths


def _link_images(root: Path, pictures: list[Path], images: int) -> None:
    for position in range(images):
        path = root / _name(position)
        if position % _FOLDER_IMAGES == 0:
            path.parent.mkdir(parents=True)
        os.link(pictures[position % len(pictures)], path)


def _write_list(stream: TextIO, key: str, lines: Iterable[str]) -> None:
    stream.write(f'"{key}": [')
    open_lines, separator = iter(lines), ""
    while some := list(islice(open_lines, _LINES_A_WRITE)):
        stream.write(separator + ",".join(some))
        separator = ","
    stream.write("]")


def _id(position: int) -> int:
    """Return the id of an image: a permutation of the numbers below 2**31, as COCO's JSONs are in no order of ids."""
    return position * 2_654_435_761 % 2**31


def _name(position: int) -> str:
    return f"{position // _FOLDER_IMAGES:06d}/{_id(position):012d}.jpg"


def _image(position: int) -> str:
    name = _name(position)
    return (
        f'{{"license": 1,"file_name": "{name}","coco_url": "http://images.cocodataset.org/train2017/{name}",'
        f'"height": {_HEIGHT},"width": {_WIDTH},"date_captured": "2013-11-14 11:18:45","flickr_url": '
        f'"http://farm9.staticflickr.com/8186/{_id(position):010d}_4e622c8349_z.jpg","id": {_id(position)}}}'
    )


def _annotations(images: int, count: int) -> Iterator[str]:
    shapes = _shapes()
    for number in range(count):
        shape, box = shapes[number * 7919 % _SHAPES]
        yield (
            f'{{{shape}"iscrowd": 0,"image_id": {_id(number % images)},{box}'
            f'"category_id": {1 + number * 31 % _CATEGORIES},"id": {number + 1}}}'
        )


def _shapes() -> list[tuple[str, str]]:
    """Draw polygons; return their members of an annotation, those before and those behind the id of its image."""
    random, made = np.random.default_rng(1), []
    for _ in range(_SHAPES):
        points = random.uniform((0, 0), (_WIDTH, _HEIGHT), (int(random.integers(8, 41)), 2)).round(2)
        low, size = points.min(axis=0), np.ptp(points, axis=0).round(2)
        area = f'"area": {size.prod() / 2:.13f},'
        polygon = ",".join(f"{value:g}" for value in points.ravel())
        made.append(
            (f'"segmentation": [[{polygon}]],{area}', f'"bbox": [{low[0]:g},{low[1]:g},{size[0]:g},{size[1]:g}],')
        )
    return made


def _category(number: int) -> str:
    return f'{{"supercategory": "thing","id": {number},"name": "thing {number}"}}'
