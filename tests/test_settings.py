"""Loading settings: what wins over what, and every mistake found in one pass and told apart."""

import subprocess
import sys
import tempfile

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from orl_ray.config import flatten
from orl_ray.settings import ConfigError, build, known_settings, load, settings_help, several

KNOWN = known_settings()


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def mistakes(*overrides, preset="coco", file=None):
    with pytest.raises(ConfigError) as caught:
        load(preset, file, overrides)
    return caught.value.mistakes


def loaded_or_mistakes(file):
    try:
        return load("coco", file)
    except ConfigError as error:
        return error.mistakes


class TestPrecedence:
    def test_nothing_given_is_the_published_configuration(self):
        assert load() == load("coco")

    def test_overrides_win_over_the_file_and_the_file_over_the_preset(self, written):
        file = written("image_level: {epochs: 3, batch_size: 16}\nmining.k: 4\n")
        config = load("laptop", file, ["image_level.epochs=2"])
        assert config.image_level.epochs == 2
        assert config.image_level.batch_size == 16
        assert config.mining.k == 4
        assert config.encoder.backbone == "resnet18"

    def test_a_file_names_its_preset_and_the_command_line_another(self, written):
        file = written("preset: laptop\n")
        assert load(None, file).encoder.backbone == "resnet18"
        assert load("coco", file).encoder.backbone == "resnet50"
        assert load(None, file, ["preset=coco"]).encoder.backbone == "resnet50"

    def test_the_last_of_two_overrides_wins(self):
        assert load(overrides=["mining.k=3", "mining.k=4"]).mining.k == 4

    def test_nested_sections_and_dotted_names_mean_the_same(self, written):
        nested = load("coco", written("rois: {max_iou: 0.3}\n"))
        assert nested == load("coco", written("rois.max_iou: 0.3\n"))

    def test_an_empty_file_changes_nothing(self, written):
        assert load("coco", written("")) == load("coco")


