"""``ray job submit`` to a running cluster that asks for its token, through the real job server."""

import json
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from main_job_process import JOB, TINY, content_hashes, wait_until
from object_store import client, object_store
from private_cluster import PATIENCE, RAY, PrivateCluster, private_cluster

REPOSITORY = JOB.parents[1]
WRONG_TOKEN = "0123456789abcdef" * 2


@pytest.fixture(scope="module")
def cluster():
    with private_cluster(cpus=2) as running:
        yield running


@pytest.fixture(scope="module")
def working_folder(tmp_path_factory):
    """What a job brings along. Its package says where it was imported from."""
    folder = tmp_path_factory.mktemp("working")
    for name in ("orl_ray", "jobs"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "orl_ray" / "__init__.py").open("a") as package:
        package.write('\nprint("orl_ray is", __file__)\n')
    return folder


@dataclass(frozen=True)
class Submission:
    """A job as somebody submits it from a shell.

    Attributes:
        cluster: to which cluster.
        folder: the working folder that goes with it.
    """

    cluster: PrivateCluster
    folder: Path

    def arguments(self, name: str, *job: str, env_vars: dict[str, str] | None = None, wait: bool = True) -> list[str]:
        options = [
            f"--address={self.cluster.jobs}",
            f"--working-dir={self.folder}",
            f"--submission-id={name}",
            f"--runtime-env-json={json.dumps({'env_vars': env_vars or {}})}",
            *([] if wait else ["--no-wait"]),
        ]
        small = (*TINY, "source.part_size=12")
        return ["job", "submit", *options, "--", "python", "jobs/full_pipeline.py", *small, *job]

    def start(self, *arguments: str, **options) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [RAY, *self.arguments(*arguments, **options)],
            env=self.cluster.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, **options) -> str:
        ended = self.cluster.ray(*self.arguments(*arguments, **options))
        assert ended.returncode == 0, ended.stdout
        return ended.stdout


@pytest.fixture(scope="module")
def submission(cluster, working_folder):
    return Submission(cluster, working_folder)


@dataclass(frozen=True)
class AtOnce:
    """Two jobs that ran at the same time, and what they said: one was stopped while it trained, one came to its end.

    Attributes:
        stopped: store of the first, on disk.
        job: its arguments.
        told_stopped: its output.
        ended: a copy of the store of the second, which lies in a bucket and was reached by the job's variables.
        told_ended: its output.
    """

    stopped: Path
    job: tuple[str, ...]
    told_stopped: str
    ended: Path
    told_ended: str


@pytest.fixture(scope="module")
def at_once(submission, tmp_path_factory):
    store, fetched = tmp_path_factory.mktemp("disk") / "store", tmp_path_factory.mktemp("bucket") / "store"
    job = (f"execution.store={store}", "object_level.epochs=4", "execution.checkpoint_seconds=0")
    with object_store() as server:
        bucket = server.create_bucket("mined")
        second = ("--until", "neighbors", f"execution.store={bucket}")
        ended = submission.start("ended", *second, env_vars=server.environment())
        stopped = submission.start("stopped", *job)
        checkpoints = store / "checkpoints" / "object_level"
        wait_until(lambda: any(checkpoints.glob("*/step-*/state.json")), stopped, "first checkpoint")
        stop = submission.cluster.ray("job", "stop", f"--address={submission.cluster.jobs}", "stopped")
        assert stop.returncode == 0, stop.stdout
        told_stopped, told_ended = (process.communicate(timeout=2 * PATIENCE)[0] for process in (stopped, ended))
        assert ended.returncode == 0, told_ended
        fetch(server, "mined", fetched)
    return AtOnce(store, job, told_stopped, fetched, told_ended)


def fetch(server, bucket: str, folder: Path) -> None:
    source = client(server)
    for page in source.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for found in page["Contents"]:
            copy = folder / found["Key"]
            copy.parent.mkdir(parents=True, exist_ok=True)
            source.download_file(bucket, found["Key"], str(copy))


def newest_run(store: Path) -> dict:
    return json.loads(max((store / "runs").glob("*.json")).read_bytes())


class TestTokens:
    def submit(self, submission, tmp_path, **changes):
        store = tmp_path / "store"
        begun = time.monotonic()
        refused = submission.cluster.ray(*submission.arguments("refused", f"execution.store={store}"), **changes)
        assert refused.returncode != 0
        assert time.monotonic() - begun < 10
        assert not store.exists()
        assert "refused" not in submission.cluster.ray("job", "list", f"--address={submission.cluster.jobs}").stdout
        return refused.stdout

    def test_a_job_with_a_wrong_token_is_refused_at_once(self, submission, tmp_path):
        told = self.submit(submission, tmp_path, RAY_AUTH_TOKEN=WRONG_TOKEN)
        assert "Forbidden: Invalid authentication token" in told

    def test_a_job_without_a_token_is_refused_at_once(self, submission, tmp_path):
        told = self.submit(submission, tmp_path, HOME=str(tmp_path), RAY_AUTH_MODE="disabled")
        assert "Unauthorized: Missing authentication token" in told

    def test_a_run_that_joins_with_a_wrong_token_says_so_at_once(self, cluster, tmp_path):
        settings = [f"execution.store={tmp_path / 'store'}", f"execution.ray_address={cluster.gcs}"]
        begun = time.monotonic()
        refused = subprocess.run(
            [RAY.with_name("python"), JOB, *settings, *TINY],
            env=cluster.environment(RAY_AUTH_TOKEN=WRONG_TOKEN),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert refused.returncode == 2
        assert f"Ray cluster {cluster.gcs}: it refuses our token" in refused.stderr
        assert time.monotonic() - begun < 20  # Ray itself needs 20 s; imports take a few here


def test_two_jobs_at_once_do_not_meet(at_once):
    assert "Job 'ended' succeeded" in at_once.told_ended
    for artifact in ("scenes", "image_level", "neighbors"):
        assert content_hashes(at_once.stopped, artifact) == content_hashes(at_once.ended, artifact)


def test_a_stopped_job_says_that_it_can_go_on(at_once):
    assert "interrupted; the same command goes on from here" in at_once.told_stopped
    assert "Job 'stopped' was stopped" in at_once.told_stopped
    assert newest_run(at_once.stopped)["status"] == "interrupted"


def test_submitting_again_goes_on_and_then_finds_nothing_to_do(submission, at_once):
    store, before = at_once.stopped, newest_run(at_once.stopped)["stages"]
    checkpoint = max((store / "checkpoints" / "object_level").glob("*/step-*/state.json"))
    trained = json.loads(checkpoint.read_bytes())["history"]

    submission.run("resumed", *at_once.job)
    run = newest_run(store)
    assert run["status"] == "finished"
    for artifact in ("image_level", "roi_embeddings", "correspondences"):
        assert run["stages"][artifact]["made_here"] == 0
        assert run["stages"][artifact]["parts"] == before[artifact]["parts"]
    (record,) = [json.loads(path.read_bytes()) for path in (store / "object_level").glob("*.json")]
    assert record["facts"]["history"][: len(trained)] == trained, "steps that were done were done again"
    assert (store / "report" / run["stages"]["report"]["parts"]["0"] / "index.html").is_file()

    told = submission.run("again", *at_once.job)
    assert "nothing was missing, Ray was not started" in told
    (imported,) = [line for line in told.splitlines() if line.startswith("orl_ray is ")]
    assert str(submission.cluster.folder) in imported, "the job did not run the package that came with it"
