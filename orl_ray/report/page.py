"""The report of a run: one HTML page that opens from a folder, without a network, on a screen or a telephone.

The page is text first: every number of a chart is in a table or in the chart's description, every picture has an
alternative text. Whatever comes from outside (paths, reasons, class names) is escaped; the content security policy
forbids scripts and requests besides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from urllib.parse import quote

from orl_ray.evaluation.result import Result
from orl_ray.report import coverage_section, evaluation_section, near_duplicate_section, training_section
from orl_ray.report.tables import table

MOST_QUARANTINED = 50
STATES = ("done", "reused", "skipped")


@dataclass(frozen=True, slots=True)
class StageRow:
    """One stage: its name, its state (one of :data:`STATES`), the rows of its artifact, its seconds, and a note."""

    stage: str
    state: str
    rows: int
    seconds: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting that differs from its default."""

    name: str
    default: str
    value: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture beside the page: its file name relative to the page, a caption, and the alternative text."""

    file: str
    caption: str
    alt: str


@dataclass(frozen=True, slots=True)
class Quarantined:
    """An image that was left out."""

    image_id: int
    path: str
    stage: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReportContent:
    """Everything that the page shows.

    Attributes:
        title: the page's title.
        run_id: the run's id.
        verdict: sentences, most important first, from :func:`orl_ray.report.verdict.conclude`.
        stages: the stages in the order of the pipeline.
        settings: settings that differ from the defaults.
        evaluation: the result, or why there is none.
        histories: for each training stage its records (``step``, ``epoch``, ``loss``, ... numbers).
        neighbours: pictures of images with their neighbours.
        coverage: how many images and neighbours have RoI pairs.
        pairs: pictures of paired RoIs.
        near_duplicates: how many there are, and what became of them.
        groups: pictures of groups of near-duplicates.
        quarantine: the first images that were left out; the page shows at most 50.
        quarantine_count: how many were left out in all.
        next_steps: what the reader may do now.
    """

    title: str
    run_id: str
    verdict: Sequence[str]
    stages: Sequence[StageRow]
    settings: Sequence[Setting]
    evaluation: Result | str
    histories: Mapping[str, Sequence[Mapping[str, float]]]
    neighbours: Sequence[Picture]
    coverage: str
    pairs: Sequence[Picture]
    near_duplicates: str
    groups: Sequence[Picture]
    quarantine: Sequence[Quarantined]
    quarantine_count: int
    next_steps: Sequence[str]


def render_page(content: ReportContent) -> str:
    """Write the page.

    Args:
        content: what it shows.

    Returns:
        An HTML document; write it as UTF-8.

    Raises:
        ValueError: a stage's state is unknown, or a picture lies outside the page's folder.
    """
    sections = {
        "Verdict": _sentences(content.verdict),
        "Stages": _stages(content.stages),
        "Evaluation": evaluation_section.render(content.evaluation),
        "Training": training_section.render(content.histories),
        "Neighbours": _gallery(content.neighbours, "No neighbours were drawn in this run."),
        "Paired regions": coverage_section.render(
            content.coverage, _gallery(content.pairs, "No paired regions were drawn in this run.")
        ),
        "Near-duplicates": near_duplicate_section.render(content.near_duplicates, _gallery(content.groups, "")),
        "Settings": _settings(content.settings),
        "Quarantine": _quarantine(content.quarantine, content.quarantine_count),
        "Next steps": _sentences(content.next_steps),
    }
    here = Path(__file__)
    return Template(here.with_name("page.html").read_text(encoding="utf-8")).substitute(
        title=escape(content.title),
        run_id=escape(content.run_id),
        style=here.with_name("page.css").read_text(encoding="utf-8").rstrip(),
        navigation="".join(f'<li><a href="#{_anchor(name)}">{name}</a></li>' for name in sections),
        sections="\n".join(_section(name, body) for name, body in sections.items()),
    )


def _section(name: str, body: str) -> str:
    anchor = _anchor(name)
    return (
        f'<section class="{anchor}" id="{anchor}" aria-labelledby="{anchor}-title">\n'
        f'<h2 id="{anchor}-title">{name}</h2>\n{body}\n</section>'
    )


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _sentences(sentences: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in sentences)}</ul>"


def _stages(stages: Sequence[StageRow]) -> str:
    rows = []
    for stage in stages:
        if stage.state not in STATES:
            raise ValueError(
                f"report: stage {stage.stage!r} has the state {stage.state!r}; it must be one of {', '.join(STATES)}"
            )
        state = f'<span class="state state-{stage.state}">{stage.state}</span>'
        rows.append((escape(stage.stage), state, f"{stage.rows:,}", f"{stage.seconds:,.1f}", escape(stage.note)))
    total = sum(stage.seconds for stage in stages)
    return table(("Stage", "State", "#Rows", "#Seconds", "Note"), rows, f"{total:,.0f} seconds of work in all.")


def _settings(settings: Sequence[Setting]) -> str:
    if not settings:
        return "<p>Every setting has its default value.</p>"
    rows = [(f"<code>{escape(one.name)}</code>", escape(one.value), escape(one.default)) for one in settings]
    return table(("Setting", "This run", "Default"), rows, "Settings that differ from their defaults.")


def _quarantine(quarantine: Sequence[Quarantined], count: int) -> str:
    if not count:
        return "<p>No image was left out.</p>"
    shown = quarantine[:MOST_QUARANTINED]
    rows = [
        (str(one.image_id), f"<code>{escape(one.path)}</code>", escape(one.stage), escape(one.reason)) for one in shown
    ]
    first = f" The first {len(shown)} are shown." if count > len(shown) else ""
    images = "1 image was" if count == 1 else f"{count:,} images were"
    return table(("#Image", "Path", "Stage", "Reason"), rows, f"{images} left out.{first}")


def _gallery(pictures: Sequence[Picture], none: str) -> str:
    """Show pictures, or say why there is none where there is anything to say."""
    if not pictures:
        return f"<p>{none}</p>" if none else ""
    figures = [
        f'<figure><img src="{_source(picture.file)}" alt="{escape(picture.alt)}" loading="lazy">'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
        for picture in pictures
    ]
    return f'<div class="gallery">{"".join(figures)}</div>'


def _source(file: str) -> str:
    parts = file.split("/")
    if not file or "" in parts or ".." in parts:
        raise ValueError(f"report: picture {file!r} must be a file name relative to the page, inside its folder")
    return quote(file)
