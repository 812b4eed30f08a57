"""What made a part: versions and device, kept in its record for people who compare two machines."""

import platform
import sys
from importlib import metadata

from orl_ray import __version__


def numeric_environment(device: str = "cpu") -> dict[str, str]:
    """Name the versions that can change bits, and the device class.

    Args:
        device: the torch device type that did the work.

    Returns:
        Package name -> version for the numeric packages that this process has loaded, and ``device``, ``machine``,
        ``python``.
    """
    packages = {
        "numpy": "numpy",
        "torch": "torch",
        "cv2": "opencv-contrib-python-headless",
        "PIL": "pillow",
        "faiss": "faiss-cpu",
    }
    found = {
        "orl_ray": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": device,
    }
    for module, package in packages.items():
        if module in sys.modules:
            found[package] = getattr(sys.modules[module], "__version__", None) or metadata.version(package)
    return found
