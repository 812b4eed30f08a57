"""The decoder and the resizes against PIL and torchvision, on whole, odd and damaged files."""

import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torchvision.transforms import functional

from orl_ray.scenes.decode import BadImageError, center_crop, crop_resize, decode, resize_shorter, shrink_longer

LIMIT = 1_000_000
LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "BMP": {}, "TIFF": {}}
LOSSY = {"JPEG": {"quality": 90}, "GIF": {}}


def photo(height: int = 37, width: int = 53, seed: int = 0) -> NDArray[np.uint8]:
    """Return a smooth random picture: any transposition, shift or resize of it looks different."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_with_header(width: int, height: int) -> bytes:
    """Return a PNG whose header promises a size that its pixels do not have."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_give_back_the_very_pixels(kind: str) -> None:
    pixels = photo()
    data = encode(Image.fromarray(pixels), kind, **LOSSLESS[kind])
    decoded = decode(data, LIMIT)
    assert decoded.dtype == np.uint8
    assert decoded.flags.writeable
    np.testing.assert_array_equal(decoded, pixels)


def test_jpeg_decodes_as_pillow_does() -> None:
    data = encode(Image.fromarray(photo()), "JPEG", quality=90)
    np.testing.assert_array_equal(decode(data, LIMIT), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1)])
def test_tiny_images_keep_their_shape(shape: tuple[int, int]) -> None:
    data = encode(Image.fromarray(photo(*shape)), "PNG")
    assert decode(data, LIMIT).shape == (*shape, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(Image.fromarray(photo()), kind, exif=exif, **options)
    decoded = decode(data, LIMIT)
    np.testing.assert_array_equal(decoded, np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))))
    assert decoded.shape == ((53, 37, 3) if orientation >= 5 else (37, 53, 3))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", [b"Exif\x00\x00garbage", b"Exif\x00\x00II*\x00\xff\xff\xff\xff", b"Exif\x00\x00MM"])
def test_malformed_exif_counts_as_none(exif: bytes) -> None:
    data = encode(Image.fromarray(photo()), "JPEG", exif=exif)
    assert decode(data, LIMIT).shape == (37, 53, 3)


def test_orientation_out_of_range_counts_as_none() -> None:
    exif = Image.Exif()
    exif[0x0112] = 77
    assert decode(encode(Image.fromarray(photo()), "JPEG", exif=exif), LIMIT).shape == (37, 53, 3)


def test_cmyk_jpeg_becomes_rgb() -> None:
    pixels = photo()
    decoded = decode(encode(Image.fromarray(pixels).convert("CMYK"), "JPEG", quality=95), LIMIT)
    assert np.abs(decoded.astype(int) - pixels).mean() < 6


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_and_not_clipped(kind: str) -> None:
    ramp = np.linspace(0, 65535, 40 * 30).reshape(30, 40).astype(np.uint16)
    decoded = decode(encode(Image.fromarray(ramp), kind), LIMIT)
    np.testing.assert_array_equal(decoded[..., 0], ramp >> 8)
    assert (decoded == decoded[..., :1]).all()


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_bilevel_grey_and_palette_become_rgb(mode: str) -> None:
    image = Image.fromarray(photo()).convert(mode)
    np.testing.assert_array_equal(decode(encode(image, "PNG"), LIMIT), np.asarray(image.convert("RGB")))


def test_float_samples_are_refused() -> None:
    with pytest.raises(BadImageError, match="32-bit samples"):
        decode(encode(Image.fromarray(np.ones((4, 5), np.float32)), "TIFF"), LIMIT)


