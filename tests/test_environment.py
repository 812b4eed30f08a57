"""The environment in a record: what is loaded, with its version, and nothing that is not."""

import platform
import subprocess
import sys
from importlib import metadata

import cv2
import numpy as np

from orl_ray import __version__
from orl_ray.environment import numeric_environment


def test_names_versions_machine_and_device():
    found = numeric_environment("cuda")
    assert found["orl_ray"] == __version__
    assert found["python"] == platform.python_version()
    assert found["machine"] == platform.machine()
    assert found["device"] == "cuda"
    assert found["numpy"] == np.__version__


def test_the_device_is_the_cpu_unless_told_otherwise():
    assert numeric_environment()["device"] == "cpu"


def test_only_packages_that_the_process_uses_are_named():
    code = (
        "from orl_ray.environment import numeric_environment as e; print(sorted(e())); import numpy; print(sorted(e()))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [
        "['device', 'machine', 'orl_ray', 'python']",
        "['device', 'machine', 'numpy', 'orl_ray', 'python']",
    ]


def test_a_package_without_a_version_of_its_own_is_asked_from_its_metadata(monkeypatch):
    monkeypatch.delattr(cv2, "__version__")
    package = "opencv-contrib-python-headless"
    assert numeric_environment()[package] == metadata.version(package)


def test_every_value_is_text_that_a_record_can_hold(finished):
    for name in ("proposals", "image_embeddings", "centroids", "evaluation"):
        for record in finished.records(name):
            assert record.environment["device"] == "cpu"
            assert all(isinstance(value, str) for value in record.environment.values())
