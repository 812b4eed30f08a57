"""The one decoder, image bytes to RGB uint8, and the one antialiased resize, equal to PIL's.

Pillow's plugins are called directly, chosen by the file's signature. So only the formats named here are ever parsed,
the pixel limit is the caller's, and Pillow's global limits (``Image.MAX_IMAGE_PIXELS``) need not be changed, which no
thread could do safely. GIF, WebP and tiled TIFF keep Pillow's own cap of about 179 megapixels on top of the caller's.
Every call works on objects of its own: thread-safe.
"""

import io
from collections.abc import Callable
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

_PLUGINS: tuple[tuple[bytes, type[ImageFile.ImageFile]], ...] = (
    (b"\xff\xd8\xff", JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"RIFF", WebPImageFile),
    (b"GIF8", GifImageFile),
    (b"BM", BmpImageFile),
    (b"II*\x00", TiffImageFile),
    (b"MM\x00*", TiffImageFile),
    (b"II+\x00", TiffImageFile),
    (b"MM\x00+", TiffImageFile),
)
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNED = (5, 6, 7, 8)  # orientations that exchange width and height
_WHITE = (255, 255, 255, 255)
# Selective search turns an image by 45 degrees, on a square of (width + height)^2 / 2 pixels, at some 10 bytes each. At
# this multiple of the pixel limit, that takes as much memory as all the rest of it does for the largest ordinary image.
_MOST_SPREAD = 20
_ORDINARY = ("L", "RGB")  # what Pillow calls gray and three colours, 8 bits each
_JPEG_END = b"\xff\xd9"
# What libjpeg's inverse cosine transform can divide the sides by -> OpenCV's name for it.
REDUCTIONS = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_T = TypeVar("_T")


# The reasons given for an image whose file is not there, or may not be read.
MISSING, FORBIDDEN = "missing file", "permission denied"


class BadImageError(Exception):
    """These bytes will never decode: a permanent error, to be quarantined and not retried. The message is one line."""


