"""How long a run is, where its schedules are, and what it says of the machine it runs on."""

from __future__ import annotations

import pytest

from couloir.errors import UserError
from couloir.optim.config import OptimConfig
from couloir.optim.default import default_optimizer, default_scheduler
from couloir.training import pace
from couloir.training.config import TrainerConfig
from couloir.training.pace import Pace
from couloir.training.run_length import RunLength


def length(**flags):
    return RunLength(TrainerConfig(**flags))


@pytest.mark.parametrize(
    "flags, step, elapsed_s, fraction",
    [
        ({}, 1000, 1e6, 0.0),
        ({"max_steps": 400}, 100, 1e6, 0.25),
        ({"time_budget_minutes": 10}, 100, 150, 0.25),
        # The nearer bound decides.
        ({"max_steps": 400, "time_budget_minutes": 10}, 100, 300, 0.5),
        ({"max_steps": 400, "time_budget_minutes": 10}, 300, 300, 0.75),
        ({"max_steps": 400}, 500, 0, 1.0),
    ],
)
def test_the_done_part_is_that_of_the_nearer_bound(flags, step, elapsed_s, fraction):
    assert length(**flags).fraction(step, elapsed_s) == pytest.approx(fraction)


def test_schedules_are_batch_by_batch_unless_they_are_made_for_a_length():
    assert length(max_steps=490).position(123, 60) == 123
    assert length(time_budget_minutes=10).position(123, 60) == 123


@pytest.mark.parametrize("max_steps", [49, 490, 2200, 22000])
def test_a_run_of_any_length_goes_through_its_schedules_once(max_steps):
    run = length(max_steps=max_steps, schedule_batches=2200)
    assert run.position(0, 0) == 0
    assert run.position(max_steps // 2, 0) == pytest.approx(2200 * (max_steps // 2) / max_steps)
    assert run.position(max_steps, 0) == 2200


def test_a_slow_machine_moves_its_schedules_by_the_clock():
    # A quarter of the time is a quarter of the schedules, whether 100 or 1,000 batches were done in it.
    for step in (100, 1000):
        assert length(time_budget_minutes=20, schedule_batches=2200).position(step, 300) == pytest.approx(550)


def test_the_learning_rate_of_a_fitted_run_is_that_of_the_whole_one_at_the_same_part():
    """Eden at batch b of N is, by its formula, Eden at batch b / N * 2200 with the same B; the warm-up too."""
    from torch import nn

    config = OptimConfig(base_lr=0.045, lr_batches=600, lr_epochs=1000, warmup_batches=100)
    model = nn.Linear(2, 2)
    scheduler = default_scheduler(default_optimizer(model, config), config)
    run = length(max_steps=490, schedule_batches=2200)
    for step in (1, 22, 49, 245, 490):
        scheduler.step_batch(run.position(step, 0))
        b = step / 490 * 2200
        warmup = min(1.0, 0.1 + 0.9 * b / 100)
        assert scheduler.last_lr() == pytest.approx(0.045 * ((b * b + 600**2) / 600**2) ** -0.25 * warmup, rel=1e-6)
        assert scheduler.state_dict()["batch"] == int(b + 1e-9)


def test_a_run_without_such_a_bound_goes_batch_by_batch():
    assert length(schedule_batches=2200, num_epochs=3).position(123, 60) == 123


def test_a_negative_number_is_refused():
    with pytest.raises(UserError, match="`--schedule-batches` must be at least 0, but is -1"):
        TrainerConfig(schedule_batches=-1, max_steps=10)


def drive(watch, batches_per_second, seconds, start=(0, 0.0)):
    """What a run at a steady pace reports, second by second."""
    step, elapsed = start
    said = []
    for _ in range(int(seconds)):
        elapsed += 1
        step += batches_per_second
        said.append(watch.look(round(step), elapsed))
    return [line for line in said if line], (step, elapsed)


@pytest.fixture
def machine(monkeypatch):
    """A machine of two cores with a load that the test sets."""
    load = [2.0]
    monkeypatch.setattr(pace, "usable_cores", lambda: 2)
    monkeypatch.setattr(pace.os, "getloadavg", lambda: (load[0], 0, 0))
    return load


def watcher(**flags):
    return Pace(TrainerConfig(**{"time_budget_minutes": 15.5, "schedule_batches": 2200, "world_size": 2, **flags}))


def test_a_run_without_a_time_budget_says_nothing(machine):
    assert drive(watcher(time_budget_minutes=0, max_steps=500), 2, 300)[0] == []


def test_the_first_minute_tells_how_many_batches_there_will_be(machine):
    (line,), _ = drive(watcher(), 2.4, 200)
    assert line == (
        "at 2.4 batches a second this run will reach about 2232 batches in its 15.5 minutes; its schedules, made for "
        "2200, are fitted to that"
    )


def test_a_short_run_is_told_within_a_tenth_of_it(machine):
    lines, (_, elapsed) = drive(watcher(time_budget_minutes=1.5), 1, 11)
    assert len(lines) == 1
    assert elapsed < 12


def test_a_busy_machine_is_named_as_the_reason(machine):
    machine[0] = 5.1
    (line,), _ = drive(watcher(), 0.5, 100)
    assert "about 464 batches" in line
    assert line.endswith("it shares the machine with other work (load 5.1 on 2 cores)")


def test_a_slow_processor_is_named_as_the_reason(machine):
    (line,), _ = drive(watcher(), 0.5, 100)
    assert line.endswith("nothing else runs here (load 2.0 on 2 cores), so this processor is the slower one")


def test_a_run_that_falls_behind_later_says_so_and_why(machine):
    watch = watcher()
    first, place = drive(watch, 2.4, 200)
    machine[0] = 4.2
    later, later_place = drive(watch, 0.6, 200, place)
    assert len(first) == 1
    assert 1 <= len(later) <= 2  # the window that saw both speeds, then the next
    assert "not 2232 as it looked before: it shares the machine with other work (load 4.2 on 2 cores)" in later[0]
    assert drive(watch, 0.6, 200, later_place)[0] == []


def test_a_resumed_run_measures_its_own_speed(machine):
    (line,), _ = drive(watcher(), 2.0, 100, start=(1000, 400.0))
    # 60 s after 461 s (the first look begins the window) it has 1122 batches, and 409 s are left at two a second.
    assert "about 2060 batches" in line
