"""Running a plan: what an error or an interrupt does to what is under way."""

import contextlib
import dataclasses
import io
import threading
import time

import pytest

from orl_ray import execution
from orl_ray.config import Config
from orl_ray.evaluation.stages import reads_test_split
from orl_ray.execution import Request, _stage_threads, execute, needs_of
from orl_ray.occupancy import StoreBusyError, alone
from orl_ray.pipeline import Input, Stage, StagePlan, State, always
from orl_ray.preflight import Needs
from orl_ray.progress import Console
from orl_ray.scenes.takedowns import UnfinishedTakedownError, begin_takedown, end_takedown
from orl_ray.storage import Store


def test_an_interrupt_ends_what_stages_wait_for_and_then_ray(monkeypatch):
    ray = pytest.importorskip("ray")
    ended = []
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append("ray"))
    running, stop = {}, threading.Event()

    def interrupted():
        with _stage_threads(1, running, stop) as pool:
            running[pool.submit(lambda: (stop.wait(), time.sleep(0.2), ended.append("stage")))] = None
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert ended == ["stage", "ray"]  # a thread within Ray when that is shut down may never come out of it


def test_an_interrupt_shuts_ray_down_although_a_stage_does_not_look(monkeypatch):
    ray = pytest.importorskip("ray")
    released, running = threading.Event(), {}
    monkeypatch.setattr(ray, "shutdown", released.set)
    monkeypatch.setattr(execution, "_END_SECONDS", 0.1)

    def interrupted():
        with _stage_threads(1, running, threading.Event()) as pool:
            running[pool.submit(released.wait, 300)] = None
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert next(iter(running)).result() is True


def test_without_an_error_stages_are_waited_for():
    done = []
    with _stage_threads(1, {}, threading.Event()) as pool:
        pool.submit(lambda: done.append(time.sleep(0.1)))
    assert len(done) == 1


class TestNeeds:
    def of(self, *states, request=None, split="validation"):
        read = Stage("read", "", 1, (), (), print, reads_source=always)
        train = Stage("train", "", 1, (), (), print, trains=True)
        score = Stage("score", "", 1, (), (), print, reads_source=reads_test_split)
        plans = [StagePlan(stage, state, "") for stage, state in zip((read, train, score), states, strict=True)]
        config = dataclasses.replace(Config(), evaluation=dataclasses.replace(Config().evaluation, split=split))
        return needs_of(config, plans, request or Request())

    @pytest.mark.parametrize("state", [State.RUN, State.WAITS])
    def test_what_has_work_to_do_needs_what_it_works_with(self, state):
        assert self.of(state, State.DONE, State.DONE) == Needs(source=True, ray=True, training=False)
        assert self.of(State.DONE, state, State.DONE) == Needs(source=False, ray=True, training=True)
        assert self.of(State.DONE, State.DONE, state) == Needs(source=False, ray=True, training=False)

    def test_a_test_split_is_read_where_it_lies(self):
        assert self.of(State.DONE, State.DONE, State.RUN, split="test").source
        assert not self.of(State.DONE, State.DONE, State.DONE, split="test").source

    def test_what_is_done_or_skipped_needs_nothing(self):
        assert self.of(State.DONE, State.DONE, State.SKIPPED) == Needs(source=False, ray=False, training=False)

    @pytest.mark.parametrize("request_", [Request(rescan="quick"), Request(retry_quarantined=True)])
    def test_looking_at_the_source_again_needs_it(self, request_):
        needed = self.of(State.DONE, State.DONE, State.DONE, request=request_)
        assert needed == Needs(source=True, ray=True, training=False)


class TestRunRecords:
    """What a run leaves at every moment, so that nothing that it made or is about to make is taken for garbage."""

    @pytest.fixture
    def store(self, tmp_path, monkeypatch):
        monkeypatch.setattr(execution, "ray_session", lambda *_: contextlib.nullcontext(2))
        made = Store(tmp_path / "store")
        made.prepare()
        return made

    def stages(self, seen, error=None):
        def first(run):
            records = [run.store.write_part("first", f"{run.plan.key}-{i}", i, {}, rows=3) for i in range(2)]
            run.store.write_manifest("first", run.plan.key, records)

        def second(run):
            seen.append(next(run.store.runs()))
            if error:
                raise error
            for part in run.plan.missing:
                run.store.write_part("second", part.key, part.index, {}, rows=3)

        return [
            Stage("first", "first", 1, (), (), first, scope="collection"),
            Stage("second", "second", 1, (Input("first"),), (), second),
        ]

    def test_a_run_that_is_killed_has_named_what_is_there_and_what_was_to_come(self, store):
        seen = []
        summary = execute(Config(), self.stages(seen), store, Console(io.StringIO()))
        (during,) = seen
        assert (during["run_id"], during["status"]) == (summary.run_id, "running")
        first, second = during["stages"]["first"], during["stages"]["second"]
        assert set(first["parts"].values()) == store.present("first")
        assert (second["state"], second["parts"]) == ("run", {})
        assert set(second["missing"]) == store.present("second")

    def test_the_record_ends_as_finished_and_nobody_is_left_at_the_store(self, store):
        execute(Config(), self.stages([]), store, Console(io.StringIO()))
        (run,) = store.runs()
        assert run["status"] == "finished"
        assert run["stages"]["second"]["missing"] == []
        with alone(store, "gc", 30):
            pass

    def test_a_failed_run_keeps_its_record(self, store):
        with pytest.raises(RuntimeError, match="broken"):
            execute(Config(), self.stages([], RuntimeError("broken")), store, Console(io.StringIO()))
        (run,) = store.runs()
        assert run["status"] == "failed"
        assert run["stages"]["first"]["state"] == "done"

    def test_a_store_with_images_that_are_half_gone_starts_nothing(self, store):
        begin_takedown(store, [7, 11])
        with pytest.raises(UnfinishedTakedownError, match=r"orl_ray delete .*store 11 7 --delete"):
            execute(Config(), self.stages([]), store, Console(io.StringIO()))
        end_takedown(store, [7, 11])
        execute(Config(), self.stages([]), store, Console(io.StringIO()))

    def test_a_store_that_is_being_cleaned_starts_nothing(self, store):
        seen = []
        with alone(store, "gc", 30), pytest.raises(StoreBusyError, match="is being cleaned by gc"):
            execute(Config(), self.stages(seen), store, Console(io.StringIO()))
        assert (seen, list(store.runs())) == ([], [])

    def test_parts_that_nobody_listed_are_listed_by_the_next_run(self, store):
        """As a driver leaves them that is killed between the last part and its manifest."""
        summary = execute(Config(), self.stages([]), store, Console(io.StringIO()))
        key, records = summary.plans[1].key, list(summary.plans[1].records)
        store.delete_manifest("second", key)
        seen = []
        again = execute(Config(), self.stages(seen), store, Console(io.StringIO()))
        assert (seen, again.made, again.used_ray) == ([], {}, False)
        assert store.manifest("second", key) == records

    def test_reasons_compare_with_the_last_run_that_ended(self, store):
        execute(Config(), self.stages([]), store, Console(io.StringIO()))
        newer = self.stages([])
        newer[1] = dataclasses.replace(newer[1], version=2)
        told = io.StringIO()
        execute(Config(), newer, store, Console(told))
        assert "stage version 1 -> 2" in told.getvalue()
