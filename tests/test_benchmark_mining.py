"""The benchmark of mining: both its layouts hold the same vectors in shards of the same sizes."""

import numpy as np
import pyarrow as pa

from benchmarks.mining import edges_of, moved_rois, write_shuffled
from orl_ray.columns import vectors_of
from orl_ray.schema import shard_file
from orl_ray.storage import Store


def images_of(store, manifest):
    """Return each image's vectors, and the number of images in each shard."""
    records, images, sizes = store.collection("roi_embeddings", manifest), {}, [0, 0]
    for shard in range(2):
        table = pa.concat_tables(
            [store.read_table("roi_embeddings", record.key, shard_file(shard)) for record in records]
        )
        ids, vectors = table["image_id"].to_numpy(), vectors_of(table)
        sizes[shard] = len(np.unique(ids))
        images |= {(int(i), shard): vectors[ids == i].tobytes() for i in np.unique(ids)}
    return images, sizes


def test_shuffled_shards_have_the_same_images_and_sizes_and_other_owners(finished, tmp_path):
    manifest, shuffled = finished.plan("roi_embeddings").key, Store(tmp_path / "shuffled")
    assert write_shuffled(finished.store, manifest, shuffled, seed=3) == 2
    (own, sizes), (drawn, same_sizes) = images_of(finished.store, manifest), images_of(shuffled, "random")
    assert sizes == same_sizes
    assert own.keys() != drawn.keys()
    assert {image: vectors for (image, _), vectors in own.items()} == {i: vectors for (i, _), vectors in drawn.items()}


def test_edges_are_the_k_nearest_of_each_image(finished):
    table = finished.tables("neighbors")[0]
    wanted = [[row["image_id"], j] for row in table.to_pylist() for j in row["neighbor_ids"][:2]]
    assert edges_of(table, 2).tolist() == wanted
    assert len(edges_of(table, 10**9)) == 6 * len(table)


def test_moved_rois_are_those_of_the_images_that_move():
    edges, shards = np.array([[1, 2], [1, 3], [2, 3]]), np.array([[0, 1], [0, 1], [1, 1]])
    assert moved_rois(edges, np.array([[5, 4], [5, 4], [4, 4]]), shards) == 5
    assert moved_rois(edges, np.array([[9, 4], [9, 4], [4, 4]]), shards) == 8
