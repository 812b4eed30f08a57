"""Ray Data at the edge: it hands out part descriptors and brings receipts back.

Images and vectors never pass through it.

Ray Data is not the commit layer. The worker reads its part from the store, works in batches, and writes its part by
one ``write_part``.
"""

import json
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orl_ray.config import Config
from orl_ray.environment import numeric_environment
from orl_ray.execution import StageRun
from orl_ray.node_preflight import require_store
from orl_ray.pipeline import PartPlan
from orl_ray.storage import Store

# How often a stage that waits for Ray Data looks whether the run has ended.
_LOOK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class PartOutput:
    """What a stage's function makes of one part.

    Attributes:
        files: file name -> bytes.
        rows: rows in the part.
        written: file name -> entry of what ``Store.write_part_file`` wrote already: parts that outgrow memory.
        quarantine: (image id, path, reason) of each image left out.
        facts: small results for the record.
        environment: versions that this stage depends on beside the usual ones.
    """

    files: Mapping[str, bytes | memoryview]
    rows: int
    written: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    quarantine: Sequence[tuple[int, str, str]] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """What a worker knows beside its part.

    Attributes:
        config: the config.
        store: the store.
        manifests: artifact -> key of its manifest, for every input of the stage.
        shared: handles and small values that the stage adds, such as its index actors.
        manifest: key of the manifest that the stage will write.
    """

    config: Config
    store: Store
    manifests: Mapping[str, str]
    shared: Mapping[str, Any] = field(default_factory=dict)
    manifest: str = ""


Process = Callable[[WorkerContext, Any, PartPlan], PartOutput]
Prepare = Callable[[WorkerContext], Any]


def prepare_nothing(_context: WorkerContext) -> None:
    """Need no state beside the context."""


def run_parts(
    run: StageRun,
    process: Process,
    *,
    prepare: Prepare = prepare_nothing,
    shared: Mapping[str, Any] | None = None,
    on_device: bool = False,
) -> None:
    """Make a stage's missing parts on Ray Data workers, a worker a CPU (or a GPU, for device stages).

    Args:
        run: the stage's run.
        process: makes one part from (context, state, part); runs on the workers.
        prepare: makes a worker's state once, for example a loaded encoder.
        shared: more values for the context.
        on_device: ask for a GPU a worker where ``execution.use_gpu`` is set.
    """
    import ray
    from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy

    data_context = DataContext.get_current()
    data_context.enable_progress_bars = False
    data_context.execution_options.preserve_order = False
    data_context.raise_original_map_exception = True  # people are told what happened, not that "UDF failed"
    # A part is one output, and an hour of selective search on huge photographs is no stall.
    data_context.execution_no_progress_timeout_s = -1
    context = WorkerContext(run.config, run.store, run.plan.manifests, shared or {}, run.plan.key)
    gpus = 1 if on_device and run.config.execution.use_gpu else 0
    workers = run.config.execution.data_workers or (int(ray.cluster_resources().get("GPU", 0)) if gpus else run.cpus)
    missing = [{"index": p.index, "key": p.key, "inputs": json.dumps(p.inputs)} for p in run.plan.missing]
    size = max(1, min(workers, len(missing)))
    resources = {"num_gpus": gpus} if gpus else {"num_cpus": 1}
    arguments = (run.plan.stage.name, process, prepare, context, "cuda" if gpus else "cpu")
    descriptors = ray.data.from_items(missing, override_num_blocks=len(missing))
    if prepare is prepare_nothing:  # tasks re-use warm processes; actors keep a state
        receipts = descriptors.map(PartWorker(*arguments), compute=TaskPoolStrategy(size=size), **resources)
    else:
        pool = ActorPoolStrategy(size=size)
        receipts = descriptors.map(PartWorker, fn_constructor_args=arguments, compute=pool, **resources)
    receipts.set_name(f"{run.run_id}-{run.plan.stage.name}")
    for receipt in _until_stopped(receipts.iter_rows(), run.stop):
        run.progress.advance(int(receipt["rows"]))


def _until_stopped(rows: Iterable[dict[str, Any]], stop: threading.Event) -> Iterator[dict[str, Any]]:
    """Yield what Ray Data yields, unless the run ends first.

    Ray Data waits without end, so it does that in a thread which is left behind.
    """
    arrived: queue.SimpleQueue[dict[str, Any] | BaseException | None] = queue.SimpleQueue()

    def _read() -> None:
        try:
            for row in rows:
                arrived.put(row)
            arrived.put(None)
        except BaseException as error:  # noqa: BLE001 -- raised again where it can be seen
            arrived.put(error)

    threading.Thread(target=_read, name="receipts", daemon=True).start()
    while not stop.is_set():
        try:
            row = arrived.get(timeout=_LOOK_SECONDS)
        except queue.Empty:
            continue
        if row is None:
            return
        if isinstance(row, BaseException):
            raise row
        yield row
    raise InterruptedError("the run has ended")


class PartWorker:
    """A Ray Data worker: state once, then a part a call; returns receipts.

    Args:
        artifact: what is made.
        process: makes one part.
        prepare: makes the state.
        context: what the worker knows.
        device: the device class that the stage computes on.
    """

    def __init__(
        self, artifact: str, process: Process, prepare: Prepare, context: WorkerContext, device: str = "cpu"
    ) -> None:
        self.artifact, self.process, self.context, self.device = artifact, process, context, device
        require_store(context.store.root)  # before a state is made, where this is an actor
        self.state = prepare(context)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Make and write the part that ``row`` describes; return its receipt."""
        require_store(self.context.store.root)
        part = PartPlan(int(row["index"]), row["key"], json.loads(row["inputs"]))
        started = time.monotonic()
        output = self.process(self.context, self.state, part)
        if self.context.store.holds(self.artifact, part.key, output.files, output.written) is False:
            # A part becomes another: until the stage lists it anew, no manifest may name what it was. Where it stays
            # the same, as when two runs make it at once, a manifest is true and may be in use.
            self.context.store.delete_manifest(self.artifact, self.context.manifest)
        record = self.context.store.write_part(
            self.artifact,
            part.key,
            part.index,
            output.files,
            rows=output.rows,
            written=output.written,
            quarantine=output.quarantine,
            seconds=time.monotonic() - started,
            environment={**numeric_environment(self.device), **output.environment},
            facts=output.facts,
        )
        return {"index": part.index, "rows": record.rows, "quarantined": record.quarantined}
