"""The thin Ray Train adapter: workers that each run the plain training loop, and a driver that watches them.

Ray restarts workers that are lost; the loop then goes on from the latest checkpoint in the store. Ray's own snapshots
hold nothing that we read again.
"""

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from orl_ray.config import Config, Execution
from orl_ray.environment import numeric_environment
from orl_ray.execution import StageRun
from orl_ray.folders import Folder
from orl_ray.leases import LeaseLostError, check_fence
from orl_ray.node_preflight import require_store
from orl_ray.pretraining.checkpoints import Checkpoint
from orl_ray.pretraining.collapse import warnings
from orl_ray.pretraining.export import export_training_set
from orl_ray.pretraining.facts import training_facts
from orl_ray.pretraining.initial_weights import initial_backbone
from orl_ray.pretraining.loop import Running, train
from orl_ray.pretraining.place import Place
from orl_ray.pretraining.probe import Probe
from orl_ray.pretraining.store_checkpoints import StoreCheckpoints, checkpoint_folder, delete_passing
from orl_ray.pretraining.trackers import open_trackers
from orl_ray.pretraining.training_log import TrainingLog, log_place
from orl_ray.pretraining.training_set import META, TrainingSet
from orl_ray.pretraining.watching import WATCH_SECONDS, ProgressReader, Watcher
from orl_ray.progress import StageProgress
from orl_ray.stage_task import outcome
from orl_ray.storage import Store, digest

# A collective that waits longer than this has lost a partner.
_COLLECTIVE_SECONDS = 300
# A training waits for its turn where other runs use the cluster; that it fits at all is for the preflight.
_START_TIMEOUT, _START_SECONDS = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", 7 * 24 * 3600
# An elastic one asks for fewer workers after this time: Ray learns late that a node is gone, and may first wait for it.
_ELASTIC_START_SECONDS = 60
# The label that every node of Ray carries.
_NODE_ID = "ray.io/node-id"


class TrainingRefusedError(RuntimeError):
    """A training cannot go on, and trying again would not help."""


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """What every worker of one training knows.

    Attributes:
        config: the config.
        store: the store.
        stage: ``image_level`` or ``object_level``.
        key: key of the output.
        fence: the lease's fencing token.
        manifests: artifact -> key of its manifest.
        probe: scores the backbone while it trains, or None.
    """

    config: Config
    store: Store
    stage: str
    key: str
    fence: int
    manifests: dict[str, str]
    probe: Probe | None = None

    @property
    def output(self) -> str:
        """Name of the output, of its lease and of its checkpoints."""
        return f"{self.stage}/{self.key}"

    @property
    def refusal(self) -> str:
        """Name of the file in which a worker says why it does not go on, of this lease alone."""
        return f"refused-{self.fence}.txt"


