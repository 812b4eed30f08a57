"""Pictures of what mining found: neighbours of an image, and RoIs that were paired across two images.

Drawn with Pillow on a dark ground, which suits light and dark pages alike. Colours are those of Okabe and Ito ("Color
universal design", 2008), which people with any colour vision can tell apart; numbers say the same for everybody else.
Pictures hold nothing that the text beside them does not, except the photographs themselves.
"""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Photograph = NDArray[np.uint8]
Box = tuple[int, int, int, int]

PALETTE = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2", "#ffffff")
GROUND, INK = "#16181d", "#f4f5f7"
MARGIN, GAP = 16, 12
JPEG_QUALITY = 86
STRIP_WIDTH, STRIP_ROW, LEAST_ASPECT = 900, 200, 0.6  # narrower tiles would let captions collide
PAIR_WIDTH, PAIR_MOST_HEIGHT, LEGEND_COLUMNS = 1200, 620, 8
PATCH_SIDE, PATCH_COLUMNS = 128, 3
TEXT, SMALL = 20, 17


def neighbor_strip(query: Photograph, neighbours: Sequence[tuple[Photograph, float | None]]) -> bytes:
    """Draw a photograph and its nearest neighbours, in rows of equal height.

    Args:
        query: (H, W, 3) uint8 RGB.
        neighbours: (photograph, similarity) by falling similarity, at least one; None where it is not known.

    Returns:
        A JPEG file.

    Raises:
        ValueError: there is no neighbour, or a photograph is not (H, W, 3) uint8.
    """
    if not neighbours:
        raise ValueError("neighbour strip: no neighbour to show")
    photographs = [_image(query), *(_image(photograph) for photograph, _ in neighbours)]
    scores = [_score(similarity) for _, similarity in neighbours]
    captions = ["query", *(f"{rank}  ·  {score}" if score else str(rank) for rank, score in enumerate(scores, 1))]
    return _strip(photographs, captions, framed=0)


def group_strip(members: Sequence[tuple[Photograph, str]]) -> bytes:
    """Draw photographs that belong together, in rows of equal height.

    Args:
        members: (photograph, caption of a few letters), at least one; photographs are (H, W, 3) uint8 RGB.

    Returns:
        A JPEG file.

    Raises:
        ValueError: there is no photograph, or one is not (H, W, 3) uint8.
    """
    if not members:
        raise ValueError("group strip: no photograph to show")
    return _strip([_image(photograph) for photograph, _ in members], [caption for _, caption in members])


def _strip(photographs: Sequence[Image.Image], captions: Sequence[str], framed: int = -1) -> bytes:
    """Lay photographs out in rows, each over its caption; one of them may be framed."""
    aspects = [max(LEAST_ASPECT, photograph.width / photograph.height) for photograph in photographs]
    rows = _rows(aspects)
    caption_height = TEXT + 14
    canvas = Image.new("RGB", (STRIP_WIDTH, 2 * MARGIN + sum(height + caption_height for _, height in rows)), GROUND)
    draw = ImageDraw.Draw(canvas)
    y = MARGIN
    for members, height in rows:
        x = MARGIN
        for at in members:
            tile = _fit(photographs[at], height)
            canvas.paste(tile, (x, y))
            if at == framed:
                draw.rectangle((x, y, x + tile.width - 1, y + height - 1), outline=PALETTE[0], width=5)
            width = round(aspects[at] * height)
            colour = PALETTE[0] if at == framed else INK
            draw.text((x + 2, y + height + 5), captions[at], font=_font_within(captions[at], width - 4), fill=colour)
            x += width + GAP
        y += height + caption_height
    return _jpeg(canvas)


