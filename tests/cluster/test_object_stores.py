"""The main job with scenes and store on S3: moto's server over HTTP, straight, failing, and left in the middle.

The image-level checkpoint comes from a run on a disk: everything that follows from it must have the same hashes.
"""

import contextlib
import io
import json
import signal

import psutil
import pytest
from fault_proxy import FaultProxy, Faults
from main_job_process import wait_until
from object_store import object_store, reached_by
from PIL import Image

from orl_ray.folders import Folder
from orl_ray.scenes.decode import decode
from orl_ray.storage import Store, digest

MINED = ("--until", "correspondences")
IMAGES = 24


@pytest.fixture(scope="module")
def server():
    with object_store("s3") as running:
        yield running


@pytest.fixture(scope="module")
def scenes(server, pretrained):
    """The generated scenes of the checkpoint in a bucket: COCO JSON and files, every other one a PNG of its pixels."""
    collection = next((pretrained / "generated").glob("train-*"))
    document = json.loads((collection / "instances.json").read_bytes())
    source = Folder(server.create_bucket("scenes")) / "my scenes"
    with reached_by(server.environment()):
        for row in document["images"]:
            data = (collection / "images" / row["file_name"]).read_bytes()
            if row["id"] % 2:
                row["file_name"], data = f"ünï {row['id']}.png", as_png(data)
            source.write(f"images/{row['file_name']}", data)
        source.write("instances.json", json.dumps(document).encode())
    return "source.kind=coco", f"source.images={source}/images", f"source.annotations={source}/instances.json"


@pytest.fixture
def frozen(server, pretrained, request):
    """A new store in a bucket that holds the checkpoint, and the setting that takes it from there."""
    store = Store(Folder(server.create_bucket(f"store-{abs(hash(request.node.name))}")) / "run")
    with reached_by(server.environment()):
        store.prepare()
        for path in (pretrained / "image_level").rglob("*"):
            if path.is_file():
                store.root.write(str(path.relative_to(pretrained)), path.read_bytes())
    run = json.loads(max((pretrained / "runs").glob("*.json")).read_bytes())
    return store, f"freeze=encoder@{run['stages']['image_level']['content_hash']}"


def as_png(data):
    file = io.BytesIO()
    Image.fromarray(decode(data, 10**8)).save(file, "png")
    return file.getvalue()


def newest_run(store):
    return next(store.runs(1))


def hashes_of(store, artifacts):
    stages = newest_run(store)["stages"]
    return {
        artifact: {int(i): store.record(artifact, key).content_hash for i, key in stages[artifact]["parts"].items()}
        for artifact in artifacts
    }


def kill_session(driver):
    """Kill a driver and everything of its Ray at once."""
    family = psutil.Process(driver.pid).children(recursive=True)
    for process in [driver, *family]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    driver.communicate()
    psutil.wait_procs(family, timeout=5)


def uploading(proxy, part):
    return any(line.startswith("PUT") and part in line for line in list(proxy.arriving))


def visible_parts(store):
    """Check that each record and manifest names what is there, with the right hashes; return the number of records."""
    count = 0
    for artifact in store.root.names() - {"runs", "leases", "quarantine", "generated", "checkpoints", "orl_store.json"}:
        records = {key: store.record(artifact, key) for key in store.present(artifact)}
        for key, record in records.items():
            for name, entry in record.files.items():
                data = store.read_file(artifact, key, name)  # raises where its hash is another
                assert (digest(data), len(data)) == (entry["hash"], entry["bytes"])
        for name in store.root.names(f"{artifact}/manifests"):
            for record in store.manifest(artifact, name.removesuffix(".json")):
                assert records[record.key] == record
        count += len(records)
    return count


def test_pipeline_on_s3_that_dies_while_it_uploads_weights_goes_on_to_the_report(job, server, scenes):
    store = Store(Folder(server.create_bucket("whole-pipeline")))
    with FaultProxy(server.port) as proxy, reached_by(server.environment(proxy.port)):
        driver = job.start(store.root, *scenes)
        wait_until(lambda: bool(store.present("scenes")), driver, "the scenes")
        proxy.faults = Faults(bytes_a_second=8 * 2**20)
        wait_until(lambda: uploading(proxy, "/image_level/") and proxy.received > 2**20, driver, "an upload of weights")
        kill_session(driver)
        proxy.cut()
        proxy.faults = Faults()
        assert not store.present("image_level"), "the kill came too late"
        assert visible_parts(store) > 0

        output = job.run(store.root, *scenes)

        run = newest_run(store)
        assert run["status"] == "finished"
        page = f"report/{run['stages']['report']['key']}/index.html"
        assert f"report: {store.root}/{page}" in output
        assert store.root.read(page).startswith(b"<!DOCTYPE html>")
        assert run["stages"]["evaluation"]["state"] == "done"
        assert run["stages"]["scenes"]["rows"] == IMAGES
        assert not store.root.exists("checkpoints/object_level")
        assert visible_parts(store) > 30


def test_failing_storage_gives_the_hashes_of_a_disk(job, server, scenes, frozen, undisturbed):
    store, freeze = frozen
    with FaultProxy(server.port, Faults.mixed(0.1, stall_seconds=1.5)) as proxy:
        with reached_by({**server.environment(proxy.port), "ORL_STORAGE_TIMEOUT": "1"}):
            job.run(store.root, *scenes, freeze, flags=MINED)
        counts = proxy.counts
    with reached_by(server.environment()):
        assert hashes_of(store, undisturbed) == undisturbed
        assert newest_run(store)["stages"]["scenes"]["rows"] == IMAGES, "a fault was taken for a bad image"
    faults = counts.total() - counts["passed"]
    assert faults > 20
    assert 0.06 < faults / counts.total() < 0.14


def test_driver_killed_in_the_middle_of_uploads_leaves_only_whole_parts(job, server, scenes, frozen, undisturbed):
    store, freeze = frozen
    before = 0
    for artifact in ("packed_scenes", "proposals", "correspondences"):
        slow = FaultProxy(server.port, Faults(bytes_a_second=20_000))
        with slow as proxy, reached_by(server.environment(proxy.port)):
            driver = job.start(store.root, *scenes, freeze, flags=MINED)
            wait_until(lambda p=proxy, a=artifact: uploading(p, f"/{a}/"), driver, f"an upload of {artifact}")
            kill_session(driver)
            proxy.cut()
        with reached_by(server.environment()):
            assert not store.root.names(f"{artifact}/manifests"), f"the kill came after the end of {artifact}"
            assert visible_parts(store) > before
            before = visible_parts(store)
    with reached_by(server.environment()):
        job.run(store.root, *scenes, freeze, flags=MINED)
        assert hashes_of(store, undisturbed) == undisturbed
