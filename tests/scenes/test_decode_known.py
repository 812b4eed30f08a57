"""Decoding again what was accepted: the decoder's own bits, orientation, sizes from headers, smaller decodes."""

import io

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from orl_ray.scenes.decode import REDUCTIONS, BadImageError, decode, decode_known, size_of

LIMIT = 1_000_000


def picture(height, width, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 20 + 1, width // 20 + 1, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encode(image, kind="JPEG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (16, 16), (33, 50), (61, 100)])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("options", [{}, {"restart_marker_blocks": 2}, {"keep_rgb": True}])
def test_every_kind_of_jpeg_has_the_decoders_bits(size, mode, progressive, options):
    if "keep_rgb" in options and mode != "RGB":
        options = {}
    for subsampling in (0, 1, 2) if mode == "RGB" and not options else (0,):
        extra = {"subsampling": subsampling} if mode == "RGB" else {}
        data = encode(picture(*size).convert(mode), quality=80, progressive=progressive, **extra, **options)
        np.testing.assert_array_equal(decode_known(data, LIMIT), decode(data, LIMIT))


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 5),
    progressive=st.booleans(),
    damage=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=3),
)
def test_whatever_the_decoder_accepts_comes_out_the_same(seed, progressive, damage):
    data = bytearray(encode(picture(40, 56, seed), progressive=progressive))
    for place, value in damage:
        data[2 + int(place * (len(data) - 2))] = value
    try:
        wanted = decode(bytes(data), LIMIT)
    except BadImageError:
        assume(False)
    np.testing.assert_array_equal(decode_known(bytes(data), LIMIT), wanted)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_to_pixels_and_to_the_size(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(picture(37, 53), kind, exif=exif)
    wanted = decode(data, LIMIT)
    np.testing.assert_array_equal(decode_known(data, LIMIT), wanted)
    assert size_of(data, LIMIT) == wanted.shape[1::-1]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("size", "orientation"), [((101, 163), 1), ((104, 160), 6)])
def test_a_reduction_divides_the_sides_and_keeps_the_picture(reduction, size, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(picture(*size), quality=95, exif=exif)
    whole = decode(data, LIMIT)
    found = decode_known(data, LIMIT, reduction)
    height, width = whole.shape[:2]
    assert found.shape == (-(-height // reduction), -(-width // reduction), 3)
    assert found.flags.writeable
    rows, columns = height // reduction, width // reduction
    blocks = whole[: rows * reduction, : columns * reduction].reshape(rows, reduction, columns, reduction, 3)
    differences = {
        shift: np.abs(found[:rows, :columns] - np.roll(blocks.mean((1, 3)), shift, (0, 1))).mean()
        for shift in ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))
    }
    assert min(differences, key=differences.get) == (0, 0)
    assert differences[0, 0] < 3


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGB"), ("JPEG", "CMYK")])
def test_what_is_no_ordinary_jpeg_keeps_its_size(kind, mode):
    data = encode(picture(40, 60).convert(mode), kind)
    np.testing.assert_array_equal(decode_known(data, LIMIT, 4), decode(data, LIMIT))


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_truncated_files_and_other_bytes_are_errors(share):
    data = encode(picture(60, 60), quality=95)
    with pytest.raises(BadImageError):
        decode_known(data[: int(share * len(data))], LIMIT)
    for look in (decode_known, size_of):
        with pytest.raises(BadImageError, match="not an image"):
            look(b"no image at all", LIMIT)
        with pytest.raises(BadImageError, match="megapixels, limit"):
            look(data, 100)


@pytest.mark.real
def test_photographs_have_the_decoders_bits(scenes_root):
    for path in sorted((scenes_root / "coco_dev" / "images").iterdir())[:40]:
        data = path.read_bytes()
        np.testing.assert_array_equal(decode_known(data, 10**9), decode(data, 10**9))
