"""Operations a sample of every preset, counted on the networks themselves, without running them.

    python -m benchmarks.flops

The last line is JSON, in FLOP a sample; a multiplication and an addition are two.
"""

import json
import sys

from orl_ray.presets import PRESETS
from orl_ray.pretraining.facts import describe, training_facts
from orl_ray.settings import load


def main() -> int:
    """Print what each preset's trainings cost."""
    counted: dict[str, dict[str, dict[str, float]]] = {}
    for preset in PRESETS:
        config = load(preset)
        for stage in ("image_level", "object_level"):
            facts = training_facts(getattr(config, stage), config.encoder, 1, "cpu")
            counted.setdefault(preset, {})[stage] = facts["flops_per_sample"]
            print(f"{preset} {stage}: {describe(facts)[0]}")
    print(json.dumps(counted))
    return 0


if __name__ == "__main__":
    sys.exit(main())