def fit(run: StageRun, job: TrainingJob) -> None:
    """Train with Ray Train until the output is written, showing progress.

    Raises:
        TrainingRefusedError: the training cannot go on, and trying again would not help.
        InterruptedError: the run has ended.
        RuntimeError: more workers were lost than ``execution.max_failures``, or the training itself failed.
    """
    import ray

    execution = run.config.execution
    largest_node = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    cpus = execution.train_cpus or max(1, min(largest_node, run.cpus // execution.train_workers))
    notes = checkpoint_folder(job.store, job.output)
    notes.delete(job.refusal)
    run.progress.console.line(f"{run.progress.title}: measurements in {log_place(job.store, job.output)}")
    # In a task of its own: Ray Train waits without end, in a way that nothing but the end of its process cuts short.
    options = {
        "num_cpus": 0,
        "max_retries": 0,
        "name": f"{run.run_id}-{job.stage}",
        "label_selector": {_NODE_ID: ray.get_runtime_context().get_node_id()},
        "runtime_env": {"env_vars": {_START_TIMEOUT: os.environ.get(_START_TIMEOUT, str(_start_seconds(execution)))}},
    }
    try:
        with _watched(run.progress, notes):
            outcome(run, ray.remote(**options)(_fit).remote(job, cpus))
    except Exception as error:
        if notes.exists(job.refusal):  # one worker refused, and the others were lost with it
            raise TrainingRefusedError(notes.read(job.refusal).decode()) from error
        raise
    if notes.exists(job.refusal):
        raise TrainingRefusedError(notes.read(job.refusal).decode())
    with contextlib.suppress(OSError):  # Ray may be writing there still; what is left is garbage
        _scratch(job).delete_folder()
    delete_passing(notes)


def _start_seconds(execution: Execution) -> int:
    return _ELASTIC_START_SECONDS if execution.min_train_workers else _START_SECONDS


def _failures(execution: Execution) -> dict[str, int]:
    """Say how many failures Ray puts up with: of workers, and to start them."""
    starts = _START_SECONDS // _ELASTIC_START_SECONDS if execution.min_train_workers else execution.max_failures
    return {"max_failures": execution.max_failures, "controller_failure_limit": starts}


def _workers(execution: Execution) -> int | tuple[int, int]:
    """Say how many workers Ray starts: so many, or from so many to so many, as there is room."""
    if execution.min_train_workers:
        return execution.min_train_workers, execution.train_workers
    return execution.train_workers


def _fit(job: TrainingJob, cpus: int) -> None:
    """Start the workers, start those anew that are lost, and wait for the end."""
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    execution = job.config.execution
    TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        torch_config=TorchConfig(timeout_s=_COLLECTIVE_SECONDS),
        scaling_config=ray.train.ScalingConfig(
            num_workers=_workers(execution),
            elastic_resize_monitor_interval_s=execution.resize_seconds,
            use_gpu=execution.use_gpu,
            resources_per_worker={"CPU": cpus, **({"GPU": 1} if execution.use_gpu else {})},
        ),
        run_config=ray.train.RunConfig(
            name=f"lease-{job.fence}",
            **_ray_storage(_scratch(job)),
            failure_config=ray.train.FailureConfig(**_failures(execution)),
        ),
    ).fit()


def _scratch(job: TrainingJob) -> Folder:
    """Where Ray Train keeps files of its own."""
    return job.store.root / f"ray_train/{job.key}"


def _ray_storage(scratch: Folder) -> dict[str, Any]:
    """Say where Ray Train keeps its own few files; it must be where every node sees it, like the store."""
    if scratch.is_local:
        return {"storage_path": scratch.uri}
    from pyarrow import fs

    scheme, _, path = scratch.uri.partition("://")
    if scheme == "gs":
        return {"storage_path": path, "storage_filesystem": fs.GcsFileSystem()}
    # Ray's own S3 client gives up too soon; endpoint and credentials come from the environment, as ours do.
    patient = fs.AwsStandardS3RetryStrategy(max_attempts=10)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    filesystem = fs.S3FileSystem(endpoint_override=endpoint, region=region, retry_strategy=patient)
    return {"storage_path": path, "storage_filesystem": filesystem}


def train_worker(arguments: dict[str, TrainingJob]) -> None:
    """Run the loop in one Ray Train worker; rank 0 writes the output.

    What trying again cannot mend (a loss that is not finite, settings that do not fit, a lost lease) is left for the
    driver to raise: Ray takes it for a lost worker and starts the training again, which then ends at once. Until that,
    the other workers would wait for this one.
    """
    import ray.train

    job = arguments["job"]
    notes = checkpoint_folder(job.store, job.output)
    if notes.exists(job.refusal):
        return
    try:
        _train(job)
    except (FloatingPointError, ValueError, LeaseLostError) as error:
        notes.write(job.refusal, f"{type(error).__name__}: {error}".encode())
        if ray.train.get_context().get_world_size() > 1:
            raise


def _train(job: TrainingJob) -> None:
    import ray.train
    import ray.train.torch

    require_store(job.store.root)
    context = ray.train.get_context()
    started = time.monotonic()
    place = Place(context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device())
    threads = max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)))
    torch.set_num_threads(threads)
    folder = _local_training_set(job, context.get_local_rank())
    execution = job.config.execution
    checkpoints = StoreCheckpoints(job.store, job.output, job.fence, kept=execution.keep_checkpoints)
    watcher = _watcher(job) if place.rank == 0 else None
    tensors = train(
        getattr(job.config, job.stage),
        job.config.encoder,
        job.stage,
        job.config.seed,
        TrainingSet.open(folder),
        checkpoints,
        place,
        watcher or (lambda _step, _total, _entry: None),
        Running(
            checkpoint_seconds=execution.checkpoint_seconds,
            checkpoint_epochs=execution.checkpoint_epochs,
            loader_threads=threads,
            loader_processes=execution.loader_workers,
            compiled=execution.compile,
            probe=job.probe if watcher else None,
        ),
        initial_backbone(job.config, job.store, job.stage, job.manifests),
    )
    if watcher:
        watcher.close()
        _write_output(job, tensors, checkpoints.latest(), time.monotonic() - started, place)
    if context.get_local_rank() == 0:
        shutil.rmtree(folder, ignore_errors=True)


