"""What becomes of a training's measurements: the log, the trackers, and what the driver tells people meanwhile."""

import json
import time
from collections.abc import Mapping, Sequence

from orl_ray.folders import Folder, StorageUnavailableError
from orl_ray.pretraining.collapse import warnings
from orl_ray.pretraining.trackers import Tracker
from orl_ray.pretraining.training_log import TrainingLog
from orl_ray.progress import StageProgress

WATCH_SECONDS = 1.0
# What the worker leaves for the driver, beside the checkpoints.
_PROGRESS = "progress.json"


class Watcher:
    """Called after every step by the process of rank 0.

    A tracker that fails is left out from then on, and people are told: a training does not end for it, and the log has
    everything.

    Args:
        stage: ``image_level`` or ``object_level``.
        notes: where progress is left for the driver.
        log: the training's log.
        trackers: opened for this training.
    """

    def __init__(self, stage: str, notes: Folder, log: TrainingLog, trackers: Sequence[Tracker]) -> None:
        self._stage, self._notes, self._log, self._trackers = stage, notes, log, list(trackers)
        self._note, self._written_at = "", 0.0
        self._told, self._lost = dict[str, str](), dict[str, str]()

    def __call__(self, step: int, total: int, entry: Mapping[str, float]) -> None:
        """Hand on what was measured at a step; ``entry`` is empty for one that is not logged."""
        if entry:
            workers = f", {entry['workers']:.0f} workers" if entry["workers"] > 1 else ""
            self._note = f"loss {entry['loss']:.3f}{workers}"
            earlier = self._log.before(step)
            known = {**warnings(self._stage, earlier), **self._lost}
            self._track(step, entry)
            self._told = {**warnings(self._stage, [*earlier, entry]), **self._lost}
            self._log.write(entry, [text for name, text in self._told.items() if name not in known])
        if time.monotonic() - self._written_at >= WATCH_SECONDS or step == total:
            self._written_at = time.monotonic()
            state = {"step": step, "total": total, "note": self._note, "warnings": self._told}
            self._notes.write(_PROGRESS, json.dumps(state).encode())

    def close(self) -> None:
        """Finish the log and the trackers, once the training is done."""
        self._log.close()
        for tracker in self._trackers:
            tracker.close()

    def _track(self, step: int, entry: Mapping[str, float]) -> None:
        for tracker in list(self._trackers):
            try:
                tracker.log(step, {name: value for name, value in entry.items() if name != "step"})
            except Exception as error:  # noqa: BLE001 -- whatever a server may answer
                name = type(tracker).__name__.removesuffix("Tracker")
                self._trackers.remove(tracker)
                self._lost[name] = f"{name} is not told any more from step {step:,} on: {error}"


class ProgressReader:
    """Shows people what the worker left, on the driver's side.

    Args:
        progress: of the stage.
        notes: the folder in which a :class:`Watcher` leaves it.
    """

    def __init__(self, progress: StageProgress, notes: Folder) -> None:
        self._progress, self._notes = progress, notes
        self._begun, self._told = False, set[str]()
        notes.delete(_PROGRESS)

    def look(self) -> None:
        """Show what is new, if the store answers."""
        try:
            state = json.loads(self._notes.read(_PROGRESS))
        except (FileNotFoundError, StorageUnavailableError):
            return
        if not self._begun:
            self._progress.resume(state["step"], state["total"])
            self._begun = True
        for name, text in state["warnings"].items():
            if name not in self._told:
                self._told.add(name)
                self._progress.console.line(f"{self._progress.title}: warning: {text}")
        self._progress.update(state["step"], state["total"], state["note"])