def pair_picture(image_a: Photograph, image_b: Photograph, pairs: Sequence[tuple[Box, Box, float | None]]) -> bytes:
    """Draw two photographs side by side and join their matched RoIs across them.

    Args:
        image_a: (H, W, 3) uint8 RGB, the query image.
        image_b: (H', W', 3) uint8 RGB, the neighbour.
        pairs: (box in a, box in b, similarity or None), boxes xywh in pixels of their photographs, at least one pair.

    Returns:
        A JPEG file.

    Raises:
        ValueError: there is no pair, a box leaves its photograph, or a photograph is not (H, W, 3) uint8.
    """
    if not pairs:
        raise ValueError("pair picture: no pair to show")
    photographs = (_image(image_a), _image(image_b))
    for box_a, box_b, _ in pairs:
        _check_box(box_a, photographs[0])
        _check_box(box_b, photographs[1])
    aspects = sum(photograph.width / photograph.height for photograph in photographs)
    gap = 3 * GAP
    height = min(PAIR_MOST_HEIGHT, round((PAIR_WIDTH - 2 * MARGIN - gap) / aspects))
    tiles = [_fit(photograph, height) for photograph in photographs]
    legend = -(-len(pairs) // LEGEND_COLUMNS)
    canvas = Image.new("RGB", (PAIR_WIDTH, 2 * MARGIN + height + 12 + legend * (TEXT + 14)), GROUND)
    left = (PAIR_WIDTH - tiles[0].width - gap - tiles[1].width) // 2
    corners = ((left, MARGIN), (left + tiles[0].width + gap, MARGIN))
    for tile, corner in zip(tiles, corners, strict=True):
        canvas.paste(tile, corner)
    scales = (height / photographs[0].height, height / photographs[1].height)
    placed = [
        (
            _placed(box_a, corners[0], scales[0], tiles[0].size),
            _placed(box_b, corners[1], scales[1], tiles[1].size),
        )
        for box_a, box_b, _ in pairs
    ]
    _draw_pairs(ImageDraw.Draw(canvas), placed)
    _draw_legend(ImageDraw.Draw(canvas), [pair[2] for pair in pairs], MARGIN + height + 12)
    return _jpeg(canvas)


def patch_pairs(pairs: Sequence[tuple[Photograph, Photograph, float | None]]) -> bytes:
    """Draw matched crops beside each other, with their similarity.

    Args:
        pairs: (crop of the query, crop of the neighbour, similarity or None), at least one; crops are (h, w, 3) uint8
            RGB of any size.

    Returns:
        A JPEG file.

    Raises:
        ValueError: there is no pair, or a crop is not (h, w, 3) uint8.
    """
    if not pairs:
        raise ValueError("patch pairs: no pair to show")
    columns = min(PATCH_COLUMNS, len(pairs))
    rows = -(-len(pairs) // columns)
    card = (2 * PATCH_SIDE + 4, PATCH_SIDE + TEXT + 16)
    size = (2 * MARGIN + columns * card[0] + (columns - 1) * 2 * GAP, 2 * MARGIN + rows * card[1])
    canvas = Image.new("RGB", size, GROUND)
    draw = ImageDraw.Draw(canvas)
    for number, (query, neighbour, similarity) in enumerate(pairs):
        row, column = divmod(number, columns)
        x, y = MARGIN + column * (card[0] + 2 * GAP), MARGIN + row * card[1]
        for side, crop in enumerate((query, neighbour)):
            # Squares, as the encoder sees them: it squeezes every RoI into a square too.
            square = _image(crop).resize((PATCH_SIDE, PATCH_SIDE), Image.Resampling.BICUBIC)
            canvas.paste(square, (x + side * (PATCH_SIDE + 4), y))
        _badge(draw, (x + 17, y + 17), number)
        middle = x + PATCH_SIDE + 2
        draw.text((middle, y + PATCH_SIDE + 6), _score(similarity), font=_font(TEXT), fill=INK, anchor="ma")
    return _jpeg(canvas)


def _draw_pairs(draw: ImageDraw.ImageDraw, placed: Sequence[tuple[Box, Box]]) -> None:
    """Draw boxes and joining lines, each coloured stroke on a dark, wider one: it shows on any photograph."""
    ends = []
    for number, (a, b) in enumerate(placed):
        for box in (a, b):
            draw.rectangle((box[0] - 2, box[1] - 2, box[2] + 2, box[3] + 2), outline="#000000", width=7)
            draw.rectangle(box, outline=_colour(number), width=3)
        ends.append(((a[2], (a[1] + a[3]) // 2), (b[0], (b[1] + b[3]) // 2)))
    for number, (start, end) in enumerate(ends):
        draw.line((start, end), fill="#000000", width=6)
        draw.line((start, end), fill=_colour(number), width=3)
        for x, y in (start, end):
            draw.ellipse((x - 6, y - 6, x + 6, y + 6), fill=_colour(number), outline="#000000", width=2)
    taken: list[tuple[int, int]] = []
    for number, boxes in enumerate(placed):
        for box in boxes:
            taken.append(_free_spot(box, taken))
            _badge(draw, taken[-1], number)


def _free_spot(box: Box, taken: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Find the leftmost place for a badge along the top edge of a box that covers no other; else take the corner."""
    start, y = box[0] + 15, box[1] + 15
    for x in range(start, max(start + 1, box[2] - 14), 6):
        if all(abs(x - other_x) + abs(y - other_y) > 30 for other_x, other_y in taken):
            return x, y
    return start, y


def _draw_legend(draw: ImageDraw.ImageDraw, similarities: Sequence[float | None], top: int) -> None:
    for number, similarity in enumerate(similarities):
        row, column = divmod(number, LEGEND_COLUMNS)
        x, y = MARGIN + 14 + column * 146, top + 14 + row * (TEXT + 14)
        _badge(draw, (x, y), number)
        draw.text((x + 24, y), _score(similarity), font=_font(TEXT), fill=INK, anchor="lm")


def _score(similarity: float | None) -> str:
    return "" if similarity is None else f"{similarity:.3f}"


def _badge(draw: ImageDraw.ImageDraw, centre: tuple[int, int], number: int) -> None:
    x, y = centre
    draw.ellipse((x - 14, y - 14, x + 14, y + 14), fill=_colour(number), outline="#000000", width=2)
    ink = "#ffffff" if _colour(number) == "#0072b2" else "#000000"
    draw.text((x, y), str(number + 1), font=_font(SMALL), fill=ink, anchor="mm")


def _rows(aspects: Sequence[float]) -> list[tuple[list[int], int]]:
    """Break photographs into rows that fill the strip, each with its height; the last row keeps the usual height."""
    room = STRIP_WIDTH - 2 * MARGIN
    rows: list[tuple[list[int], int]] = []
    members: list[int] = []
    for at in range(len(aspects)):
        members.append(at)
        free = room - GAP * (len(members) - 1)
        height = int(free / sum(aspects[member] for member in members))
        if height <= STRIP_ROW:
            rows.append((members, height))
            members = []
    if members:
        rows.append((members, STRIP_ROW))
    return rows


def _placed(box: Box, corner: tuple[int, int], scale: float, size: tuple[int, int]) -> Box:
    """Turn an xywh box of a photograph into left, top, right, bottom on the canvas."""
    x, y, width, height = box
    right, bottom = min(size[0] - 1, round((x + width) * scale)), min(size[1] - 1, round((y + height) * scale))
    return corner[0] + round(x * scale), corner[1] + round(y * scale), corner[0] + right, corner[1] + bottom


def _check_box(box: Box, photograph: Image.Image) -> None:
    x, y, width, height = box
    if x < 0 or y < 0 or width < 1 or height < 1 or x + width > photograph.width or y + height > photograph.height:
        raise ValueError(
            f"pair picture: box {tuple(map(int, box))} (xywh) leaves its photograph of "
            f"{photograph.width} x {photograph.height} pixels"
        )


def _fit(photograph: Image.Image, height: int) -> Image.Image:
    width = max(1, round(photograph.width * height / photograph.height))
    return photograph.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)


def _image(photograph: Photograph) -> Image.Image:
    if photograph.ndim != 3 or photograph.shape[2] != 3 or photograph.dtype != np.uint8:
        raise ValueError(f"gallery: photographs are (H, W, 3) uint8 RGB, got {photograph.shape} {photograph.dtype}")
    return Image.fromarray(photograph)


def _colour(number: int) -> str:
    return PALETTE[number % len(PALETTE)]


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def _font_within(text: str, width: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return a font in which a text is no wider than this, down to a third of the usual size."""
    needed = _font(TEXT).getlength(text)
    return _font(TEXT if needed <= width else max(TEXT // 3, int(TEXT * width / needed)))


def _jpeg(canvas: Image.Image) -> bytes:
    buffer = io.BytesIO()
    canvas.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return buffer.getvalue()
