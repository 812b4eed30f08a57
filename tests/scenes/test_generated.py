"""Generated scenes: reproducible, truly annotated, told apart by shape and not by colour; and their files."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from orl_ray.folders import Folder
from orl_ray.scenes import generated
from orl_ray.scenes.coco_source import list_coco
from orl_ray.scenes.decode import decode
from orl_ray.scenes.folder_source import list_folder
from orl_ray.scenes.generated import CLASSES, SPLITS, THEMES, Scene, main, render_scene, write_collection
from orl_ray.scenes.json_file import JsonFile
from orl_ray.scenes.labels import read_labels
from orl_ray.scenes.textures import BACKGROUNDS


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [render_scene(0, "train", index, 144) for index in range(160)]


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_scene_hangs_on_its_key_alone_and_not_on_what_was_drawn_before() -> None:
    first = [render_scene(3, "test", index, 96) for index in (5, 2)]
    second = [render_scene(3, "test", index, 96) for index in (2, 5)][::-1]
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.class_ids, other.class_ids)


def test_seeds_splits_and_indices_give_other_scenes() -> None:
    images = [render_scene(seed, split, index, 64).image for seed in (0, 1) for split in SPLITS for index in (0, 1)]
    assert len({image.tobytes() for image in images}) == 12


@given(st.integers(0, 10**12), st.integers(64, 200))
@settings(deadline=None, max_examples=25)
def test_boxes_are_the_extents_of_the_visible_masks(index: int, side: int) -> None:
    scene = render_scene(1, "validation", index, side)
    height, width = scene.image.shape[:2]
    assert scene.image.dtype == np.uint8
    assert max(height, width) == side
    assert min(height, width) >= round(side * 0.66)
    assert 1 <= len(scene.boxes) == len(scene.class_ids) == len(scene.masks) <= 7
    assert scene.boxes.dtype == np.int32
    assert np.sum(scene.masks, axis=0).max() == 1  # no pixel belongs to two objects
    for (x, y, w, h), mask in zip(scene.boxes, scene.masks, strict=True):
        rows, columns = np.nonzero(mask)
        assert (x, y, x + w, y + h) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_sizes_and_counts_are_spread(scenes: list[Scene]) -> None:
    share = np.concatenate([scene.boxes[:, 2:].max(axis=1) / min(scene.image.shape[:2]) for scene in scenes])
    assert np.quantile(share, 0.1) < 0.22
    assert np.quantile(share, 0.9) > 0.45
    assert share.max() < 0.7
    assert {len(scene.boxes) for scene in scenes} >= {3, 4, 5, 6, 7}
    assert len({scene.image.shape for scene in scenes}) > 40


def test_hidden_objects_are_not_annotated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generated, "MIN_VISIBLE", 0.0)
    every = [render_scene(0, "train", index, 96) for index in range(60)]
    monkeypatch.setattr(generated, "MIN_VISIBLE", 0.25)
    seen = [render_scene(0, "train", index, 96) for index in range(60)]
    monkeypatch.setattr(generated, "MIN_VISIBLE", 0.99)
    whole = [render_scene(0, "train", index, 96) for index in range(60)]
    counts = [sum(len(scene.boxes) for scene in some) for some in (every, seen, whole)]
    assert counts[0] > counts[1] > counts[2] > 0
    assert counts[1] > 0.9 * counts[0]


def test_all_classes_occur_and_themes_make_company(scenes: list[Scene]) -> None:
    present = np.array([[number in scene.class_ids for number in range(len(CLASSES))] for scene in scenes])
    assert present.mean(axis=0).min() > 0.06
    together = {
        name: present[present[:, CLASSES.index("fish")]][:, CLASSES.index(name)].mean() for name in ("boat", "chair")
    }
    assert together["boat"] > together["chair"] + 0.2


def test_themes_name_known_classes_and_backgrounds_and_use_all_of_them() -> None:
    assert {name for theme in THEMES for name in theme.objects} == set(CLASSES)
    assert {name for theme in THEMES for name in theme.upper + theme.lower} == set(BACKGROUNDS)


def silhouette(mask: NDArray[np.bool_], box: NDArray[np.int32]) -> NDArray[np.float64]:
    x, y, w, h = box
    square = Image.fromarray(mask[y : y + h, x : x + w]).convert("L").resize((12, 12), Image.Resampling.BOX)
    return np.append(np.asarray(square).ravel() / 255, 6 * w / (w + h))


def test_shape_tells_classes_apart_and_colour_does_not(scenes: list[Scene]) -> None:
    shapes, colours, classes = [], [], []
    for scene in scenes:
        for box, mask, number in zip(scene.boxes, scene.masks, scene.class_ids, strict=True):
            shapes.append(silhouette(mask, box))
            colours.append(scene.image[mask].mean(axis=0))
            classes.append(number)
    by_shape, by_colour = (
        cross_val_score(KNeighborsClassifier(5), np.array(some), classes, cv=3).mean() for some in (shapes, colours)
    )
    assert by_shape > 0.45
    assert by_colour < 0.2  # chance is about 1 in 14


def test_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split must be one of train, validation, test, not 'val'"):
        render_scene(0, "val", 0, 96)


def test_collection_is_a_coco_set_that_every_reader_understands(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "collection"
    write_collection(folder, 4, "test", 6, 120)
    scenes = [render_scene(4, "test", index, 120) for index in range(6)]
    listed = list(list_coco(JsonFile(Folder(folder), "instances.json")))
    assert [(image.image_id, image.path) for image in listed] == [(i, f"{i:06d}.jpg") for i in range(6)]
    assert [image.path for image in list_folder(Folder(folder / "images"))] == [image.path for image in listed]
    labels = read_labels([JsonFile(Folder(folder), "instances.json")])
    assert labels.classes == CLASSES
    for scene, present, image in zip(scenes, labels.present(labels.image_ids), listed, strict=True):
        assert set(np.flatnonzero(present)) == set(scene.class_ids)
        decoded = decode((folder / "images" / image.path).read_bytes(), 10**6)
        assert np.abs(decoded.astype(float) - scene.image).mean() < 12
    coco = COCO(folder / "instances.json")
    for index, scene in enumerate(scenes):
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=[index]))
        assert [a["bbox"] for a in annotations] == scene.boxes.tolist()
        assert (coco.imgs[index]["height"], coco.imgs[index]["width"]) == scene.image.shape[:2]
        for annotation, mask in zip(annotations, scene.masks, strict=True):
            assert annotation["area"] == mask.sum()
            assert annotation["iscrowd"] == 0
            traced = coco.annToMask(annotation).astype(bool)
            assert mask[traced].mean() > 0.5  # outer contours fill holes, as of a bicycle's wheels
            assert traced[mask].mean() > 0.9


def test_polygons_trace_masks_without_holes_closely() -> None:
    mask = np.zeros((40, 50), bool)
    mask[5:25, 10:31] = True
    mask[30, 3] = True
    polygons = generated._polygons(mask)
    assert len(polygons) == 2
    corners = np.array(max(polygons)).reshape(-1, 2)
    np.testing.assert_allclose([corners.min(axis=0), corners.max(axis=0)], [[10.25, 5.25], [30.75, 24.75]])


def test_collection_has_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_collection(tmp_path / name, 0, "train", 3, 80)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_a_later_start_continues_the_collection_with_other_ids(tmp_path: Path) -> None:
    write_collection(tmp_path / "all", 0, "train", 4, 80)
    write_collection(tmp_path / "tail", 0, "train", 2, 80, start=2)
    every, tail = files(tmp_path / "all"), files(tmp_path / "tail")
    assert {name for name in tail if name.startswith("images/")} == {"images/000002.jpg", "images/000003.jpg"}
    assert all(every[name] == tail[name] for name in tail if name.startswith("images/"))
    annotations = json.loads(every["instances.json"])["annotations"]
    assert [a for a in annotations if a["image_id"] >= 2] == json.loads(tail["instances.json"])["annotations"]
    assert len({a["id"] for a in annotations}) == len(annotations)
    assert min(a["id"] for a in annotations) >= 1  # pycocotools takes 0 for "no match"


def test_a_failure_half_way_leaves_no_collection_and_is_made_good_by_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_at_two(seed: int, split: str, index: int, side: int) -> Scene:
        if index == 2:
            raise RuntimeError("power cut")
        return render_scene(seed, split, index, side)

    with monkeypatch.context() as patch:
        patch.setattr(generated, "render_scene", fail_at_two)
        with pytest.raises(RuntimeError, match="power cut"):
            write_collection(tmp_path / "out", 0, "train", 4, 80)
    assert set(files(tmp_path / "out")) == {"images/000000.jpg", "images/000001.jpg"}
    write_collection(tmp_path / "out", 0, "train", 4, 80)
    write_collection(tmp_path / "whole", 0, "train", 4, 80)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_the_same_collection_is_left_as_it_is_and_another_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_collection(tmp_path / "out", 0, "train", 2, 80)
    before = files(tmp_path / "out")
    with pytest.raises(ValueError, match="holds another collection"):
        write_collection(tmp_path / "out", 1, "train", 2, 80)
    monkeypatch.setattr(generated, "render_scene", None)  # not called again
    write_collection(tmp_path / "out", 0, "train", 2, 80)
    assert files(tmp_path / "out") == before


def test_a_folder_with_other_content_is_refused_and_an_empty_one_is_filled(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match="no generated collection"):
        write_collection(tmp_path / "other", 0, "train", 1, 80)
    assert files(tmp_path / "other") == {"mine.txt": b"precious"}
    (tmp_path / "photographs" / "images").mkdir(parents=True)
    (tmp_path / "photographs" / "images" / "mine.jpg").write_text("precious")
    with pytest.raises(ValueError, match="no generated collection"):
        write_collection(tmp_path / "photographs", 0, "train", 1, 80)
    (tmp_path / "empty").mkdir()
    write_collection(tmp_path / "empty", 0, "train", 1, 80)
    assert len(files(tmp_path / "empty")) == 2


def test_a_slower_process_accepts_what_a_faster_one_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def overtaken(seed: int, split: str, index: int, side: int) -> Scene:
        monkeypatch.setattr(generated, "render_scene", render_scene)
        write_collection(tmp_path / "out", seed, split, 1, side)
        return render_scene(seed, split, index, side)

    monkeypatch.setattr(generated, "render_scene", overtaken)
    write_collection(tmp_path / "out", 0, "train", 1, 80)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert len(files(tmp_path / "out")) == 2


def test_command_line_writes_a_collection(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--out", str(tmp_path / "out"), "--images", "2", "--split", "validation", "--seed", "9", "--side", "72"])
    assert "2 scenes of validation" in capsys.readouterr().out
    info = json.loads((tmp_path / "out" / "instances.json").read_text())["info"]
    assert (info["seed"], info["split"], info["side"]) == (9, "validation", 72)
