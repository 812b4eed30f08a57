"""The page as a browser reads it: complete, well-formed, escaped, and without a request to anywhere."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from orl_ray.evaluation.result import Result
from orl_ray.report.page import Picture, Quarantined, ReportContent, Setting, StageRow, render_page

EVIL = "<script>alert('x')</script>\"&"
VOID = {"meta", "img", "br", "line", "circle", "polyline", "link", "input"}


class Page(HTMLParser):
    """Collect tags and text, and check that every tag is closed by its own end."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.open = [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def named(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture
def content(result):
    history = [
        {
            "step": step,
            "epoch": step / 10,
            "loss": 2.0 - step / 100,
            "loss_inter": 1.0,
            "feature_std": 0.08,
            "ema": 0.99,
        }
        for step in range(50)
    ]
    return ReportContent(
        title=f"Run {EVIL}",
        run_id=EVIL,
        verdict=["First.", EVIL],
        stages=[StageRow("scenes", "reused", 1480, 0.0), StageRow("proposals", "done", 478, 212.43, EVIL)],
        settings=[Setting("source.images", "", EVIL)],
        evaluation=result,
        histories={"image_level": history, "object_level": history},
        neighbours=[Picture("neighbours 1.jpg", EVIL, EVIL)],
        coverage=f"Half of them. {EVIL}",
        pairs=[Picture("pairs/1.jpg", "Two.", "Alt.")],
        near_duplicates=f"Some. {EVIL}",
        groups=[Picture("near 1.jpg", EVIL, EVIL)],
        quarantine=[Quarantined(7, EVIL, "scenes", EVIL)],
        quarantine_count=1,
        next_steps=[EVIL],
    )


def said(page):
    return " ".join("".join(page.text).split())


def test_page_is_well_formed_and_has_every_section(content):
    page = Page(render_page(content))
    headings = {attrs["id"].removesuffix("-title") for attrs in page.named("h2")}
    expected = (
        "verdict stages evaluation training neighbours paired-regions near-duplicates settings quarantine next-steps"
    )
    assert headings == set(expected.split())
    links = {attrs["href"] for attrs in page.named("a")}
    assert links == {f"#{name}" for name in headings}
    assert page.named("html") == [{"lang": "en"}]


def test_what_comes_from_outside_is_escaped_everywhere(content):
    html = render_page(content)
    page = Page(html)
    assert page.named("script") == []
    assert "<script" not in html
    assert said(page).count("alert('x')") >= 8
    assert page.named("img")[0]["alt"] == EVIL


def test_page_asks_nothing_of_the_network(content):
    html = render_page(content)
    page = Page(html)
    assert page.named("link") == []
    for tag, attrs in page.tags:
        for name in ("src", "href", "srcset", "action"):
            assert not re.match(r"[a-z]+:|//", attrs.get(name, "")), (tag, attrs)
    assert "url(" not in html
    assert "@import" not in html
    policy = next(a["content"] for a in page.named("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_page_suits_telephones_and_dark_screens(content):
    html = render_page(content)
    assert any(a.get("name") == "viewport" for a in Page(html).named("meta"))
    assert "prefers-color-scheme: dark" in html


def test_pictures_and_charts_have_words(content):
    page = Page(render_page(content))
    assert all(attrs["alt"] for attrs in page.named("img"))
    assert (
        len(page.named("desc")) == len(page.named("svg")) == 2 + 2 * 3
    )  # two probes; loss, feature_std and ema a stage


def test_file_names_are_quoted_in_addresses(content):
    assert [attrs["src"] for attrs in Page(render_page(content)).named("img")] == [
        "neighbours%201.jpg",
        "pairs/1.jpg",
        "near%201.jpg",
    ]


@pytest.mark.parametrize("file", ["", "../secret.jpg", "/etc/x.jpg", "https://example.org/x.jpg"])
def test_pictures_outside_the_folder_are_refused(content, file):
    with pytest.raises(ValueError, match="inside its folder"):
        render_page(replace(content, pairs=[Picture(file, "c", "a")]))


def test_numbers_of_the_stages_are_shown(content):
    words = said(Page(render_page(content)))
    assert "1,480" in words
    assert "212.4" in words
    assert "reused" in words


def test_unknown_state_is_refused(content):
    with pytest.raises(ValueError, match="must be one of done, reused, skipped"):
        render_page(replace(content, stages=[StageRow("scenes", "odd", 1, 1.0)]))


def test_evaluation_shows_differences_classes_and_protocol(content):
    words = said(Page(render_page(content)))
    assert "+2.0 to +40.0" in words
    assert "includes 0: inconclusive" in words
    assert "<dog>" in words
    assert "<rare>: 1 positives" in words
    assert "0123456789abcdef" in words


def test_result_read_back_from_json_gives_the_same_page(content, result):
    again = Result.from_json(json.loads(json.dumps(result.to_json())))
    assert render_page(replace(content, evaluation=again)) == render_page(content)


def test_skipped_evaluation_gives_the_reason(content):
    assert f"Skipped: {EVIL}" in said(Page(render_page(replace(content, evaluation=EVIL))))


def test_quarantine_shows_fifty_and_the_count(content):
    many = [Quarantined(n, f"p{n}.jpg", "scenes", "zero bytes") for n in range(80)]
    words = said(Page(render_page(replace(content, quarantine=many, quarantine_count=1234))))
    assert "1,234 images were left out. The first 50 are shown." in words
    assert words.count("zero bytes") == 50


def test_empty_parts_say_so(content):
    empty = replace(
        content,
        settings=[],
        histories={},
        neighbours=[],
        pairs=[],
        groups=[],
        quarantine=[],
        quarantine_count=0,
        stages=[],
    )
    words = said(Page(render_page(empty)))
    for sentence in (
        "Every setting has its default value.",
        "Nothing was trained in this run.",
        "No neighbours were drawn in this run.",
        "No paired regions were drawn in this run.",
        "No image was left out.",
    ):
        assert sentence in words


def test_images_left_out_as_near_duplicates_of_training_are_counted(content, result):
    assert "near-duplicates of training" not in said(Page(render_page(content)))
    words = said(Page(render_page(replace(content, evaluation=replace(result, near_duplicates=12)))))
    assert "Test images left out as near-duplicates of training images: 12." in words


def test_losses_share_a_chart_and_broken_records_do_not_break_the_page(content):
    broken = [{"step": 0, "loss": float("nan")}, {"step": 1, "loss": 1.0, "loss_inter": 2.0, "lr": float("nan")}]
    page = Page(render_page(replace(content, histories={"object_level": broken, "image_level": []})))
    assert len(page.named("svg")) == 2 + 1
    assert "Nothing was recorded." in said(page)


def test_same_content_gives_the_same_page(content):
    assert render_page(content) == render_page(content)