class TestValues:
    def test_yaml_exponents_without_a_point_are_numbers(self):
        assert load(overrides=["image_level.weight_decay=1e-6"]).image_level.weight_decay == 1e-6

    def test_a_whole_number_serves_a_fractional_setting_as_its_own_type(self):
        epochs = load(overrides=["image_level.epochs=5"]).image_level.epochs
        assert (type(epochs), epochs) == (float, 5.0)

    def test_true_and_false_are_read(self):
        assert load(overrides=["execution.use_gpu=true"]).execution.use_gpu is True

    @pytest.mark.parametrize("text", ["/data/set #2", "2024-05-01", "2024-13-45", "007", "null", "a: b", "'quoted'"])
    def test_an_overriding_text_is_taken_as_it_stands(self, text):
        assert load(overrides=[f"execution.store={text}"]).execution.store == text

    def test_an_override_may_hold_an_equals_sign_and_blanks_around_it(self):
        assert load(overrides=[" execution.store = a=b "]).execution.store == "a=b"

    @pytest.mark.parametrize(
        ("override", "problem"),
        [
            ("mining.k=2.5", "2.5 is not a whole number"),
            ("mining.k=true", "True is not a whole number"),
            ("mining.k=", "'' is not a whole number"),
            ("mining.k=[1]", "[1] is not a whole number"),
            ("mining.k=:", "':' is not a whole number"),
            ("mining.k=2024-13-45", "'2024-13-45' is not a whole number"),
            ("image_level.epochs=.nan", "nan is not a number"),
            ("image_level.epochs=.inf", "inf is not a number"),
            ("image_level.epochs=many", "'many' is not a number"),
            ("image_level.epochs=false", "False is not a number"),
            ("execution.use_gpu=1", "1 is not true or false"),
            ("mining.k=0", "0 is below the least allowed value, 1"),
            ("rois.max_iou=1.5", "1.5 is above the greatest allowed value, 1"),
            ("encoder.backbone=resnet51", "not one of resnet18, resnet50; did you mean resnet50?"),
        ],
    )
    def test_a_value_that_does_not_fit_is_told_with_its_name(self, override, problem):
        (line,) = mistakes(override)
        assert line.startswith(f"{override.partition('=')[0]}: ")
        assert problem in line

    def test_a_number_too_large_for_any_machine_is_a_mistake_and_no_crash(self):
        (line,) = mistakes(f"seed={'9' * 400}")
        assert line.startswith("seed: ")

    @pytest.mark.parametrize("name", [n for n, e in KNOWN.items() if e.metadata["low"] is not None])
    def test_every_lower_bound_is_inclusive_and_enforced(self, name):
        low = KNOWN[name].metadata["low"]
        assert not [line for line in self._problems({name: low}) if "least allowed" in line]
        assert any(line.startswith(f"{name}: ") and "least allowed" in line for line in self._problems({name: low - 1}))

    @pytest.mark.parametrize("name", [n for n, e in KNOWN.items() if e.metadata["high"] is not None])
    def test_every_upper_bound_is_inclusive_and_enforced(self, name):
        high = KNOWN[name].metadata["high"]
        assert not [line for line in self._problems({name: high}) if "greatest allowed" in line]
        above = self._problems({name: high + 1})
        assert any(line.startswith(f"{name}: ") and "greatest allowed" in line for line in above)

    def _problems(self, values):
        try:
            load(overrides=[f"{name}={value}" for name, value in values.items()])
        except ConfigError as error:
            return error.mistakes
        return ()

    @given(
        st.dictionaries(
            st.sampled_from(sorted(KNOWN)),
            st.one_of(
                st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.lists(st.integers())
            ),
            max_size=6,
        )
    )
    def test_any_file_loads_or_names_each_wrong_setting_once(self, values):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
            yaml.safe_dump(values, file, allow_unicode=True)
            file.flush()
            found = loaded_or_mistakes(file.name)
        if isinstance(found, tuple):
            assert len(found) == len(set(found)) >= 1
            return
        assert {name: flatten(found)[name] for name in values} == {
            name: ", ".join(map(str, value)) if isinstance(value, list) else KNOWN[name].type(value)
            for name, value in values.items()
        }


class TestUnknownNames:
    @pytest.mark.parametrize(
        ("typo", "meant"),
        [
            ("minning.k", "mining.k"),
            ("mining.kmax", "mining.k_max"),
            ("image_level.epoch", "image_level.epochs"),
            ("object_level.momentun", "object_level.momentum"),
            ("sed", "seed"),
            ("backbone", "encoder.backbone"),
            ("training.patch_size", "object_level.patch_size"),
            ("objct_level.epochs", "object_level.epochs"),
        ],
    )
    def test_a_typo_names_the_nearest_setting(self, typo, meant):
        assert mistakes(f"{typo}=1") == (f"{typo}: unknown setting; did you mean {meant}?",)

    def test_a_name_like_no_other_gets_no_suggestion(self):
        assert mistakes("qqqq.zzzz=1") == ("qqqq.zzzz: unknown setting",)

    def test_an_unknown_preset_names_the_nearest(self):
        assert mistakes(preset="labtop") == ("preset: unknown preset 'labtop'; did you mean laptop?",)

    def test_an_override_without_an_equals_sign_says_how_it_is_written(self):
        assert mistakes("mining.k") == ("mining.k: an override is written name=value",)


TEN_MISTAKES = """
sed: 1
source: {kind: folder, images: /no/such/folder, limit: -1}
encoder: {backbone: resnet34}
image_level: {epochs: many, batch_size: 7, momentum: 2}
rois: {max_iou: yes}
mining: {k: 30, k_max: 20}
object_level: {view_sice: 64}
"""


