"""The command line: mistakes told at once, the plan shown without starting anything, exit codes for scripts."""

import json
import sys

import pytest

from orl_ray import execution
from orl_ray.checks import PreflightError
from orl_ray.cli import describe_error, dry_run, full_pipeline
from orl_ray.execution import RunSummary
from orl_ray.graph import main_job
from orl_ray.pipeline import plan
from orl_ray.settings import known_settings


@pytest.fixture(autouse=True)
def no_ray(monkeypatch):
    """Let any import of Ray fail."""
    monkeypatch.setitem(sys.modules, "ray", None)


@pytest.fixture
def store(tmp_path):
    return f"execution.store={tmp_path / 'store'}"


class TestMistakes:
    def test_all_of_them_are_told_and_nothing_is_made(self, capsys, tmp_path, store):
        assert full_pipeline([store, "minning.k=3", "mining.k=0"]) == 2
        told = capsys.readouterr()
        assert told.err.startswith("2 mistakes in the configuration:")
        assert "did you mean mining.k?" in told.err
        assert told.out == ""
        assert list(tmp_path.iterdir()) == []

    def test_a_foreign_folder_is_no_store(self, capsys, tmp_path):
        (tmp_path / "photo.jpg").write_bytes(b"x")
        assert full_pipeline([f"execution.store={tmp_path}"]) == 2
        assert "not empty and not a store" in capsys.readouterr().err

    def test_a_store_of_another_version_is_refused(self, capsys, tmp_path):
        (tmp_path / "orl_store.json").write_text(json.dumps({"version": 99}))
        assert full_pipeline([f"execution.store={tmp_path}"]) == 2
        assert "store of version 99" in capsys.readouterr().err

    def test_an_unknown_option_ends_with_the_usage(self, capsys):
        with pytest.raises(SystemExit) as ended:
            full_pipeline(["--dryrun"])
        assert ended.value.code == 2
        assert "usage: full_pipeline.py" in capsys.readouterr().err

    def test_an_unknown_stage_is_told_with_those_there_are(self, capsys, store):
        assert full_pipeline([store, "--until", "mining"]) == 2
        assert "unknown stage 'mining'; the stages are listing, packed_scenes, scenes," in capsys.readouterr().err

    def test_what_is_not_there_is_told_before_anything_starts(self, capsys, tmp_path, monkeypatch):
        monkeypatch.setattr("orl_ray.cli.execute", lambda *_: pytest.fail("started"))
        images = tmp_path / "images"
        images.mkdir()
        settings = [f"execution.store={tmp_path / 'store'}", "source.kind=folder", f"source.images={images}"]
        assert full_pipeline([*settings, "execution.cpus=1", "execution.train_workers=2"]) == 2
        told = capsys.readouterr().err.splitlines()
        assert told[0] == "2 problems found before the start:"
        assert told[1].startswith(f"  source.images {images}: it holds no files")
        assert told[2].startswith("  Ray on this machine: no room for 2 training workers")

    def test_nodes_that_do_not_see_the_store_end_the_run_as_what_is_not_there_does(self, capsys, store, monkeypatch):
        def fail(*_arguments):
            raise PreflightError(["node b: it is not there"])

        monkeypatch.setattr("orl_ray.cli.execute", fail)
        assert full_pipeline([store]) == 2
        assert capsys.readouterr().err == "1 problem found before the start:\n  node b: it is not there\n"


class TestDryRun:
    def states(self, text):
        return {line.split()[0]: line.split()[1] for line in text.splitlines()[2:]}

    def test_shows_every_stage_and_starts_no_ray(self, capsys, store):
        assert full_pipeline([store, "--dry-run"]) == 0
        text = capsys.readouterr().out
        assert text.splitlines()[0].split() == ["stage", "state", "parts", "to", "make", "why"]
        states = self.states(text)
        assert list(states) == [stage.name for stage in main_job()]
        assert states.pop("listing") == "run"
        assert set(states.values()) == {"waits"}

    def test_settings_may_stand_before_and_after_options(self, capsys, store):
        assert full_pipeline([store, "--dry-run", "mining.k=5"]) == 0

    def test_of_a_finished_store_everything_is_done(self, finished):
        text = dry_run(finished.config, main_job(), finished.store)
        assert set(self.states(text).values()) == {"done"}
        assert text.count("up to date") == len(main_job())

    def test_tells_what_a_changed_setting_makes_again(self, finished):
        small = finished.with_settings(rois={"max_iou": 0.1})
        text = dry_run(small.config, main_job(), small.store)
        assert {name for name, state in self.states(text).items() if state != "done"} == {
            "rois",
            "roi_embeddings",
            "correspondences",
            "object_level",
            "evaluation",
            "report",
        }
        (rois,) = (line for line in text.splitlines() if line.startswith("rois"))
        assert rois.split()[1:4] == ["run", "3", "3"]

    def test_until_leaves_out_what_a_stage_does_not_need(self, capsys, store):
        assert full_pipeline([store, "--dry-run", "--until", "rois"]) == 0
        assert list(self.states(capsys.readouterr().out)) == ["listing", "packed_scenes", "scenes", "proposals", "rois"]


