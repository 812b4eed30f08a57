"""The declared settings: each explained, bounded and marked; defaults within their bounds; presets that load."""

import dataclasses
import json
from pathlib import Path

import pytest

from orl_ray.config import Config, Mining, flatten
from orl_ray.presets import PRESETS
from orl_ray.settings import build, default, known_settings, load

KNOWN = known_settings()
DEFAULTS = Path(__file__).parent / "defaults.json"


@pytest.mark.parametrize("name", KNOWN)
def test_a_setting_says_what_it_means_and_whether_it_changes_results(name):
    metadata = KNOWN[name].metadata
    assert metadata["meaning"].endswith(".")
    assert len(metadata["meaning"].split()) >= 2
    assert isinstance(metadata["semantic"], bool)


@pytest.mark.parametrize("name", KNOWN)
def test_a_default_has_the_type_of_its_setting_and_lies_within_the_bounds(name):
    entry, value = KNOWN[name], default(KNOWN[name])
    assert type(value) is entry.type
    low, high, choices = (entry.metadata[bound] for bound in ("low", "high", "choices"))
    assert not choices or value in choices
    assert low is None or value >= low
    assert high is None or value <= high
    assert low is None or high is None or low < high


def test_execution_settings_are_the_execution_section_the_paths_of_the_source_what_is_frozen_and_the_rounds():
    execution = {name for name, entry in KNOWN.items() if not entry.metadata["semantic"]}
    paths = {"source.images", "source.annotations", "source.splits", "freeze", "rounds"}
    paths |= {"image_level.init_from", "object_level.init_from"}
    assert execution == paths | {name for name in KNOWN if name.startswith("execution.")}


def test_semantic_defaults_equal_the_committed_table():
    now = {name: default(entry) for name, entry in KNOWN.items() if entry.metadata["semantic"]}
    committed = json.loads(DEFAULTS.read_text())
    changed = {name for name in committed.keys() & now.keys() if committed[name] != now[name]}
    assert not changed, (
        f"{sorted(changed)}: a changed default needs a new stage version, in every stage that names the setting, "
        f"because a setting at its default is not in the key; then write the new value into {DEFAULTS.name}"
    )
    assert committed.keys() == now.keys(), (
        f"write new settings into {DEFAULTS.name} and take removed ones out; "
        "a removed setting needs a new stage version"
    )


def test_a_changed_default_is_noticed():
    # The comparison above must not hold between just any two tables.
    committed = json.loads(DEFAULTS.read_text())
    assert committed["mining.k"] == 10
    assert committed["image_level.learning_rate"] == 0.2
    assert "execution.cpus" not in committed


def test_flatten_lists_every_setting_in_the_order_of_declaration():
    assert list(flatten(Config())) == list(KNOWN)
    assert flatten(Config())["mining.k"] == Mining().k


def test_build_undoes_flatten():
    values = flatten(load("laptop", None, ["mining.k=3", "seed=5"]))
    assert flatten(build(values)) == values
    assert build(values).mining.k == 3


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_loads_and_holds_its_own_values(preset):
    values = flatten(load(preset))
    assert {name: values[name] for name in PRESETS[preset]} == PRESETS[preset]
    rest = values.keys() - PRESETS[preset].keys()
    assert {name: values[name] for name in rest} == {name: default(KNOWN[name]) for name in rest}


def test_a_preset_repeats_no_default():
    repeated = {(name, key) for name, preset in PRESETS.items() for key in preset if preset[key] == default(KNOWN[key])}
    assert not repeated


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().mining.k = 3


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("encoder.backbone", "resnet50"),
        ("image_level.epochs", 800),
        ("image_level.batch_size", 512),
        ("rois.min_size", 96),
        ("rois.max_iou", 0.5),
        ("mining.k", 10),
        ("mining.pair_ratio", 0.1),
        ("object_level.patch_size", 96),
    ],
)
def test_defaults_are_those_of_the_published_runs(name, published):
    assert flatten(Config())[name] == published