def test_alpha_is_composited_on_white() -> None:
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 0], rgba[0, :, 3] = 200, [0, 128, 255]
    decoded = decode(encode(Image.fromarray(rgba), "PNG"), LIMIT)
    np.testing.assert_array_equal(decoded[0, 0], [255, 255, 255])
    np.testing.assert_allclose(decoded[0, 1], [227, 127, 127], atol=1)
    np.testing.assert_array_equal(decoded[0, 2], [200, 0, 0])


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_transparent_palette_entry_becomes_white(kind: str) -> None:
    image = Image.new("P", (4, 2), 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((0, 0), 0)
    decoded = decode(encode(image, kind, transparency=0), LIMIT)
    np.testing.assert_array_equal(decoded[0, 0], [255, 255, 255])
    np.testing.assert_array_equal(decoded[1, 3], [40, 50, 60])


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("WEBP", {"lossless": True})])
def test_first_frame_of_an_animation_is_taken(kind: str, options: dict[str, object]) -> None:
    red, blue = Image.new("RGB", (8, 6), (255, 0, 0)), Image.new("RGB", (8, 6), (0, 0, 255))
    data = encode(red, kind, save_all=True, append_images=[blue], duration=100, **options)
    np.testing.assert_array_equal(decode(data, LIMIT), np.asarray(red))


def test_zero_bytes_are_named() -> None:
    with pytest.raises(BadImageError, match=r"^zero bytes$"):
        decode(b"", LIMIT)


@pytest.mark.parametrize("data", [b"this is text named .jpg", b"%!PS-Adobe-3.0 EPSF-3.0", b"\x00" * 100])
def test_other_content_is_not_an_image(data: bytes) -> None:
    with pytest.raises(BadImageError, match="not an image"):
        decode(data, LIMIT)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
