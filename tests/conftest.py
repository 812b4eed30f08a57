"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The cores are shared, so time tells nothing about one example.
settings.register_profile("orl", deadline=None)
settings.load_profile("orl")


@pytest.fixture(scope="session")
def scenes_root() -> Path:
    """Return the folder with the real photographs (coco_dev, coco_pool); skip where there is none."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("ORL_SCENES", default))
    if not (root / "coco_dev" / "images").is_dir():
        pytest.skip(f"no real photographs: set ORL_SCENES to a folder with coco_dev/ and coco_pool/ (looked in {root})")
    return root
