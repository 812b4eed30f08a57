"""The layouts as they are published, in tiny copies: every number of a map becomes the class that the set means."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask

from orl_ray.evaluation.mean_iou import IGNORE
from orl_ray.evaluation.segmentation_layouts import VOC_CLASSES, ade20k, coco_masks, coco_stuff, voc2012

SIZE = (6, 4)  # width, height


def photograph(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE, (90, 120, 30)).save(path)


def numbers(path, values, palette=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = np.resize(np.array(values, np.uint8), (SIZE[1], SIZE[0]))
    image = Image.fromarray(content)
    if palette:
        image = image.convert("P")
        image.putdata(content.ravel().tolist())
        image.putpalette([(7 * value) % 256 for value in range(768)])
    image.save(path)
    return content


class TestVoc:
    def make(self, root):
        for name in ("2007_000032", "2007_000039", "2008_000001"):
            photograph(root / "JPEGImages" / f"{name}.jpg")
        lists = root / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True)
        (lists / "train.txt").write_text("2007_000032\n2007_000039\n")
        (lists / "val.txt").write_text("2007_000039\n")
        return [
            numbers(root / "SegmentationClass" / f"{name}.png", [0, 1, 20, 255, 15], palette=True)
            for name in ("2007_000032", "2007_000039")
        ]

    def test_the_lists_choose_and_the_palettes_numbers_are_the_classes(self, tmp_path):
        wanted = self.make(tmp_path)
        found = voc2012(tmp_path, "train")
        assert [image.stem for image in found.images] == ["2007_000032", "2007_000039"]
        np.testing.assert_array_equal(found.label_map(0), wanted[0])
        assert (len(found.classes), found.classes[15], VOC_CLASSES[20]) == (21, "person", "tvmonitor")
        assert len(voc2012(tmp_path, "val")) == 1

    def test_a_missing_map_and_a_coloured_one_are_refused(self, tmp_path):
        self.make(tmp_path)
        photograph(tmp_path / "SegmentationClass" / "2007_000039.png")
        with pytest.raises(ValueError, match="mode RGB"):
            voc2012(tmp_path, "val").label_map(0)
        (tmp_path / "SegmentationClass" / "2007_000039.png").unlink()
        with pytest.raises(ValueError, match="1 of 1 files are missing"):
            voc2012(tmp_path, "val")
        with pytest.raises(ValueError, match="no file at"):
            voc2012(tmp_path, "trainval")


class TestAde:
    def make(self, root):
        for folder, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
            photograph(root / "images" / folder / f"{name}.jpg")
            numbers(root / "annotations" / folder / f"{name}.png", [0, 1, 150, 13])
        rows = [f"{number}\t0.1\t10\t1\tname {number}, other" for number in range(1, 151)]
        (root / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows]) + "\n")

    def test_zero_is_ignored_and_the_rest_counts_from_it(self, tmp_path):
        self.make(tmp_path)
        for split in ("train", "val"):
            found = ade20k(tmp_path, split)
            assert found.label_map(0).ravel()[:4].tolist() == [IGNORE, 0, 149, 12]
            assert (len(found.classes), found.classes[12]) == (150, "name 13, other")

    def test_a_number_beyond_the_classes_is_refused_when_it_is_scored(self, tmp_path):
        self.make(tmp_path)
        (tmp_path / "objectInfo150.txt").write_text("Idx\tName\n1\twall\n")
        with pytest.raises(ValueError, match="names 1 classes, not 150"):
            ade20k(tmp_path, "train")


class TestCocoStuff:
    def make(self, root, values):
        photograph(root / "val2017" / "000000000139.jpg")
        numbers(root / "stuffthingmaps" / "val2017" / "000000000139.png", values)
        names = ["0: unlabeled", *(f"{number}: thing {number}" for number in range(1, 183))]
        (root / "labels.txt").write_text("\n".join(names))

    def test_ids_less_one_become_the_171_classes_that_there_are(self, tmp_path):
        self.make(tmp_path, [0, 10, 12, 89, 91, 181, 255])
        found = coco_stuff(tmp_path, "val")
        assert len(found.classes) == 171
        values = found.label_map(0).ravel()[:7].tolist()
        assert values[-1] == IGNORE
        assert [found.classes[value] for value in values[:-1]] == [
            f"thing {number}" for number in (1, 11, 13, 90, 92, 182)
        ]

    def test_an_id_that_no_image_has_is_refused(self, tmp_path):
        self.make(tmp_path, [11])  # id 12, street sign
        with pytest.raises(ValueError, match="holds 11, which is no class"):
            coco_stuff(tmp_path, "val").label_map(0)

    def test_no_images_are_told(self, tmp_path):
        with pytest.raises(ValueError, match="no images at"):
            coco_stuff(tmp_path, "train")


class TestCocoMasks:
    def make(self, root):
        photograph(root / "a.png")
        photograph(root / "b.png")
        crowd = np.zeros((4, 6), np.uint8)
        crowd[:, 4:] = 1
        rle = mask.encode(np.asfortranarray(crowd))
        content = {
            "images": [
                {"id": i, "file_name": name, "width": 6, "height": 4} for i, name in ((5, "a.png"), (2, "b.png"))
            ],
            "categories": [{"id": 90, "name": "cup"}, {"id": 3, "name": "car"}],
            "annotations": [
                self.polygon(5, 90, [1, 1, 3, 1, 3, 3, 1, 3], 4),
                self.polygon(5, 3, [0, 0, 5, 0, 5, 4, 0, 4], 20),
                {
                    "image_id": 5,
                    "category_id": 3,
                    "iscrowd": 1,
                    "area": 1,
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                },
            ],
        }
        (root / "coco.json").write_text(json.dumps(content))
        (root / "splits.json").write_text(json.dumps({"train": ["a.png"], "test": ["b.png"]}))

    @staticmethod
    def polygon(image, category, points, area):
        entry = {"image_id": image, "category_id": category, "iscrowd": 0, "area": area}
        return {**entry, "segmentation": [points]}

    def test_smaller_objects_lie_on_top_and_crowds_below(self, tmp_path):
        self.make(tmp_path)
        found = coco_masks(tmp_path, tmp_path / "coco.json", tmp_path / "splits.json", "train")
        assert found.classes == ("background", "car", "cup")
        assert found.label_map(0).tolist() == [
            [1, 1, 1, 1, 1, IGNORE],
            [1, 2, 2, 1, 1, IGNORE],
            [1, 2, 2, 1, 1, IGNORE],
            [1, 1, 1, 1, 1, IGNORE],
        ]

    def test_an_image_without_masks_is_background(self, tmp_path):
        self.make(tmp_path)
        found = coco_masks(tmp_path, tmp_path / "coco.json")
        assert [image.name for image in found.images] == ["a.png", "b.png"]
        assert not found.label_map(1).any()