def _watcher(job: TrainingJob) -> Watcher:
    log = TrainingLog(job.store, job.output, job.fence)
    trackers = open_trackers(job.config, job.stage, job.output)
    return Watcher(job.stage, checkpoint_folder(job.store, job.output), log, trackers)


def _local_training_set(job: TrainingJob, local_rank: int) -> Path:
    """Export the training set to this node's disk, once a node; the others wait for it.

    The folder is this lease's own. What earlier leases on the same output left behind goes first.
    """
    output = digest(f"{job.store.root}/{job.output}".encode())
    root = Path(tempfile.gettempdir()) / f"orl-training-sets-{os.getuid()}"
    folder = root / f"{output}-{job.fence}"
    if local_rank == 0:
        for left in root.glob(f"*{output}-*"):
            if left != folder:
                shutil.rmtree(left, ignore_errors=True)
        export_training_set(job.config, job.store, job.manifests, folder)
    while not (folder / META).is_file():  # no collective: an export may take longer than a collective may
        time.sleep(WATCH_SECONDS)
    return folder


def _write_output(
    job: TrainingJob, tensors: dict[str, torch.Tensor], final: Checkpoint | None, seconds: float, place: Place
) -> None:
    history, workers = (final.history, final.workers) if final else ([], ())
    prefix = "online.backbone."
    backbone = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    model = {name: tensor for name, tensor in tensors.items() if not name.startswith("optimizer.")}
    encoder = job.config.encoder
    facts = training_facts(getattr(job.config, job.stage), encoder, place.size, place.device.type)
    images = sum(record.rows for record in job.store.collection("scenes", job.manifests["scenes"]))
    check_fence(job.store, job.output, job.fence)
    job.store.write_part(
        job.stage,
        job.key,
        0,
        {"model.safetensors": save(model), "backbone.safetensors": save(backbone)},
        rows=final.step if final else 0,
        seconds=seconds,
        environment=numeric_environment(place.device.type),
        facts={
            "history": history,
            "warnings": list(warnings(job.stage, history).values()),
            "workers": workers,
            "compiled": job.config.execution.compile,
            "images": images,
            "encoder": asdict(encoder),
            **facts,
        },
    )


@contextlib.contextmanager
def _watched(progress: StageProgress, notes: Folder) -> Iterator[None]:
    """Show progress while a training runs, and what was left last at its end."""
    stop, reader = threading.Event(), ProgressReader(progress, notes)

    def _watch() -> None:
        while not stop.wait(WATCH_SECONDS):
            reader.look()
        reader.look()

    watcher = threading.Thread(target=_watch, name="training progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
