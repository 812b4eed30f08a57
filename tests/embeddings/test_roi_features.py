"""RoIs to vectors by their crops and by RoIAlign: each RoI, or each image, goes through the network once."""

import numpy as np
import pytest
import torch
from torch.nn.functional import grid_sample

from orl_ray.embeddings.encoder import FrozenEncoder
from orl_ray.embeddings.roi_features import crops_of, embed_aligned, embed_crops
from orl_ray.embeddings.vectors import colours, embed
from orl_ray.encoders.backbones import build_backbone, initialise
from orl_ray.scenes.decode import crop_resize, decode, resize_longer

CPU = torch.device("cpu")
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: torch.cuda.is_available() is false")


def encoder(device=CPU, precision=None):
    backbone = build_backbone("resnet18")
    initialise(backbone, 3, "test")
    return FrozenEncoder(backbone, None, device, precision)


def scenes(counts, seed=0, side=96):
    rng = np.random.default_rng(seed)
    found = []
    for count in counts:
        height, width = side + int(rng.integers(0, 40)), side + int(rng.integers(0, 40))
        corners = rng.integers(0, 50, (count, 2))
        sizes = rng.integers(20, 40, (count, 2))
        image = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        image = np.kron(image, np.ones((8, 8, 1), np.uint8))[:height, :width]
        found.append((np.ascontiguousarray(image), np.hstack([corners, sizes]).astype(np.int32)))
    return found