def test_half_a_file_is_truncated(kind: str) -> None:
    data = encode(Image.fromarray(photo(200, 300)), kind)
    with pytest.raises(BadImageError, match=r"^truncated: ") as caught:
        decode(data[: len(data) // 2], LIMIT)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("kind", "options"), [*LOSSLESS.items(), *LOSSY.items(), ("JPEG", {"progressive": True})])
def test_no_cut_of_a_file_ever_gives_a_partial_image(kind: str, options: dict[str, object]) -> None:
    data = encode(Image.fromarray(photo(60, 80)), kind, **options)
    whole = decode(data, LIMIT)
    for length in sorted({*range(1, len(data), max(1, len(data) // 60)), *range(len(data) - 12, len(data))}):
        try:
            decoded = decode(data[:length], LIMIT)
        except BadImageError:
            continue
        np.testing.assert_array_equal(decoded, whole)


@settings(deadline=None, max_examples=60)
@given(kind=st.sampled_from([*LOSSLESS, *LOSSY]), start=st.floats(0, 1), noise=st.binary(min_size=1, max_size=40))
def test_damaged_bytes_raise_bad_image_or_decode_whole(kind: str, start: float, noise: bytes) -> None:
    data = bytearray(encode(Image.fromarray(photo(20, 30)), kind))
    at = int(start * len(data))
    data[at : at + len(noise)] = noise
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            decoded = decode(bytes(data), LIMIT)
        except BadImageError:
            return
    assert decoded.ndim == 3


def test_pixel_limit_is_read_from_the_header() -> None:
    bomb = png_with_header(20_000, 15_000)
    with pytest.raises(BadImageError, match=r"^300 megapixels, limit 100$"):
        decode(bomb, 100_000_000)


def test_an_image_too_long_to_be_turned_by_45_degrees_is_refused_from_its_header() -> None:
    with pytest.raises(BadImageError, match=r"^too long for its breadth, 8 x 46000 pixels$"):
        decode(png_with_header(8, 46_000), 100_000_000)
    long = encode(Image.new("RGB", (98, 2)), "PNG")
    assert decode(long, 500).shape == (2, 98, 3)
    with pytest.raises(BadImageError, match="too long"):
        decode(long, 499)


def test_pixel_limit_is_inclusive() -> None:
    data = encode(Image.fromarray(photo()), "PNG")
    assert decode(data, 37 * 53).shape == (37, 53, 3)
    with pytest.raises(BadImageError, match="limit"):
        decode(data, 37 * 53 - 1)


def test_a_higher_limit_than_pillows_is_respected_without_warnings() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    width = 2 * Image.MAX_IMAGE_PIXELS // 10_000 + 1000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BadImageError, match="truncated"):  # but not for its size
            decode(png_with_header(width, 10_000), 10**9)


def test_decoding_is_the_same_from_many_threads() -> None:
    files = [
        encode(Image.fromarray(photo(60, 80, seed)), kind) for seed in range(4) for kind in ("JPEG", "PNG", "WEBP")
    ]
    expected = [decode(data, LIMIT) for data in files]
    with ThreadPoolExecutor(4) as pool:
        for decoded, wanted in zip(pool.map(lambda data: decode(data, LIMIT), files * 8), expected * 8, strict=True):
            np.testing.assert_array_equal(decoded, wanted)


@given(
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    fractions=st.tuples(*[st.floats(0, 0.999)] * 4),
    side=st.integers(1, 70),
)
@settings(deadline=None)
def test_crop_resize_equals_torchvision_on_pil(shape: tuple[int, int], fractions: tuple[float, ...], side: int) -> None:
    image = photo(*shape)
    x, y = int(fractions[0] * shape[1]), int(fractions[1] * shape[0])
    width, height = 1 + int(fractions[2] * (shape[1] - x)), 1 + int(fractions[3] * (shape[0] - y))
    expected = functional.resized_crop(Image.fromarray(image), y, x, height, width, [side, side])
    np.testing.assert_array_equal(crop_resize(image, np.array([x, y, width, height]), side), np.asarray(expected))


@pytest.mark.parametrize("box", [(-1, 0, 5, 5), (0, 0, 0, 5), (50, 0, 4, 4), (0, 35, 3, 3)])
def test_crop_resize_refuses_boxes_that_leave_the_image(box: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="does not lie inside an image of 53x37"):
        crop_resize(photo(), np.array(box, np.int32), 8)


@given(shape=st.tuples(st.integers(1, 80), st.integers(1, 80)), shorter=st.integers(1, 60))
@settings(deadline=None)
def test_resize_shorter_equals_torchvision_on_pil(shape: tuple[int, int], shorter: int) -> None:
    image = photo(*shape)
    expected = functional.resize(Image.fromarray(image), [shorter])
    np.testing.assert_array_equal(resize_shorter(image, shorter), np.asarray(expected))


@given(shape=st.tuples(st.integers(1, 50), st.integers(1, 50)), side=st.integers(1, 60))
@settings(deadline=None)
def test_center_crop_equals_torchvision_on_pil(shape: tuple[int, int], side: int) -> None:
    image = photo(*shape)
    expected = functional.center_crop(Image.fromarray(image), [side, side])
    np.testing.assert_array_equal(center_crop(image, side), np.asarray(expected))


@pytest.mark.real
def test_real_photographs_decode_and_embed_as_torchvision_would(scenes_root: Path) -> None:
    paths = sorted((scenes_root / "coco_dev" / "images").iterdir())[:12]
    for path in paths:
        data, image = path.read_bytes(), Image.open(path).convert("RGB")
        decoded = decode(data, 10**8)
        np.testing.assert_array_equal(decoded, np.asarray(image))
        expected = functional.center_crop(functional.resize(image, [256]), [224, 224])
        np.testing.assert_array_equal(center_crop(resize_shorter(decoded, 256), 224), np.asarray(expected))


@pytest.mark.parametrize(("shape", "expected"), [((60, 90), (20, 30)), ((90, 60), (30, 20)), ((3, 300), (1, 30))])
def test_the_longer_side_is_shrunk_as_pillow_does(shape, expected) -> None:
    image = photo(*shape)
    small = Image.fromarray(image).resize(expected[::-1], Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(shrink_longer(image, 30), np.asarray(small))
    assert shrink_longer(image, max(shape)) is image
