"""Slightly different copies of a photograph, as bursts, re-encodings and re-uploads make them; tests use them, too."""

import cv2
import numpy as np
from numpy.typing import NDArray

Photograph = NDArray[np.uint8]


def reencoded(image: Photograph, quality: int) -> Photograph:
    encoded = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded: Photograph = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
    return np.ascontiguousarray(decoded[:, :, ::-1])


def resized(image: Photograph, scale: float) -> Photograph:
    return np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)


def cropped(image: Photograph, left: float, top: float, right: float, bottom: float) -> Photograph:
    """Cut shares of the sides off."""
    height, width = image.shape[:2]
    rows = slice(round(height * top), height - round(height * bottom))
    return np.ascontiguousarray(image[rows, round(width * left) : width - round(width * right)])


def shifted(image: Photograph, across: float, down: float) -> Photograph:
    """Point the camera a share of the frame further: what both frames show stays."""
    return cropped(image, max(across, 0.0), max(down, 0.0), max(-across, 0.0), max(-down, 0.0))


def rotated(image: Photograph, degrees: float) -> Photograph:
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    return np.asarray(cv2.warpAffine(image, turn, (width, height), borderMode=cv2.BORDER_REFLECT), np.uint8)


def relit(image: Photograph, contrast: float, brightness: float) -> Photograph:
    """Multiply by ``contrast`` and add ``brightness`` grey levels."""
    lit: Photograph = np.clip(image * np.float32(contrast) + np.float32(brightness), 0, 255).astype(np.uint8)
    return lit


def burst(image: Photograph, rng: np.random.Generator) -> Photograph:
    """Take the picture again: the camera moved, turned and exposed a little differently, another JPEG quality."""
    across, down = rng.uniform(-0.02, 0.02, 2)
    moved = rotated(shifted(image, across, down), rng.uniform(-1, 1))
    return reencoded(relit(moved, rng.uniform(0.95, 1.05), rng.uniform(-8, 8)), int(rng.integers(70, 96)))