class TestAllAtOnce:
    def test_ten_mistakes_in_one_file_are_ten_lines_of_one_error(self, written):
        with pytest.raises(ConfigError) as caught:
            load("coco", written(TEN_MISTAKES))
        heading, *lines = str(caught.value).splitlines()
        assert heading == "10 mistakes in the configuration:"
        assert [line.strip().partition(":")[0] for line in lines] == [
            "sed",
            "source.limit",
            "encoder.backbone",
            "image_level.epochs",
            "image_level.momentum",
            "rois.max_iou",
            "object_level.view_sice",
            "mining.k",
            "image_level.batch_size",
            "source.images",
        ]

    def test_one_mistake_is_told_in_the_singular(self):
        with pytest.raises(ConfigError, match=r"^1 mistake in the configuration:\n"):
            load(overrides=["mining.k=0"])

    @pytest.mark.parametrize(
        ("preset", "overrides"),
        [
            ("laptop", ["embeddings.image_crop=big"]),  # the default crop is larger than the laptop's resize
            ("coco", ["mining.k_max=x", "mining.k=30"]),
            ("coco", ["mining.k=x", "mining.k_max=5"]),
            ("coco", ["image_level.epochs=x", "image_level.warmup_epochs=900"]),
        ],
    )
    def test_a_wrong_value_is_not_told_again_by_the_rules_it_takes_part_in(self, preset, overrides):
        assert len(mistakes(*overrides, preset=preset)) == 1


