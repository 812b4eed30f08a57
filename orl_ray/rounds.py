"""Rounds: discovery again with the network that objects have trained, and then training on what it finds.

A round is a run of the main job. From the second on its encoder is pinned to the object-level result of the round
before (:func:`orl_ray.pins.resolve_pins`), so that everything after the encoder gets keys of its own by that result's
content, and a round that is finished is never made again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from orl_ray.config import Config
from orl_ray.pins import OBJECT_LEVEL, frozen_needs, parse_freeze, resolve_pins
from orl_ray.pipeline import Stage, StagePlan, State, plan, up_to
from orl_ray.storage import PartRecord, Store


@dataclass(frozen=True, slots=True)
class Round:
    """Which round a run is.

    Attributes:
        number: from 1.
        of: how many there are to be.
        builds_on: ids of the runs of the rounds before, first round first.
    """

    number: int
    of: int
    builds_on: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlannedRound:
    """A round of which a store knows enough to plan it.

    Attributes:
        number: from 1.
        config: the config, with the round's encoder frozen.
        stages: the stages that it runs.
        plans: what is done and what is to do.
    """

    number: int
    config: Config
    stages: list[Stage]
    plans: list[StagePlan]


def stages_of_round(config: Config, until: str, number: int) -> list[Stage]:
    """Return the stages of a round: up to ``until``, and of all but the last round up to the object-level training.

    Args:
        config: the round's config.
        until: name of the last stage that is asked for.
        number: the round, from 1.

    Raises:
        ValueError: there is no stage ``until``.
    """
    from orl_ray.graph import main_job  # imports the whole library

    graph, frozen = main_job(config.mining.scope, config.object_level.init_from), frozen_needs(config)
    ends = [until] if number == config.rounds else [until, OBJECT_LEVEL]
    wanted = {stage.name for end in ends for stage in up_to(graph, end, frozen)}
    return [stage for stage in graph if stage.name in wanted]


def next_round(config: Config, plans: Sequence[StagePlan]) -> Config | None:
    """Return the config of the round after one, or None where that one has no object-level result yet.

    Args:
        config: the config of a round.
        plans: what is known of its stages.
    """
    done = [p for p in plans if p.stage.name == OBJECT_LEVEL and p.state is State.DONE]
    if not done:
        return None
    others = [
        f"{name}@{wanted}" if wanted else name for name, wanted in parse_freeze(config.freeze) if name != "encoder"
    ]
    return replace(config, freeze=",".join([*others, f"encoder@{done[0].content_hash}"]))


def known_rounds(config: Config, until: str, store: Store) -> Iterator[PlannedRound]:
    """Plan the rounds, first one first, as far as they are known: each needs the object-level result of the one before.

    Args:
        config: the config.
        until: name of the last stage that is asked for.
        store: the store; read only.

    Raises:
        ValueError: there is no stage ``until``, or what is frozen is not there.
    """
    for number in range(1, config.rounds + 1):
        stages = stages_of_round(config, until, number)
        plans = plan(config, stages, store, resolve_pins(config, store))
        yield PlannedRound(number, config, stages, plans)
        following = next_round(config, plans)
        if following is None:
            return
        config = following


def neighbor_overlap(store: Store, before: Sequence[PartRecord], after: Sequence[PartRecord], k: int) -> float:
    """Return the share of images' k nearest neighbours that two rounds have in common. Memory: two parts.

    Args:
        store: the store.
        before: parts of the neighbours of one round.
        after: the same parts of another.
        k: neighbours that count.

    Returns:
        A number in [0, 1]; NaN where no image has neighbours in both.
    """
    shared = wanted = 0
    earlier = {record.index: record for record in before}
    for record in after:
        if record.index in earlier:
            old, new = (_neighbors(store, part.key) for part in (earlier[record.index], record))
            for image_id, ids in new.items():
                if image_id in old:
                    shared += len(np.intersect1d(ids[:k], old[image_id][:k]))
                    wanted += len(ids[:k])
    return shared / wanted if wanted else float("nan")


def _neighbors(store: Store, key: str) -> dict[int, list[int]]:
    table = store.read_table("neighbors", key, columns=["image_id", "neighbor_ids"])
    return dict(zip(table["image_id"].to_pylist(), table["neighbor_ids"].to_pylist(), strict=True))
