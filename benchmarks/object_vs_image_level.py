"""Does object-level pre-training beat image-level pre-training? All arms of one seed, on generated scenes.

``python -m benchmarks.object_vs_image_level --work FOLDER [--seed 0] [--results FILE.json] [name=value ...]`` trains
BYOL, ORL with mined, random and oracle pairs, and a supervised ceiling (:mod:`benchmarks.proof.arms`), and probes them
and an untrained network on scenes that none of them saw. The same command goes on where it was stopped: trained arms
are kept, and the one in training goes on from its last checkpoint. Annotations reach the training of the arms
``orl_oracle_pairs`` and ``supervised`` alone. Pre-training and mining see the training split; what is scored is of the
validation split; the test split is not rendered.

It prints tables as Markdown. The last line is JSON: :func:`benchmarks.proof.comparison.summary`; ``--results`` writes
it to a file, too. Settings lie on those of ``SIZES``, which are made for two slow cores and half an hour.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

from benchmarks.proof.comparison import compare
from benchmarks.proof.table import render
from orl_ray.settings import load

SIZES = (
    "generated.images=400",
    "mining.skip_near_duplicates=false",
    "image_level.epochs=10",
    "image_level.batch_size=32",
    "object_level.epochs=10",
    "object_level.batch_size=32",
    "evaluation.validation_fraction=0.5",
    "evaluation.min_positives=30",
    "evaluation.bootstrap=1000",
)


def main() -> int:
    """Train what is not trained yet, score, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path, required=True, help="folder for all that is made; a second call goes on")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    parser.add_argument("--probe-scenes", type=int, default=800, help="scenes of the validation split to render")
    parser.add_argument("--results", type=Path, help="a JSON file to write")
    parser.add_argument("--threads", type=int, default=1, help="of torch; on busy cores several slow each other down")
    parser.add_argument("settings", nargs="*", metavar="name=value")
    options = parser.parse_intermixed_args()
    torch.set_num_threads(options.threads)
    config = load("laptop", None, [*SIZES, f"seed={options.seed}", *options.settings])
    result = compare(config, options.work.resolve(), options.probe_scenes)
    if options.results:
        options.results.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(render(result))
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