def photographs(root, count):
    """Return images with a grid of boxes that have about the size of RoIs."""
    found = []
    for path in sorted((root / "coco_dev/images").iterdir())[:count]:
        image = decode(path.read_bytes(), 10**9)
        height, width = image.shape[:2]
        boxes = [(x * width // 4, y * height // 4, width // 2, height // 2) for x in range(3) for y in range(3)]
        found.append((image, np.array(boxes, np.int32)))
    return found


def cosines(one, other):
    return (one.astype(np.float64) * other.astype(np.float64)).sum(axis=1)


class TestCrops:
    def test_vectors_are_those_of_the_crops_in_the_order_of_the_rois(self):
        network, given = encoder(), scenes([3, 0, 5, 1])
        found = embed_crops(network, given, 32, 4)
        crops = [crop_resize(image, box, 32) for image, boxes in given for box in boxes]
        np.testing.assert_array_equal(found.vectors, embed(network, crops, 4))
        assert (found.forwards, found.padding) == (9, 3)

    def test_batches_fill_across_images_and_every_roi_is_forwarded_once(self):
        network, seen = encoder(), []
        network.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
        given = scenes([3, 5, 7])
        found = embed_crops(network, given, 32, 4)
        assert [len(batch) for batch in seen] == [4, 4, 4, 4]
        rows = torch.cat(seen)[: found.forwards]
        wanted = torch.cat([colours(crops_of(scene, 32, CPU)) for scene in given])
        assert torch.equal(rows, wanted)

    def test_images_are_read_as_batches_fill(self):
        network, read, passes = encoder(), [], []
        network.backbone.register_forward_pre_hook(lambda *_: passes.append(len(read)))

        def stream():
            for number, given in enumerate(scenes([2, 2, 2, 2])):
                read.append(number)
                yield given

        embed_crops(network, stream(), 32, 4)
        assert passes == [2, 4]

    @on_gpu
    def test_a_gpu_agrees_with_the_cpu(self):
        given = scenes([5, 6, 7])
        found = embed_crops(encoder(torch.device("cuda")), given, 32, 4)
        wanted = embed_crops(encoder(), given, 32, 4)
        assert cosines(found.vectors, wanted.vectors).min() >= 0.999
        assert (found.forwards, found.padding) == (wanted.forwards, wanted.padding)


class TestPrecision:
    def test_the_cpu_computes_in_float32(self):
        assert encoder().environment() == {"precision": "float32"}

    def test_bfloat16_turns_no_photograph_away(self, scenes_root):
        half = encoder(precision=torch.bfloat16)
        assert half.environment() == {"precision": "bfloat16"}
        given = photographs(scenes_root, 3)
        found, wanted = (embed_crops(network, given, 96, 9).vectors for network in (half, encoder()))
        assert (found != wanted).any()  # it is really another precision
        assert cosines(found, wanted).min() >= 0.999

    @on_gpu
    def test_a_gpu_computes_in_bfloat16(self):
        assert encoder(torch.device("cuda")).environment() == {"precision": "bfloat16"}


class TestAligned:
    def test_a_vector_is_the_mean_of_the_feature_map_over_its_box(self):
        network, ((image, boxes),) = encoder(), scenes([4])
        found = embed_aligned(network, [(image, boxes)], 256).vectors
        resized = resize_longer(image, 256)
        maps = network.maps(colours(torch.from_numpy(resized[None])))
        points = (np.arange(8) + 0.5) / 8
        for box, vector in zip(boxes, found, strict=True):
            # Pixel 32 i is the centre of cell i; grid_sample counts cells from -1 (first) to 1 (last).
            ratio = np.array(resized.shape[1::-1]) / np.array(image.shape[1::-1]) / 32
            xs, ys = ((box[axis] + points * box[axis + 2]) * ratio[axis] for axis in (0, 1))
            last = np.array(maps.shape[:1:-1]) - 1
            grid = np.stack(np.meshgrid(2 * xs / last[0] - 1, 2 * ys / last[1] - 1), axis=-1)
            sampled = grid_sample(maps, torch.from_numpy(grid[None]).float(), padding_mode="border", align_corners=True)
            mean = sampled.mean(dim=(2, 3))[0].numpy()
            np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=2e-3)

    def test_a_box_narrower_than_a_cell_is_read_at_its_centre(self):
        network, ((image, _),) = encoder(), scenes([1])
        network.features, network.maps = (
            2,
            lambda images: torch.stack([torch.arange(8.0).expand(8, 8), torch.ones(8, 8)])[None],
        )
        longer = 256
        narrow = np.array([[40, 8, 4, 20], [34, 8, 16, 20]], np.int32)
        found = embed_aligned(network, [(image, narrow)], longer).vectors.astype(np.float64)
        centres = (narrow[:, 0] + narrow[:, 2] / 2) * longer / max(image.shape[:2]) / 32
        np.testing.assert_allclose(found[:, 0] / found[:, 1], centres, atol=0.01)

    def test_every_image_is_forwarded_once_and_alone(self):
        network, seen = encoder(), []
        network.backbone.register_forward_hook(lambda *_: pytest.fail("the whole network ran"))
        network.backbone.get_submodule("conv1").register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
        found = embed_aligned(network, scenes([3, 5, 1]), 128)
        assert seen == [1, 1, 1]
        assert (len(found.vectors), found.forwards, found.padding) == (9, 3, 0)

    def test_vectors_do_not_depend_on_other_images(self):
        network, given = encoder(), scenes([3, 5, 1])
        together = embed_aligned(network, given, 128).vectors
        alone = [embed_aligned(network, [scene], 128).vectors for scene in given]
        np.testing.assert_array_equal(together, np.concatenate(alone))

    def test_the_whole_image_as_a_roi_is_near_to_its_crop(self):
        # The one RoI that sees nothing beside itself, at about the size of the crop.
        network, ((image, _),) = encoder(), scenes([1], side=224)
        whole = np.array([[0, 0, image.shape[1], image.shape[0]]], np.int32)
        aligned = embed_aligned(network, [(image, whole)], 224).vectors
        assert cosines(aligned, embed_crops(network, [(image, whole)], 224, 1).vectors)[0] > 0.95

    def test_no_images_have_no_vectors(self):
        assert embed_aligned(encoder(), [], 128).vectors.shape == (0, 512)
