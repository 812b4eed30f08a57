"""Tables of the report page."""

from collections.abc import Sequence


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """Write an HTML table that scrolls sideways on narrow screens, by keyboard too.

    Args:
        columns: headings as HTML; ``#`` in front marks a column of numbers.
        rows: cells as HTML: the caller escapes what comes from outside. The first cell names its row.
        caption: one sentence as HTML, or empty.

    Returns:
        A ``<div>`` that holds the table.
    """
    kinds = ["number" if column.startswith("#") else "text" for column in columns]
    head = "".join(
        f'<th scope="col" class="{kind}">{column.removeprefix("#")}</th>'
        for column, kind in zip(columns, kinds, strict=True)
    )
    body = "".join(f"<tr>{_cells(row, kinds)}</tr>" for row in rows)
    said = f"<caption>{caption}</caption>" if caption else ""
    scroll = '<div class="scroll" tabindex="0">'
    return f"{scroll}<table>{said}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _cells(row: Sequence[str], kinds: Sequence[str]) -> str:
    cells = []
    for at, (cell, kind) in enumerate(zip(row, kinds, strict=True)):
        opening, closing = ('<th scope="row"', "</th>") if at == 0 else ("<td", "</td>")
        cells.append(f'{opening} class="{kind}">{cell}{closing}')
    return "".join(cells)
