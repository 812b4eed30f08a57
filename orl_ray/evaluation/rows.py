"""The row that a protocol leaves behind: a number with everything that shaped it, and what chance moved it by."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orl_ray.evaluation.protocol import protocol_hash


@dataclass(frozen=True, slots=True)
class Score:
    """One number of a protocol.

    Attributes:
        name: what was measured, for example ``top1 res5``.
        by_seed: its value under each seed.
        optimistic: why it is too high, where the images that it is measured on chose something; else "".
    """

    name: str
    by_seed: tuple[float, ...]
    optimistic: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the values with their mean and, for two seeds or more, their standard deviation (n - 1)."""
        values = np.array(self.by_seed)
        spread = float(values.std(ddof=1)) if len(values) > 1 else None
        return {**asdict(self), "by_seed": list(self.by_seed), "mean": float(values.mean()), "std": spread}


@dataclass(frozen=True, slots=True)
class Row:
    """The outcome of one protocol for one backbone.

    Attributes:
        protocol: every constant and choice, the data set with its size among them, but neither weights nor seeds.
        weights: hash of the file of the judged weights, or what stands for it.
        seeds: the seeds.
        scores: the numbers.
        details: what people may want to look at: costs, curves, classes that were left out.
        environment: versions and device.
    """

    protocol: dict[str, Any]
    weights: str
    seeds: tuple[int, ...]
    scores: tuple[Score, ...]
    details: dict[str, Any]
    environment: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return plain values, with the protocol's hash: only rows with the same hash may be compared."""
        return {
            "protocol_hash": protocol_hash(self.protocol),
            "protocol": self.protocol,
            "weights": self.weights,
            "seeds": list(self.seeds),
            "scores": [score.to_json() for score in self.scores],
            "details": self.details,
            "environment": self.environment,
        }


def write_row(folder: Path, name: str, row: Row) -> Path:
    """Write a row as ``<name>-<protocol's hash>.json``, whole or not at all, over an older one of the same protocol.

    Args:
        folder: created where it is missing.
        name: of the protocol.
        row: the row.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plain = row.to_json()
    path = folder / f"{name}-{plain['protocol_hash']}.json"
    hidden = path.with_suffix(".tmp")
    hidden.write_text(json.dumps(plain, indent=1, sort_keys=True, allow_nan=False), encoding="utf-8")
    with hidden.open("rb") as file:
        os.fsync(file.fileno())
    hidden.replace(path)
    return path


def over_seeds(by_seed: Sequence[Mapping[str, float]], optimistic: str = "") -> tuple[Score, ...]:
    """Gather the numbers of several seeds by name.

    Args:
        by_seed: the same names for each seed.
        optimistic: see :class:`Score`.
    """
    return tuple(Score(name, tuple(values[name] for values in by_seed), optimistic) for name in by_seed[0])
