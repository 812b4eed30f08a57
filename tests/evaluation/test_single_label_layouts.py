"""ImageNet, Places205 and iNaturalist 2018, read from exactly the files in which they are published."""

import json

import numpy as np
import published_layouts
import pytest

from orl_ray.evaluation.single_label_layouts import imagenet, inaturalist18, places205


def test_imagenet_classes_are_the_sorted_wordnet_ids(tmp_path):
    root = published_layouts.imagenet(tmp_path, train=2, val=1)
    train, val = imagenet(root, "train"), imagenet(root, "val")
    assert train.classes == val.classes == ("n01440764", "n01443537", "n01484850")
    assert train.paths[:2] == ("train/n01440764/n01440764_100.JPEG", "train/n01440764/n01440764_101.JPEG")
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert val.labels.tolist() == [0, 1, 2]
    assert all((root / path).is_file() for path in (*train.paths, *val.paths))


def test_a_flat_val_takes_its_labels_from_the_kit_which_numbers_classes_otherwise(tmp_path):
    root = published_layouts.imagenet(tmp_path, train=1, val=2, flat=True)
    val = imagenet(root, "val")
    assert val.paths[0] == "val/ILSVRC2012_val_00000001.JPEG"
    assert val.labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_a_flat_val_with_too_few_labels_or_without_the_kit_is_refused(tmp_path):
    root = published_layouts.imagenet(tmp_path, train=1, val=1, flat=True)
    truth = root / "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("1\n2\n")
    with pytest.raises(ValueError, match=r"3 images.*2 labels"):
        imagenet(root, "val")
    truth.unlink()
    with pytest.raises(ValueError, match="lacks ILSVRC2012_validation_ground_truth"):
        imagenet(root, "val")


def test_a_label_of_the_kit_that_is_an_inner_node_is_refused(tmp_path):
    root = published_layouts.imagenet(tmp_path, train=1, val=1, flat=True)
    (root / "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n4\n")
    with pytest.raises(ValueError, match="such as 4"):
        imagenet(root, "val")


@pytest.mark.parametrize("form", [0, 1, 2])
def test_places_takes_labels_and_names_from_its_lists(tmp_path, form):
    root = published_layouts.places205(tmp_path, train=2, val=1, form=form)
    train, val = places205(root, "train"), places205(root, "val")
    assert train.classes == val.classes == ("a/abbey", "a/airport_terminal", "c/canyon")
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert val.labels.tolist() == [0, 1, 2]
    assert all((root / path).is_file() for path in (*train.paths, *val.paths))


def test_a_line_of_places_without_a_label_is_refused_by_its_number(tmp_path):
    root = published_layouts.places205(tmp_path, train=1, val=1)
    with (root / "train_places205.csv").open("a") as file:
        file.write("a/abbey/gsun_1.jpg\n")
    with pytest.raises(ValueError, match="line 4"):
        places205(root, "train")


def test_labels_of_places_with_a_gap_are_refused(tmp_path):
    root = published_layouts.places205(tmp_path, train=1, val=1)
    (root / "train_places205.csv").write_text("a/abbey/x.jpg 0\nc/canyon/y.jpg 2\n")
    with pytest.raises(ValueError, match="without a gap"):
        places205(root, "train")


def test_inaturalist_joins_images_and_annotations_by_id(tmp_path):
    root = published_layouts.inaturalist18(tmp_path, train=2, val=1)
    train, val = inaturalist18(root, "train"), inaturalist18(root, "val")
    assert train.classes == val.classes == ("Genus species3", "Genus species5", "Genus species7")
    for split, found in (("train", train), ("val", val)):
        content = json.loads((root / f"{split}2018.json").read_text())
        category = {entry["image_id"]: entry["category_id"] for entry in content["annotations"]}
        by_path = {image["file_name"]: (3, 5, 7).index(category[image["id"]]) for image in content["images"]}
        assert dict(zip(found.paths, found.labels.tolist(), strict=True)) == by_path
        assert all((root / path).is_file() for path in found.paths)


def test_an_image_of_inaturalist_without_an_annotation_or_with_two_is_refused(tmp_path):
    root = published_layouts.inaturalist18(tmp_path, train=1, val=1)
    content = json.loads((root / "val2018.json").read_text())
    (root / "val2018.json").write_text(json.dumps(content | {"annotations": content["annotations"][1:]}))
    with pytest.raises(ValueError, match="3 images, but 2 annotations"):
        inaturalist18(root, "val")
    (root / "val2018.json").write_text(json.dumps(content | {"annotations": content["annotations"] * 2}))
    with pytest.raises(ValueError, match="several annotations"):
        inaturalist18(root, "val")


@pytest.mark.parametrize("read", [imagenet, places205, inaturalist18])
def test_an_empty_folder_and_an_unknown_split_are_refused(tmp_path, read):
    with pytest.raises(ValueError, match=str(tmp_path)):
        read(tmp_path, "train")
    with pytest.raises(ValueError, match="no split 'test'"):
        read(tmp_path, "test")


def test_ids_depend_on_the_paths_alone(tmp_path):
    found = imagenet(published_layouts.imagenet(tmp_path / "a", train=2, val=1), "train")
    again = imagenet(published_layouts.imagenet(tmp_path / "b", train=2, val=1), "train")
    assert (found.ids() == again.ids()).all()
    part = found.at(np.array([4, 1]))
    assert part.paths == (found.paths[4], found.paths[1])
    assert part.ids().tolist() == [found.ids()[4], found.ids()[1]]