class TestHelp:
    def test_settings_are_listed_and_nothing_is_made(self, capsys, tmp_path, store):
        assert full_pipeline([store, "--help-settings"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.partition("=")[0] for line in lines] == list(known_settings())
        assert list(tmp_path.iterdir()) == []


class TestRunning:
    def test_a_finished_store_needs_no_ray_and_says_where_the_results_lie(
        self, capsys, finished, tmp_path, monkeypatch
    ):
        small = finished.copy(tmp_path / "copy")
        monkeypatch.setattr("orl_ray.cli.config_of", lambda *_: small.config)
        assert full_pipeline([]) == 0
        text = capsys.readouterr().out
        assert "nothing was missing, Ray was not started" in text
        report = small.plan("report").key
        assert f"report: {small.store.root}/report/{report}/index.html" in text
        (run,) = small.store.runs()
        assert (run["status"], set(run["stages"])) == ("finished", {stage.name for stage in main_job()})

    @pytest.mark.parametrize(
        ("error", "code"), [(KeyboardInterrupt(), 130), (SystemExit(15), 143), (RuntimeError("disk full"), 1)]
    )
    def test_a_run_that_ends_early_says_that_the_command_goes_on(self, capsys, store, monkeypatch, error, code):
        def fail(*_arguments):
            raise error

        monkeypatch.setattr("orl_ray.cli.execute", fail)
        assert full_pipeline([store]) == code
        told = capsys.readouterr().err
        assert "the same command goes on from" in told
        assert ("RuntimeError: disk full" in told) == (code == 1)

    def test_a_failure_of_the_planning_leaves_a_run_record_that_says_so(self, store, monkeypatch, tmp_path):
        monkeypatch.setattr(execution, "plan", lambda *_: (_ for _ in ()).throw(OSError("gone")))
        assert full_pipeline([store]) == 1
        (record,) = (tmp_path / "store" / "runs").glob("*.json")
        assert json.loads(record.read_text())["status"] == "failed"

    def test_the_summary_tells_made_reused_and_skipped(self, capsys, finished, monkeypatch, store):
        plans = plan(finished.config, main_job(), finished.store)
        summary = RunSummary("run", plans, made={"rois": (1, 2.5), "scenes": (3, 1.0)}, seconds=75, used_ray=True)
        monkeypatch.setattr("orl_ray.cli.execute", lambda *_: summary)
        assert full_pipeline([store]) == 0
        lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
        assert "2 of 3 parts were there" in lines["rois"]
        assert lines["scenes"].split() == ["scenes", "20", "images", "1.0"]
        assert "up to date" in lines["proposals"]
        assert "1 min 15 s. Run record: " in " ".join(lines.values())


class TestErrors:
    def test_the_innermost_cause_is_told(self):
        inner = ValueError("image 7 is broken")
        middle = RuntimeError("task failed")
        middle.cause = inner  # as Ray's errors have it
        outer = RuntimeError("job failed")
        outer.__cause__ = middle
        assert describe_error(outer) == "ValueError: image 7 is broken"

    def test_an_error_that_is_its_own_cause_ends(self):
        error = RuntimeError("round and round")
        error.cause = error
        assert describe_error(error) == "RuntimeError: round and round"

    def test_ray_datas_advice_on_its_own_settings_is_left_out(self):
        error = ValueError("image 7 is broken\nFailed to apply UDF transform after 1/1 attempts (...).\nTo change ...")
        assert describe_error(error) == "ValueError: image 7 is broken"

    def test_long_messages_are_cut_in_the_middle(self):
        told = describe_error(RuntimeError("\n".join(f"line {number}" for number in range(100)))).splitlines()
        assert len(told) == 12
        assert (told[0], told[3], told[-1]) == ("RuntimeError: line 0", "...", "line 99")