def decode(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    """Decode an image file to RGB.

    The EXIF orientation is applied; malformed EXIF counts as none. Transparency is composited on white, so that the
    colours hidden under transparent pixels do not show. 16-bit samples keep their high byte, grey as well as colour.
    Of an animation, the first frame is taken. Colour profiles are ignored.

    Args:
        data: the bytes of a JPEG, PNG, WebP, GIF, BMP or TIFF file.
        max_pixels: images with more pixels are refused from their header, undecoded; so are those whose width and
            height together, squared, exceed 20 times as much.

    Returns:
        (H, W, 3) uint8, the caller's own memory.

    Raises:
        BadImageError: the bytes are not a whole, readable image within the limit. Truncated data never give a partial
            image.
    """

    def load() -> NDArray[np.uint8]:
        image = _open(data, max_pixels)
        transpose = _TRANSPOSE.get(_orientation(image))
        image.load()
        rgb = _to_rgb(image)
        return np.array(rgb if transpose is None else rgb.transpose(transpose))

    return _permanent(load)


def decode_known(data: bytes, max_pixels: int, reduction: int = 1) -> NDArray[np.uint8]:
    """Decode an image that :func:`decode` accepted before: the same bits, in less time.

    Ordinary JPEGs (8 bits, gray or of three colours) are decoded by OpenCV, which runs the same libjpeg-turbo straight
    into an array. It takes some damaged files that Pillow refuses, so it is no judge of what comes from elsewhere.

    Args:
        data: the bytes of the file.
        max_pixels: as for :func:`decode`.
        reduction: 1, 2, 4 or 8: the sides of an ordinary JPEG are divided by it, rounded up, while it decodes; only the
            low frequencies are transformed. Other images keep their size.

    Returns:
        (H, W, 3) uint8, the caller's own memory.

    Raises:
        BadImageError: as :func:`decode`.
    """
    pixels = None
    if data.startswith(_PLUGINS[0][0]) and data.endswith(_JPEG_END):
        pixels = _permanent(lambda: _ordinary_jpeg(data, max_pixels, reduction))
    return decode(data, max_pixels) if pixels is None else pixels


def size_of(data: bytes, max_pixels: int) -> tuple[int, int]:
    """Return (width, height) of the image that :func:`decode` would give, from the header alone.

    Raises:
        BadImageError: the header is not readable, or the image is above the limit.
    """

    def look() -> tuple[int, int]:
        image = _open(data, max_pixels)
        turned = _orientation(image) in _TURNED
        return (image.height, image.width) if turned else (image.width, image.height)

    return _permanent(look)


def is_plain_jpeg(data: bytes, max_pixels: int) -> bool:
    """Tell whether these are the bytes of a JPEG that any decoder takes: whole, gray or of three colours, not turned.

    Raises:
        BadImageError: the header is not readable, or the image is above the limit.
    """

    def look() -> bool:
        image = _open(data, max_pixels)
        ordinary = isinstance(image, JpegImageFile) and image.mode in _ORDINARY and data.endswith(_JPEG_END)
        return ordinary and _orientation(image) == 1

    return _permanent(look)


def crop_resize(image: NDArray[np.uint8], box_xywh: NDArray[np.int32], side: int) -> NDArray[np.uint8]:
    """Cut a box out and resize it straight to a square, antialiased bilinear; the aspect ratio is not kept.

    Args:
        image: (H, W, 3) uint8.
        box_xywh: (4,) pixels, top-left origin, inside the image.
        side: side of the result, pixels.

    Returns:
        (side, side, 3) uint8. Pixels outside the box have no influence.

    Raises:
        ValueError: the box is empty or leaves the image.
    """
    x, y, width, height = (int(value) for value in box_xywh)
    if x < 0 or y < 0 or width < 1 or height < 1 or x + width > image.shape[1] or y + height > image.shape[0]:
        size = f"{image.shape[1]}x{image.shape[0]}"
        raise ValueError(f"box {(x, y, width, height)} (xywh, pixels) does not lie inside an image of {size} pixels")
    return _resize(image[y : y + height, x : x + width], side, side)


def resize_shorter(image: NDArray[np.uint8], shorter: int) -> NDArray[np.uint8]:
    """Resize the shorter side to ``shorter`` pixels, antialiased bilinear; the longer side is rounded down.

    Args:
        image: (H, W, 3) uint8.
        shorter: new length of the shorter side, pixels.

    Returns:
        (H', W', 3) uint8.
    """
    height, width = image.shape[:2]
    if width <= height:
        return _resize(image, shorter, int(shorter * height / width))
    return _resize(image, int(shorter * width / height), shorter)


def shrink_longer(image: NDArray[np.uint8], longer: int) -> NDArray[np.uint8]:
    """Resize the longer side down to ``longer`` pixels, antialiased bilinear; a smaller image is returned as it is.

    Args:
        image: (H, W, 3) uint8.
        longer: most pixels of the longer side.

    Returns:
        (H', W', 3) uint8, sides rounded, at least 1.
    """
    return image if max(image.shape[:2]) <= longer else resize_longer(image, longer)


def resize_longer(image: NDArray[np.uint8], longer: int) -> NDArray[np.uint8]:
    """Resize the longer side to ``longer`` pixels, antialiased bilinear.

    Args:
        image: (H, W, 3) uint8.
        longer: new length of the longer side, pixels.

    Returns:
        (H', W', 3) uint8, sides rounded, at least 1.
    """
    height, width = image.shape[:2]
    scale = longer / max(height, width)
    return _resize(image, max(1, round(scale * width)), max(1, round(scale * height)))


def center_crop(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Cut the central square out, with torchvision's rounding; where the image is smaller it is padded with black.

    Args:
        image: (H, W, 3) uint8.
        side: side of the square, pixels.

    Returns:
        (side, side, 3) uint8.
    """
    height, width = image.shape[:2]
    if height < side or width < side:
        missing = [(max(0, side - length) // 2, (max(0, side - length) + 1) // 2) for length in (height, width)]
        image = np.pad(image, [*missing, (0, 0)])
        height, width = image.shape[:2]
    top, left = round((height - side) / 2), round((width - side) / 2)
    return image[top : top + side, left : left + side].copy()


def _resize(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    resized = Image.fromarray(np.ascontiguousarray(image)).resize((width, height), Image.Resampling.BILINEAR)
    return np.array(resized)


def _permanent(load: Callable[[], _T]) -> _T:
    """Call ``load`` and turn whatever it raises into a BadImageError.

    Decoding is a pure function of the bytes, so every failure is permanent. Plugins raise almost anything on damaged
    files (SyntaxError, struct.error, zlib.error, IndexError ...); only running out of memory may pass with time.
    """
    try:
        return load()
    except (BadImageError, MemoryError):
        raise
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        kind = "truncated" if "truncated" in text.lower() else "unreadable"
        raise BadImageError(f"{kind}: {text}") from error


def _open(data: bytes, max_pixels: int) -> ImageFile.ImageFile:
    if not data:
        raise BadImageError("zero bytes")
    for signature, plugin in _PLUGINS:
        if data.startswith(signature):
            image = plugin(io.BytesIO(data))
            break
    else:
        raise BadImageError("not an image: no signature of JPEG, PNG, WebP, GIF, BMP or TIFF")
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise BadImageError(f"{pixels / 1e6:.4g} megapixels, limit {max_pixels / 1e6:.4g}")
    if (image.width + image.height) ** 2 > _MOST_SPREAD * max_pixels:
        raise BadImageError(f"too long for its breadth, {image.width} x {image.height} pixels")
    return image


def _ordinary_jpeg(data: bytes, max_pixels: int, reduction: int) -> NDArray[np.uint8] | None:
    """Decode a JPEG by OpenCV; None where that is for Pillow."""
    image = _open(data, max_pixels)
    if image.mode not in _ORDINARY:
        return None
    try:
        flags = REDUCTIONS[reduction] | cv2.IMREAD_IGNORE_ORIENTATION
        pixels: NDArray[np.uint8] | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    if pixels is None:
        return None
    if reduction > 1:
        cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)
    transpose = _TRANSPOSE.get(_orientation(image))
    return pixels if transpose is None else np.array(Image.fromarray(pixels).transpose(transpose))


def _orientation(image: ImageFile.ImageFile) -> int:
    """Return the EXIF orientation still to be applied, 1 to 8; 1 where there is none or the EXIF is malformed."""
    if isinstance(image, TiffImageFile):
        return 1  # Pillow applies a TIFF's own orientation tag itself, to the size as well as to the pixels
    try:
        # Image.Image.getexif, as PngImageFile.getexif decodes all pixels to look for EXIF behind them.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - damaged metadata says nothing about the pixels
        return 1
    return value if value in _TRANSPOSE else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise BadImageError(f"32-bit samples (mode {image.mode}) have no fixed range")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, _WHITE), rgba).convert("RGB")
    return image.convert("RGB")
