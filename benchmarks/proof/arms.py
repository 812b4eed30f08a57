"""The arms that are compared: what each one is trained on, and what a person must know to read its row."""

from dataclasses import dataclass
from typing import Literal

Method = Literal["untrained", "byol", "orl", "supervised"]
Pairs = Literal["none", "mined", "random", "oracle"]
BASELINE, EQUAL_FLOPS = "byol", "byol_equal_flops"


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to get a backbone.

    Attributes:
        name: unique.
        meaning: for people, one line.
        method: what trains it.
        pairs: where the pairs of regions come from; ``none`` but for ``orl``.
        equal_flops: train for as many epochs as cost what ``orl`` costs in all: stage 1, embeddings and stage 3.
    """

    name: str
    meaning: str
    method: Method
    pairs: Pairs = "none"
    equal_flops: bool = False

    @property
    def reads_labels(self) -> bool:
        """Whether annotations reach its training; they reach no other arm's."""
        return self.method == "supervised" or self.pairs == "oracle"


ARMS = (
    Arm("untrained", "the weights that BYOL starts from, batch norm's statistics from training scenes", "untrained"),
    Arm(BASELINE, "whole images; the same epochs as ORL; it is stage 1, whose network finds ORL's pairs", "byol"),
    Arm(EQUAL_FLOPS, "whole images; as many epochs as cost what ORL costs in all", "byol", equal_flops=True),
    Arm("orl", "whole images, regions and mined pairs of regions", "orl", "mined"),
    Arm("orl_random_pairs", "ORL, each mined pair's second region drawn from those of its area", "orl", "random"),
    Arm("orl_oracle_pairs", "ORL, pairs of regions on objects of one class, by the annotations", "orl", "oracle"),
    Arm("supervised", "image labels of the training scenes, on BYOL's views", "supervised"),
)
