"""Checkpoints written behind a training's back: when they are taken, one at a time, no error lost."""

import threading

import pytest
import torch

from orl_ray.pretraining.checkpoint_writer import CheckpointWriter
from orl_ray.pretraining.checkpoints import Checkpoint


class Training:
    """A training of which only the step is there."""

    def __init__(self):
        self.step = 0

    def checkpoint(self, *, kept=False):
        return Checkpoint(self.step, {"weight": torch.zeros(1)}, [], kept=kept)


class Gate:
    """A store whose writes wait until they are let through."""

    def __init__(self):
        self.saved, self.entered, self.open = [], threading.Semaphore(0), threading.Semaphore(0)

    def save(self, checkpoint):
        self.entered.release()
        assert self.open.acquire(timeout=60)
        self.saved.append(checkpoint.step)


class Broken:
    def save(self, checkpoint):
        raise OSError(f"disk full at step {checkpoint.step}")


def steps(writer, training, count):
    for _ in range(count):
        training.step += 1
        writer.after_step(training)


def test_a_training_goes_on_while_a_checkpoint_is_written_and_takes_no_other_meanwhile():
    store, training = Gate(), Training()
    with CheckpointWriter(store, seconds=0) as writer:
        steps(writer, training, 5)  # returns although nothing is let through
        assert store.entered.acquire(timeout=60)
        assert store.saved == []
        store.open.release()
    assert store.saved == [1]


def test_the_last_checkpoint_is_awaited():
    store, training = Gate(), Training()
    opener = threading.Timer(0.1, store.open.release)
    with CheckpointWriter(store, seconds=1e9) as writer:
        steps(writer, training, 3)
        writer.save(training.checkpoint())
        opener.start()
    assert store.saved == [3]


def test_one_that_is_kept_waits_for_the_one_before():
    store, training = Gate(), Training()
    with CheckpointWriter(store, seconds=1e9, kept_steps=1) as writer:
        steps(writer, training, 1)
        assert store.entered.acquire(timeout=60)
        second = threading.Thread(target=steps, args=(writer, training, 1))
        second.start()
        assert not store.entered.acquire(timeout=0.1), "two checkpoints were written at once"
        store.open.release(2)
        second.join(60)
    assert store.saved == [1, 2]


@pytest.mark.parametrize(
    ("interval", "kept"), [(0, []), (1, [1, 2, 3, 4, 5, 6, 7, 8]), (2.5, [3, 5, 8]), (3, [3, 6]), (0.4, [*range(1, 9)])]
)
def test_the_first_step_at_or_after_each_interval_is_kept(interval, kept):
    writer = CheckpointWriter(Broken(), 1e9, interval)
    assert [step for step in range(1, 9) if writer.keeps(step)] == kept


def test_an_error_of_the_thread_is_raised_after_a_later_step():
    training = Training()
    writer = CheckpointWriter(Broken(), seconds=0)
    with pytest.raises(OSError, match="disk full at step 1"):
        steps(writer, training, 10**9)


def test_an_error_of_the_last_checkpoint_is_raised_at_the_end():
    writer = CheckpointWriter(Broken(), seconds=1e9)
    writer.save(Training().checkpoint())
    with pytest.raises(OSError, match="disk full"), writer:
        pass


def test_an_error_of_the_training_is_not_hidden_by_one_of_the_thread():
    def fail(training):
        with CheckpointWriter(Broken(), seconds=0) as writer:
            steps(writer, training, 1)
            raise KeyError

    with pytest.raises(KeyError):
        fail(Training())
