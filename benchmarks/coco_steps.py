"""Three real steps of the preset ``coco`` on this machine's CPU, with the full network and image sizes.

    python -m benchmarks.coco_steps [--batch 8] [--stage object_level]

The published batch of 512 does not fit into a common machine's memory: the batch is smaller, everything else is as
published, the schedule included (its steps are those of COCO's 118,287 images). Images are noise of COCO's usual size.
The last line is JSON; the exit status says whether the losses are finite, near their start of 4 a term, and the weights
moved.
"""

import argparse
import io
import json
import math
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from orl_ray.pretraining.checkpoints import FolderCheckpoints
from orl_ray.pretraining.facts import describe, training_facts
from orl_ray.pretraining.loop import Running, train
from orl_ray.pretraining.place import Place
from orl_ray.pretraining.sampling import SampleStream
from orl_ray.pretraining.training_set import TrainingSet
from orl_ray.pretraining.training_set_writer import TrainingSetWriter
from orl_ray.settings import load

_COCO_IMAGES, _PUBLISHED_STEPS, _STEPS = 118_287, 185_600, 3
_WIDTH, _HEIGHT = 640, 480


def write_noise(folder: Path, images: int) -> None:
    """Write a training set of JPEGs of noise, two RoIs and one neighbour an image."""
    random = np.random.default_rng(0)
    rois = [[20, 30, 200, 150], [300, 100, 180, 300]]
    with TrainingSetWriter(folder, max_pixels=10**6) as writer:
        for number in range(images):
            coarse = random.integers(0, 255, (_HEIGHT // 20, _WIDTH // 20, 3), np.uint8)
            file = io.BytesIO()
            Image.fromarray(coarse).resize((_WIDTH, _HEIGHT)).save(file, "jpeg")
            boxes = np.array(rois, np.int32)
            writer.add(number, file.getvalue(), rois, [((number + 1) % images, boxes, boxes)])


def main() -> int:
    """Take the steps and print what they cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--stage", choices=("image_level", "object_level"), default="object_level")
    options = parser.parse_args()
    config = load("coco")
    settings = getattr(config, options.stage)
    stream = SampleStream(0, options.stage, _COCO_IMAGES, settings.batch_size, settings.last_batch)
    total = stream.total_steps(settings.epochs)
    facts = training_facts(settings, config.encoder, 1, "cpu")
    print("\n".join([f"{total:,} steps of {settings.batch_size} images", *describe(facts)]))
    short = replace(settings, batch_size=options.batch, epochs=_STEPS, warmup_epochs=0)  # an epoch is one batch here
    entries: list[dict[str, float]] = []
    started = time.perf_counter()

    def note(step: int, _total: int, entry: dict[str, float]) -> None:
        entries.append(entry)
        print(f"step {step}: loss {entry['loss']:.4f}, {(time.perf_counter() - started) / step:.1f} s a step")

    with tempfile.TemporaryDirectory(prefix="coco-steps-") as folder:
        write_noise(Path(folder) / "set", options.batch)
        training_set = TrainingSet.open(Path(folder) / "set")
        checkpoints = FolderCheckpoints(Path(folder) / "checkpoints")
        train(
            short,
            config.encoder,
            options.stage,
            0,
            training_set,
            checkpoints,
            Place(),
            note,
            Running(checkpoint_seconds=math.inf),
        )
    losses = [entry["loss"] for entry in entries]
    terms = sum(name.startswith("loss_") for name in entries[0])
    passed = total == _PUBLISHED_STEPS and len(losses) == _STEPS and len(set(losses)) == _STEPS
    passed = passed and all(math.isfinite(loss) and 0 < loss < 8 * terms for loss in losses)
    seconds = (time.perf_counter() - started) / _STEPS
    print(json.dumps({"passed": passed, "total_steps": total, "losses": losses, "seconds_a_step": seconds, **facts}))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
