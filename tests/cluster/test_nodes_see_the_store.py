"""A cluster in which one node has another file system where the store and the source should be."""

import subprocess
import sys

import pytest
from main_job_process import JOB, TINY
from private_cluster import PATIENCE, private_cluster

# An empty file system of its own over one folder, as a node has where a mount is missing.
HIDING = 'mount --make-rprivate / && mount -t tmpfs none "$0" && exec "$@"'
LATE_TASK = """
import sys
from types import SimpleNamespace

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orl_ray.config import Config, Execution
from orl_ray.ray_session import ray_session
from orl_ray.stage_task import stage_task
from orl_ray.storage import Store

def name():
    return ray.get_runtime_context().get_task_name()

store = Store(sys.argv[1])
store.prepare()
run = SimpleNamespace(store=store, run_id="r7", plan=SimpleNamespace(stage=SimpleNamespace(name="report")))
with ray_session(Config(execution=Execution(ray_address=sys.argv[2])), "r7"):
    print("namespace", ray.get_runtime_context().namespace)
    for node in ray.nodes():
        here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        try:
            print("done", ray.get(stage_task(run, name).options(scheduling_strategy=here).remote()))
        except ray.exceptions.RayTaskError as error:
            print("refused", error.cause)
"""


@pytest.fixture(scope="module")
def hidden(tmp_path_factory):
    """The folder that one node does not see."""
    folder = tmp_path_factory.mktemp("shared")
    probe = subprocess.run(["unshare", "--mount", "bash", "-c", HIDING, folder, "true"], check=False)
    if probe.returncode:
        pytest.skip("needs the right to mount in a namespace of its own")
    return folder


@pytest.fixture(scope="module")
def cluster(hidden):
    with private_cluster(cpus=1) as running:
        running.add_node(cpus=1)
        running.add_node(cpus=1, wrapper=("unshare", "--mount", "bash", "-c", HIDING, str(hidden)))
        yield running


def run(cluster, *command):
    return subprocess.run(
        [sys.executable, *command],
        env=cluster.environment(),
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )


def test_a_run_names_the_node_that_does_not_see_the_store_and_the_source(cluster, hidden):
    photos, store = hidden / "photos", hidden / "store"
    photos.mkdir()
    for number in range(8):
        (photos / f"{number}.jpg").write_bytes(b"x")
    settings = ["source.kind=folder", f"source.images={photos}", f"execution.ray_address={cluster.gcs}"]
    refused = run(cluster, JOB, *TINY, *settings, f"execution.store={store}", "--until", "listing")
    assert refused.returncode == 2, refused.stderr
    told = refused.stderr.splitlines()
    assert "2 problems found before the start:" in told
    (lost_store,) = [line for line in told if f": store {store}: what the driver wrote is not there" in line]
    (lost_photos,) = [line for line in told if f": source.images {photos}: there is no such folder" in line]
    assert lost_store.startswith("  node ")
    assert lost_store.partition(": ")[0] == lost_photos.partition(": ")[0]
    assert not list((store / "leases").glob("preflight/*")), "the probe was left behind"


def test_a_worker_that_comes_later_to_such_a_node_says_so(cluster, hidden):
    ended = run(cluster, "-c", LATE_TASK, hidden / "other", cluster.gcs)
    assert ended.returncode == 0, ended.stderr
    told = ended.stdout.splitlines()
    assert told[0] == "namespace orl-r7"
    assert told.count("done r7-report") == 2
    (refused,) = [line for line in told if line.startswith("refused")]
    assert f"does not see the store {hidden}/other: mount it there" in refused


def test_a_store_that_every_node_sees_passes(cluster, tmp_path):
    settings = [f"execution.store={tmp_path / 'store'}", f"execution.ray_address={cluster.gcs}", "--until", "listing"]
    ended = run(cluster, JOB, *TINY, *settings)
    assert ended.returncode == 0, ended.stderr
