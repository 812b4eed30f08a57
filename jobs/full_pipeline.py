"""The main job, for ``python jobs/full_pipeline.py`` and ``ray job submit -- python jobs/full_pipeline.py``."""

import sys

from orl_ray.cli import full_pipeline

if __name__ == "__main__":
    sys.exit(full_pipeline())
