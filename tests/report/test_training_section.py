"""Training on the page: warnings in words, features against initialisation, and a chart for each group of numbers."""

import re

import pytest

from orl_ray.pretraining.collapse import SIGNS
from orl_ray.report.training_section import render


def history(steps=6, **more):
    return [
        {
            "step": step,
            "epoch": step / 2,
            "loss": 4.0 / step,
            "loss_global": 4.0 / step,
            "feature_std": 0.8 / step,
            "uniformity": -3.0 / step,
            "ms_forward": 12.0,
            "ms_backward": 20.0,
            "data_wait": 0.01,
            **({"effective_rank": 30.0 - step, "probe_knn_map": step / 10, "probe_chance": 0.1} if step % 2 else {}),
            **more,
        }
        for step in range(1, steps + 1)
    ]


def charts(html):
    """Return caption -> what the chart says to who does not see it."""
    return dict(re.findall(r"<figcaption>(.*?)</figcaption>.*?<desc>(.*?)</desc>", html))


def test_numbers_of_one_kind_share_a_chart():
    found = charts(render({"image_level": history()}))
    assert list(found) == [
        "Loss",
        "Features against initialisation",
        "Online probe",
        "Parts of a step",
        "Share of time spent waiting for data",
    ]
    assert found["Parts of a step"].count("goes from") == 2
    assert (
        "milliseconds over epoch: forward goes from 12 to 12; backward goes from 20 to 20." in found["Parts of a step"]
    )


def test_features_are_drawn_as_shares_of_what_they_were_at_initialisation():
    said = charts(render({"image_level": history()}))["Features against initialisation"]
    assert "spread goes from 1 to 0.1667" in said
    assert "uniformity goes from 1 to 0.1667" in said
    assert "effective rank goes from 1 to" in said


def test_a_measurement_that_began_at_nothing_is_no_error():
    assert (
        "spread goes from 0 to 0"
        in charts(render({"image_level": history(feature_std=0.0)}))["Features against initialisation"]
    )


def test_features_are_given_as_numbers_too():
    html = render({"image_level": history()})
    row = re.search(r"<tr><th[^>]*>Effective rank.*?</tr>", html).group()
    assert re.findall(r'class="number">([^<]*)<', row) == ["29", "25"]


def test_the_probes_line_goes_on_where_it_was_not_asked():
    html = render({"image_level": history()})
    assert "k-NN on held-out images goes from 0.1 to 0.5; knowing nothing goes from 0.1 to 0.1" in html
    probe = html[html.index("Online probe") :]
    assert probe[: probe.index("</svg>")].count("<polyline") == 2


@pytest.mark.parametrize("sign", SIGNS, ids=lambda sign: sign.name)
def test_a_collapse_is_told_in_words_and_not_drawn(sign):
    html = render({"object_level": history(**{sign.name: 1.0, sign.measure: 0.5})})
    assert f'<p class="warning">{sign.words}' in html
    assert sign.name not in html
    assert "object_level.learning_rate" in html


def test_a_healthy_training_has_no_warning():
    assert "warning" not in render({"image_level": history()})


def test_a_training_without_records_says_so():
    assert "Nothing was recorded" in render({"image_level": []})
    assert "Nothing was trained" in render({})
