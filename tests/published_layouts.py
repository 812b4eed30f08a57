"""Tiny copies of published data sets, in exactly their layouts."""

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
from PIL import Image
from scipy.io import savemat

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)


def picture(path: Path, label: int, number: int, size=(48, 40)) -> None:
    """Write a JPEG whose colour shows its class, with some noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng([label, number])
    colour = np.array([(40, 40, 220), (220, 60, 30), (40, 200, 60), (220, 220, 60), (120, 20, 120)][label % 5])
    pixels = colour + generator.normal(0, 18, size=(size[1], size[0], 3))
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, "JPEG", quality=92)


def voc2007(root: Path, labels: dict[str, dict[str, dict[str, int]]]) -> Path:
    """Write VOC 2007 with labels by split, image and class, in VOC's own numbers: 1, -1, and 0 for difficult.

    A class that an image does not name is absent.
    """
    base = root / "VOCdevkit/VOC2007"
    (base / "ImageSets/Main").mkdir(parents=True)
    (base / "Annotations").mkdir()
    for split, images in labels.items():
        (base / f"ImageSets/Main/{split}.txt").write_text("".join(f"{name}\n" for name in images))
        for class_name in VOC_CLASSES:
            lines = [f"{name} {of_image.get(class_name, -1):2d}\n" for name, of_image in images.items()]
            (base / f"ImageSets/Main/{class_name}_{split}.txt").write_text("".join(lines))
        for number, (name, of_image) in enumerate(images.items()):
            picture(base / f"JPEGImages/{name}.jpg", len(of_image), number)
            _annotation(base / f"Annotations/{name}.xml", name, of_image)
    return root


def _annotation(path: Path, name: str, labels: dict[str, int]) -> None:
    root = ET.Element("annotation")
    ET.SubElement(root, "folder").text = "VOC2007"
    ET.SubElement(root, "filename").text = f"{name}.jpg"
    for class_name, label in labels.items():
        if label != -1:
            found = ET.SubElement(root, "object")
            ET.SubElement(found, "name").text = class_name
            ET.SubElement(found, "difficult").text = str(int(label == 0))
            box = ET.SubElement(found, "bndbox")
            for side, value in zip(("xmin", "ymin", "xmax", "ymax"), (1, 1, 20, 20), strict=True):
                ET.SubElement(box, side).text = str(value)
    ET.ElementTree(root).write(path)


def imagenet(root: Path, train: int, val: int, classes=("n01440764", "n01443537", "n01484850"), *, flat=False) -> Path:
    """Write ImageNet with so many images a class; a flat val has the development kit beside it."""
    for label, wnid in enumerate(classes):
        for number in range(train):
            picture(root / f"train/{wnid}/{wnid}_{100 + number}.JPEG", label, number)
        for number in range(val if not flat else 0):
            name = f"ILSVRC2012_val_{label * val + number + 1:08d}.JPEG"
            picture(root / f"val/{wnid}/{name}", label, 1000 + number)
    if flat:
        _flat_val(root, val, classes)
    return root


def _flat_val(root: Path, val: int, classes: tuple[str, ...]) -> None:
    """The kit numbers classes in another order than their WordNet ids, and has inner nodes, too."""
    kit = root / "ILSVRC2012_devkit_t12/data"
    kit.mkdir(parents=True)
    of_kit = {wnid: len(classes) - label for label, wnid in enumerate(classes)}
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    kind += [("children", "O"), ("wordnet_height", "O"), ("num_train_images", "O")]
    rows = [(number, wnid, "a word", "a gloss", 0, [], 0, 1300) for wnid, number in of_kit.items()]
    rows = [*sorted(rows), (len(rows) + 1, "n00001740", "entity", "a gloss", len(rows), [1, 2], 3, 0)]
    savemat(kit / "meta.mat", {"synsets": np.array(rows, dtype=kind).reshape(-1, 1)})
    truth = []
    for number in range(val * len(classes)):
        label = number % len(classes)
        picture(root / f"val/ILSVRC2012_val_{number + 1:08d}.JPEG", label, 1000 + number)
        truth.append(of_kit[classes[label]])
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{label}\n" for label in truth))


def places205(root: Path, train: int, val: int, names=("a/abbey", "a/airport_terminal", "c/canyon"), form=0) -> Path:
    """Write Places205 in one of its three forms."""
    lists, images = (
        ("{split}_places205.csv", "images256"),
        ("trainvalsplit_places205/{split}_places205.csv", "data/vision/torralba/deeplearning/images256"),
        ("meta/{split}_labeled.txt", "{split}"),
    )[form]
    for split, count, start in (("train", train, 0), ("val", val, 5000)):
        lines = []
        for label, name in enumerate(names):
            for number in range(count):
                path = f"{name}/gsun_{start + number:032x}.jpg"
                picture(root / images.format(split=split) / path, label, start + number)
                lines.append(f"{path} {label}\n")
        file = root / lists.format(split=split)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(reversed(lines)))
    return root


def inaturalist18(root: Path, train: int, val: int, categories=(7, 3, 5)) -> Path:
    """Write iNaturalist 2018; category ids neither start at 0 nor follow each other here."""
    ids = iter(range(1, 10_000))
    for split, count, start in (("train", train, 0), ("val", val, 5000)):
        images, annotations = [], []
        for label, category in enumerate(sorted(categories)):
            for number in range(count):
                image, path = next(ids), f"train_val2018/Plantae/{category}/{start + number:032x}.jpg"
                picture(root / path, label, start + number)
                images.append(
                    {"license": 3, "file_name": path, "rights_holder": "x", "height": 40, "width": 48, "id": image}
                )
                annotations.append({"image_id": image, "category_id": category, "id": image})
        content = {"info": {"year": 2018}, "images": images, "licenses": [], "annotations": annotations}
        content["categories"] = [{"id": category, "name": f"Genus species{category}"} for category in categories]
        (root / f"{split}2018.json").write_text(json.dumps(content))
    return root
