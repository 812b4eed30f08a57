"""What the views of a sample are cut from: images and boxes, drawn without decoding anything (specification 3.1).

Every draw is keyed by (seed, stage, lap, role, view, operation) and the id of the *anchor* image: two views differ, a
neighbour's patch differs from anchor to anchor, and neither processes nor restarts change anything.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orl_ray import draws
from orl_ray.pretraining.crops import jitter_boxes, random_resized_crops
from orl_ray.pretraining.objectives import GLOBAL, INTER, INTRA
from orl_ray.pretraining.training_set import TrainingSet


class Cut(NamedTuple):
    """One view before it is cut.

    Attributes:
        position: of the image in the training set.
        box: (4,) int32 xywh, pixels of that image.
        side: side of the view, pixels.
    """

    position: int
    box: NDArray[np.int32]
    side: int


@dataclass(frozen=True, slots=True)
class SampleCuts:
    """The cuts of one anchor image in one lap.

    Args:
        training_set: the images, their RoIs and pairs.
        seed: the run's seed.
        stage: name of the stage.
        lap: number of completed walks through all images.
        position: of the anchor image in the training set.
        extent: its width and height, pixels.
        sides: loss term -> side of its views, pixels.
        smallest_crop: least share of the image's area that a whole-image view shows.
    """

    training_set: TrainingSet
    seed: int
    stage: str
    lap: int
    position: int
    extent: tuple[int, int]
    sides: dict[str, int]
    smallest_crop: float = 0.08

    def of(self, term: str) -> tuple[Cut, Cut]:
        """Draw the two cuts of a loss term.

        Raises:
            ValueError: a RoI is wanted and there is none.
        """
        cuts = {GLOBAL: self._global, INTRA: self._intra, INTER: self._inter}
        return cuts[term]()

    def _global(self) -> tuple[Cut, Cut]:
        """Draw two random resized crops of the whole image."""
        scale = (self.smallest_crop, 1.0)
        first, second = (
            random_resized_crops(self._key(GLOBAL, view, "crop"), self._ids, *self._extent, scale)[0] for view in (1, 2)
        )
        return self._cut(GLOBAL, first), self._cut(GLOBAL, second)

    def _intra(self) -> tuple[Cut, Cut]:
        """Draw a RoI, uniformly, and a jittered version of it."""
        box = self._roi(INTRA)
        jittered = jitter_boxes(self._key(INTRA, 2, "jitter"), self._ids, box[None], *self._extent)[0]
        return self._cut(INTRA, box), self._cut(INTRA, jittered)

    def _inter(self) -> tuple[Cut, Cut]:
        """Draw a pair of boxes, uniformly from those of a neighbour that is drawn uniformly.

        Without any neighbour, one RoI serves as both patches: it takes part in the batch statistics, so that all
        batches are full, and its loss has the factor zero.
        """
        rows = self.training_set.rows(self.position)
        if not len(rows):
            cut = self._cut(INTER, self._roi(INTER))
            return cut, cut
        row = rows[self._choice(len(rows), INTER, "neighbor")]
        pair = self._choice(len(row.query_boxes), INTER, "pair")
        neighbor = Cut(self.training_set.position(row.neighbor_id), row.neighbor_boxes[pair], self.sides[INTER])
        return self._cut(INTER, row.query_boxes[pair]), neighbor

    def _cut(self, term: str, box: NDArray[np.int32]) -> Cut:
        return Cut(self.position, box, self.sides[term])

    @property
    def _ids(self) -> NDArray[np.int64]:
        ids: NDArray[np.int64] = self.training_set.image_ids[self.position : self.position + 1]
        return ids

    @property
    def _extent(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return np.array(self.extent[:1]), np.array(self.extent[1:])

    def _key(self, *names: str | int) -> int:
        return draws.stream(self.seed, self.stage, self.lap, *names)

    def _choice(self, count: int, *names: str) -> int:
        return int(draws.integers(self._key(*names), self._ids, count)[0])

    def _roi(self, role: str) -> NDArray[np.int32]:
        rois = self.training_set.rois(self.position)
        if not len(rois):
            raise ValueError(
                f"image {self._ids[0]} has no RoI: object-level training needs an object-level training set"
            )
        roi: NDArray[np.int32] = rois[self._choice(len(rois), role, "roi")]
        return roi
