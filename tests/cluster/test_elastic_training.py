"""A node is killed under a training and another one comes: it goes on with fewer workers, then with all again."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import elastic_training
import pytest
import torch
from elastic_training import FIRST, SECOND
from private_cluster import PATIENCE, private_cluster
from small_store import SMALL, SmallStore

from orl_ray.pretraining.checkpoints import FolderCheckpoints
from orl_ray.pretraining.export import export_training_set
from orl_ray.pretraining.loop import Running, train
from orl_ray.pretraining.place import Place
from orl_ray.pretraining.training_set import TrainingSet

STEPS, BATCH, IMAGES = 12, 10, 20
SETTINGS = (
    *SMALL,
    f"generated.images={IMAGES}",
    f"image_level.epochs={STEPS * BATCH / IMAGES}",
    f"image_level.batch_size={BATCH}",
    "image_level.view_size=32",
    "image_level.warmup_epochs=1",
    "image_level.learning_rate=0.001",  # batch norm over ten images magnifies rounding with every larger step
    "execution.train_workers=2",
    "execution.min_train_workers=1",
    "execution.train_cpus=1",
    "execution.resize_seconds=1",
    "execution.checkpoint_seconds=0",
)


@pytest.fixture
def small(tmp_path):
    made = SmallStore.new(tmp_path / "store", small=SETTINGS)
    made.make("near_duplicates")
    return made


def wait_for(step, workers, store, job, driver, log):
    """Wait until so many workers tell that they have done a step."""
    progress, limit = store.root.local / f"checkpoints/{job.output}/progress.json", time.monotonic() + 2 * PATIENCE
    while True:
        told = json.loads(progress.read_text()) if progress.is_file() else {"step": 0, "note": ""}
        if told["step"] == step and told["note"].endswith("2 workers") == (workers == 2):
            return
        assert driver.poll() is None, f"the training ended before step {step} of {workers}: {log.read_text()}"
        assert time.monotonic() < limit, f"step {step} of {workers} not reached, only {told}: {log.read_text()}"
        time.sleep(0.1)


def unbroken(small, folder):
    """Train in this process, without Ray."""
    job = elastic_training.job_of(small.config, small.store, 0)
    export_training_set(small.config, small.store, job.manifests, folder / "set")
    saved = FolderCheckpoints(folder / "checkpoints")
    training_set, config = TrainingSet.open(folder / "set"), small.config
    train(
        config.image_level,
        config.encoder,
        "image_level",
        config.seed,
        training_set,
        saved,
        Place(),
        lambda *_: None,
        Running(checkpoint_seconds=math.inf),
    )
    return saved.latest().history


def test_a_training_outlives_a_node_and_takes_up_the_next_one(small, tmp_path):
    torch.set_num_threads(1)
    log, job = tmp_path / "driver.log", elastic_training.job_of(small.config, small.store, 0)
    with private_cluster(cpus=1) as cluster:
        cluster.add_node(cpus=1)
        settings = [
            *SETTINGS,
            f"execution.store={small.config.execution.store}",
            f"execution.ray_address={cluster.gcs}",
        ]
        driver = subprocess.Popen(
            [sys.executable, Path(elastic_training.__file__), *settings],
            # Ray may first wait for a node of whose death it does not know yet.
            env=cluster.environment(RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S="20"),
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
        )
        try:
            wait_for(FIRST, 2, small.store, job, driver, log)
            cluster.kill_newest_node()
            wait_for(SECOND, 1, small.store, job, driver, log)
            cluster.add_node(cpus=1)
            assert driver.wait(2 * PATIENCE) == 0, log.read_text()
        finally:
            driver.kill()
            driver.wait()
    record = small.store.record("image_level", job.key)
    history = record.facts["history"]
    (none, two), (lost, one), (found, again) = record.facts["workers"]
    assert (none, two, one, again) == (0, 2, 1, 2)
    assert 0 < lost <= FIRST < found <= SECOND
    assert [entry["workers"] for entry in history] == lost * [2] + (found - lost) * [1] + (STEPS - found) * [2]
    assert [entry["step"] for entry in history] == list(range(1, STEPS + 1))
    assert record.rows * BATCH == IMAGES * history[-1]["epoch"] == IMAGES * small.config.image_level.epochs
    reference = unbroken(small, tmp_path)
    for entry, wanted in zip(history, reference, strict=True):  # other samples would differ by more
        assert entry["loss"] == pytest.approx(wanted["loss"], rel=0.02)
    # At the end it is measured over the last steps again, as without a break.
    assert history[-1]["feature_std"] == pytest.approx(reference[-1]["feature_std"], rel=0.02)