class TestTogether:
    @pytest.mark.parametrize(
        ("overrides", "told"),
        [
            (["mining.k=21"], "mining.k: 21 is above mining.k_max, 20"),
            (["image_level.queue=9"], "image_level.queue: has no effect with image_level.method=byol; leave it"),
            (["image_level.temperature=1"], "image_level.temperature: has no effect with image_level.method=byol"),
            (
                ["image_level.method=simclr", "image_level.ema_base=0.9"],
                "image_level.ema_base: has no effect with image_level.method=simclr",
            ),
            (
                ["image_level.method=moco", "image_level.merge_views=true"],
                "image_level.merge_views: has no effect with image_level.method=moco",
            ),
            (
                ["object_level.optimizer=adamw", "object_level.momentum=0.5"],
                "object_level.momentum: has no effect with object_level.optimizer=adamw",
            ),
            (
                ["image_level.last_batch=full"],
                "image_level.cosine: epoch needs whole batches in an epoch; take image_level.last_batch=short",
            ),
            (["object_level.ema_final=0.5"], "object_level.ema_base: 0.99 is above object_level.ema_final"),
            (["object_level.init_from=none.pth"], "object_level.init_from: none.pth is not a file"),
            (["mining.index_effort=2"], "mining.index_effort: has no effect with mining.index=flat; leave it at 1"),
            (["embeddings.align_scale=5"], "embeddings.align_scale: has no effect with embeddings.roi_mode=crop"),
            (
                ["image_level.decode_on_gpu=true"],
                "image_level.decode_on_gpu: has no effect with execution.use_gpu=False",
            ),
            (
                ["object_level.decode_on_gpu=true", "object_level.decode_margin=1", "execution.use_gpu=true"],
                "object_level.decode_margin: has no effect with object_level.decode_on_gpu=True; leave it at 0.0",
            ),
            (["mining.global_probes=5"], "mining.global_probes: has no effect with mining.scope=neighbors"),
            (
                ["mining.scope=global", "freeze=neighbors@ab"],
                "mining.scope: has no effect on neighbors that are frozen",
            ),
            (["mining.index=ivf", "freeze=neighbors@ab"], "mining.index: has no effect on neighbors that are frozen"),
            (
                ["mining.pairing=mutual", "freeze=correspondences@ab,rois@cd"],
                "mining.pairing: has no effect on correspondences that are frozen; leave it at top",
            ),
            (
                ["execution.probe_images=50"],
                "execution.probe_images: has no effect with execution.probe_epochs=0",
            ),
            (["execution.tensorboard=s3://b/t"], "execution.tensorboard: event files are written to a disk"),
            (["mining.min_similarity=1.5"], "mining.min_similarity: 1.5 is no cosine"),
            (
                ["mining.scope=global", "mining.global_code_bytes=100"],
                "mining.global_code_bytes: 100 does not divide the 2048 numbers of a RoI vector",
            ),
            (
                ["mining.scope=global", "mining.global_candidates=5"],
                "mining.global_neighbors: 10 is above mining.global_candidates, 5",
            ),
            (["mining.pair_ratio=0.3"], "mining.pair_ratio: 0.3 is above mining.ratio_max, 0.2"),
            (
                ["mining.min_similarity=0.9", "mining.max_similarity=0.8"],
                "mining.min_similarity: 0.9 is above mining.max_similarity, 0.8: no pair is left",
            ),
            (
                ["mining.scope=global", "mining.pairing=mutual"],
                "mining.pairing: mutual needs all similarities of two images, which mining.scope=global",
            ),
            (["embeddings.image_crop=300"], "embeddings.image_crop: 300 is above embeddings.image_resize, 256"),
            (["object_level.batch_size=4"], "object_level.batch_size: 4 is too small for batch norm, take 8 or more"),
            (["image_level.epochs=1"], "image_level.warmup_epochs: the warm-up is longer than image_level.epochs"),
            (["image_level.micro_batch=96"], "image_level.micro_batch: 96 must divide image_level.batch_size, 512"),
            (["image_level.micro_batch=64", "preset=coco_simclr"], "SimCLR contrasts the images of a whole batch"),
            (["image_level.micro_batch=512"], "image_level.micro_batch: 512 must divide image_level.batch_size, 512"),
            (["object_level.micro_batch=4"], "object_level.micro_batch: 4 is too small for batch norm"),
            (["object_level.micro_batch=8", "execution.train_workers=16"], "object_level.micro_batch: 8 cannot be"),
            (["execution.min_train_workers=1"], "execution.min_train_workers: 1 must be below execution.train_workers"),
            (["execution.resize_seconds=5"], "execution.resize_seconds: has no effect with execution.min_train"),
            (["execution.keep_checkpoints=5"], "execution.keep_checkpoints: has no effect with execution.checkpoint_"),
            (["evaluation.split=test", "source.kind=folder", "source.images=."], "evaluation.split: test needs"),
            (["execution.store=hdfs://bucket/x"], "execution.store: hdfs://bucket/x has an unknown scheme"),
            (["source.kind=folder", "source.images=s3:///x"], "source.images: s3:///x names no bucket"),
            (["source.kind=folder", "source.images=s3://a/x,gs://b/x"], "last names that differ"),
            (["source.kind=folder", "source.images=.", "source.id_column=id"], "kind folder has no columns"),
            (
                ["source.kind=coco", "source.images=s3://a/x,s3://a/y", "source.annotations=s3://a/x.json"],
                "source.annotations: 1 for 2 folders; name one for each folder",
            ),
            (["source.kind=folder"], "source.images: name the folder with the images (source.kind is folder)"),
            (["source.kind=folder", "source.images=/no/such"], "source.images: /no/such is not a folder"),
            (["source.kind=coco", "source.images=."], "source.annotations: name the COCO JSON"),
            (["source.kind=coco", "source.images=.", "source.annotations=/no.json"], "/no.json is not a file"),
        ],
    )
    def test_settings_that_contradict_each_other_are_told(self, overrides, told):
        (line,) = mistakes(*overrides)
        assert told in line

    def test_workers_that_cannot_share_the_batch_are_told_for_both_trainings(self):
        lines = mistakes("execution.train_workers=3")
        assert [line.partition(":")[0] for line in lines] == ["image_level.batch_size", "object_level.batch_size"]

    def test_elastic_workers_need_not_share_the_batch_equally_but_each_an_image(self):
        assert load(overrides=["execution.train_workers=3", "execution.min_train_workers=1"])
        lines = mistakes("execution.train_workers=600", "execution.min_train_workers=1")
        assert [line.partition(" has less than one image")[1] != "" for line in lines] == [True, True]

    def test_a_loss_without_any_weight_is_refused(self):
        zero = [f"object_level.{term}_weight=0" for term in ("global", "intra", "inter")]
        (line,) = mistakes(*zero)
        assert "nothing would be learned" in line
        assert load(overrides=zero[:2]).object_level.inter_weight == 1

    def test_values_at_their_limits_go_together(self):
        config = load(overrides=["mining.k=20", "mining.pair_ratio=0.2", "embeddings.image_crop=256"])
        assert config.mining.k == config.mining.k_max

    def test_remote_places_are_taken_as_they_are(self):
        places = ["source.images=s3://b/train2017, gs://c/more", "source.annotations=s3://b/a.json, gs://c/b.json"]
        config = load(overrides=["source.kind=coco", *places, "execution.store=s3://b/store"])
        assert several(config.source.images) == ["s3://b/train2017", "gs://c/more"]

    def test_a_yaml_list_names_several_folders(self, written):
        file = written("source: {kind: folder, images: [s3://a/one, s3://a/two]}\n")
        assert several(load(None, file).source.images) == ["s3://a/one", "s3://a/two"]
        (line,) = mistakes(file=written("source: {limit: [1, 2]}\n"))
        assert line.startswith("source.limit: [1, 2] is not a whole number")

    def test_annotations_of_a_plain_folder_are_refused(self, tmp_path):
        file = tmp_path / "labels.json"
        file.write_text("{}")
        (line,) = mistakes("source.kind=folder", f"source.images={tmp_path}", f"source.annotations={file}")
        assert "set source.kind to coco" in line


