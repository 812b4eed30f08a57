"""The whole graph: every stage, inputs before what reads them."""

from orl_ray.config import IMAGE_LEVEL_RESULT
from orl_ray.pipeline import Stage


def main_job(scope: str = "neighbors", init_from: str = "") -> list[Stage]:
    """Return the stages from a source of scene images to an object-level backbone, its evaluation and the report.

    Args:
        scope: ``mining.scope``, which says where correspondences come from. The graph of ``global`` has a stage more,
            and so the names of all artifacts that there are.
        init_from: ``object_level.init_from``: from ``image_level``, object-level training reads that artifact, too.
    """
    from orl_ray.embeddings.stages import IMAGE_EMBEDDINGS, ROI_EMBEDDINGS
    from orl_ray.evaluation.online_probe import plan_probe
    from orl_ray.evaluation.stages import EVALUATION
    from orl_ray.mining.correspondence_stage import CORRESPONDENCES
    from orl_ray.mining.global_stage import GLOBAL_CORRESPONDENCES, ROI_CODEBOOK
    from orl_ray.mining.neighbor_stage import NEIGHBORS
    from orl_ray.mining.shard_stages import CENTROIDS_STAGE, SHARDS
    from orl_ray.pretraining.stages import IMAGE_LEVEL, OBJECT_LEVEL, OBJECT_LEVEL_FROM_IMAGES, with_probe
    from orl_ray.proposals.stages import PROPOSALS, ROIS
    from orl_ray.report.stages import GLOBAL_REPORT, REPORT
    from orl_ray.scenes.listing import LISTING
    from orl_ray.scenes.near_duplicate_stage import NEAR_DUPLICATES
    from orl_ray.scenes.packing import PACKED_SCENES
    from orl_ray.scenes.stages import SCENES

    object_level = OBJECT_LEVEL_FROM_IMAGES if init_from == IMAGE_LEVEL_RESULT else OBJECT_LEVEL
    return [
        LISTING,
        PACKED_SCENES,
        SCENES,
        NEAR_DUPLICATES,
        PROPOSALS,
        ROIS,
        with_probe(IMAGE_LEVEL, plan_probe, needs=(NEAR_DUPLICATES.name,)),
        IMAGE_EMBEDDINGS,
        CENTROIDS_STAGE,
        SHARDS,
        NEIGHBORS,
        ROI_EMBEDDINGS,
        *([ROI_CODEBOOK, GLOBAL_CORRESPONDENCES] if scope == "global" else [CORRESPONDENCES]),
        with_probe(object_level, plan_probe, needs=(NEAR_DUPLICATES.name,)),
        EVALUATION,
        GLOBAL_REPORT if scope == "global" else REPORT,
    ]