class TestFiles:
    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("a: [1", "cannot be read as YAML"),
            ("- 1\n- 2\n", "must hold sections and settings, holds a list"),
            ("seed: 2024-13-45\n", "cannot be read as YAML"),
        ],
    )
    def test_a_file_that_is_no_configuration_is_one_mistake_with_its_name(self, written, text, told):
        file = written(text)
        (line,) = mistakes(file=file)
        assert line.startswith(f"{file}: ")
        assert told in line
        assert "\n" not in line

    def test_a_missing_file_and_a_wrong_override_are_told_together(self, tmp_path):
        lines = mistakes("mining.k=0", file=tmp_path / "none.yaml")
        assert len(lines) == 2
        assert "No such file" in lines[0]

    def test_bytes_that_are_no_text_are_told(self, tmp_path):
        file = tmp_path / "run.yaml"
        file.write_bytes(b"\xff\xfe\xff")
        (line,) = mistakes(file=file)
        assert "cannot be read as YAML" in line


def test_settings_help_lists_every_setting_with_default_bounds_and_meaning():
    lines = settings_help().splitlines()
    assert [line.partition("=")[0] for line in lines] == list(KNOWN)
    (k,) = (line for line in lines if line.startswith("mining.k="))
    assert k == "mining.k=10  Neighbours an image that training draws from; at most k_max. (at least 1)"
    (backbone,) = (line for line in lines if line.startswith("encoder.backbone="))
    assert "(resnet18, resnet50)" in backbone


def test_build_leaves_what_is_not_named_at_its_default():
    config = build({"mining.k": 3, "seed": 9})
    assert (config.mining.k, config.seed, config.mining.k_max) == (3, 9, 20)


def test_settings_are_checked_without_ray_and_torch():
    code = (
        "import sys; from orl_ray.settings import load; load('laptop', None, ['mining.k=3']);"
        "print(sorted({'ray', 'torch', 'pyarrow', 'numpy'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_images_without_a_kind_of_source_are_a_mistake_and_not_silently_left_out(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load("laptop", overrides=[f"source.images={tmp_path}"])
    assert caught.value.mistakes == ("source.images: generated scenes take none; set source.kind",)
