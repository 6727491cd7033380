import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from couloir.data.plan import BatchLimits, deal, epoch_plan, hardest, sorted_plan

durations_lists = st.lists(st.floats(0.125, 20.0, width=32), min_size=1, max_size=120)


def make(durations, seed, *, num_shards=5, shuffle=True, max_duration=40.0, most=0, num_buckets=4, window=2, **ranks):
    durations = np.array(durations, np.float32)
    shards = np.sort(np.random.default_rng(0).integers(0, num_shards, len(durations)))
    rng = np.random.default_rng(seed) if shuffle else None
    limits = BatchLimits(max_duration, most)
    plan = epoch_plan(durations, shards, limits, rng, num_buckets=num_buckets, window=window, **ranks)
    return durations, shards, plan


@settings(max_examples=150, deadline=None)
@given(durations_lists, st.integers(0, 9), st.integers(1, 6), st.integers(0, 7), st.booleans(), st.booleans())
def test_every_utterance_is_in_exactly_one_batch_of_one_rank(durations, seed, world_size, most, shuffle, drop_last):
    durations, _, plan = make(durations, seed, shuffle=shuffle, most=most, world_size=world_size, drop_last=drop_last)
    per_rank = [plan.rank_batches(rank, world_size) for rank in range(world_size)]
    assert len({len(batches) for batches in per_rank}) == 1
    seen = [int(u) for batches in per_rank for i in batches for u in plan.batch(i)]
    assert len(seen) == len(set(seen)) == len(durations) - plan.num_dropped
    if not drop_last and len(durations) >= world_size:
        # Only batches that cannot be halved any more are ever left over.
        assert plan.num_dropped < world_size
        assert plan.num_dropped == 0 or all(len(plan.batch(i)) == 1 for i in range(len(plan)))


@settings(max_examples=100, deadline=None)
@given(durations_lists, st.integers(0, 9), st.integers(0, 7), st.integers(1, 40))
def test_batches_keep_their_limits(durations, seed, most, max_duration):
    durations, _, plan = make(durations, seed, most=most, max_duration=float(max_duration))
    for i in range(len(plan)):
        batch = plan.batch(i)
        assert len(batch) == 1 or durations[batch].max() * len(batch) <= max_duration
        assert not most or len(batch) <= most


@settings(max_examples=50, deadline=None)
@given(durations_lists, st.integers(0, 9))
def test_shards_are_read_a_window_at_a_time(durations, seed):
    _, shards, plan = make(durations, seed, window=2)
    windows = []
    for i in range(len(plan)):
        found = set(shards[plan.batch(i)])
        if windows and found <= windows[-1] | found and len(windows[-1] | found) <= 2:
            windows[-1] |= found
        else:
            windows.append(found)
    shards_in_windows = [shard for window in windows for shard in window]
    assert len(shards_in_windows) == len(set(shards_in_windows))


def test_the_seed_fixes_the_order_and_another_changes_it():
    durations = np.random.default_rng(1).uniform(1, 15, 200)
    orders = [make(durations, seed)[2].order.tolist() for seed in ((1, 1), (1, 1), (1, 2), (2, 1))]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2] != orders[3] != orders[0]


def test_without_shuffling_or_buckets_the_order_is_the_shards_own():
    durations = np.random.default_rng(1).uniform(1, 15, 50)
    plan = make(durations, 0, shuffle=False, num_buckets=1)[2]
    assert plan.order.tolist() == list(range(50))
    assert (np.diff(plan.starts) > 0).all()


def test_buckets_save_padding():
    durations = np.random.default_rng(1).gamma(3, 2.5, 4000).clip(1, 20)

    def padding(num_buckets):
        durations_, _, plan = make(durations, 0, num_buckets=num_buckets, max_duration=200.0)
        batches = [durations_[plan.batch(i)] for i in range(len(plan))]
        return 1 - sum(b.sum() for b in batches) / sum(b.max() * len(b) for b in batches)

    assert padding(30) < 0.08 < 0.4 < padding(1)


def test_few_utterances_for_many_ranks_are_dropped_rather_than_shown_twice():
    plan = make([1.0, 2.0, 3.0], 0, world_size=4)[2]
    assert len(plan) == 0 and plan.num_dropped == 3


def test_every_utterance_of_validation_is_dealt_once_with_empty_batches_for_ranks_without_one():
    plan = deal(sorted_plan(np.array([1.0, 2.0, 3.0]), BatchLimits(100.0)), 4)
    assert len(plan) == 4
    assert sorted(int(u) for i in range(4) for u in plan.batch(i)) == [0, 1, 2]


def test_the_batches_of_a_step_are_of_like_length():
    durations, _, plan = make(
        np.random.default_rng(1).gamma(3, 2.5, 4000).clip(1, 20),
        0,
        num_buckets=30,
        num_shards=1,
        max_duration=20.0,
        world_size=4,
    )
    padded = np.array([durations[plan.batch(i)].max() * len(plan.batch(i)) for i in range(len(plan))]).reshape(-1, 4)
    # The share of all ranks' time that is spent waiting for the slowest one.
    waiting = 1 - padded.mean() / padded.max(1).mean()
    by_lot = np.random.default_rng(0).permutation(padded.ravel()).reshape(-1, 4)
    assert waiting < 0.06 < 0.1 < 1 - by_lot.mean() / by_lot.max(1).mean()
    # Steps are in no order of length.
    assert abs(np.corrcoef(padded.max(1)[1:], padded.max(1)[:-1])[0, 1]) < 0.2


def test_sorted_plan_runs_from_long_to_short_and_takes_an_overlong_utterance_alone():
    durations = np.array([1.0, 50.0, 3.0, 2.0, 3.0])
    plan = sorted_plan(durations, BatchLimits(9.0))
    assert [plan.batch(i).tolist() for i in range(len(plan))] == [[1], [2, 4, 3], [0]]


def test_hardest_batches_hold_the_longest_and_the_most_text():
    durations, _, plan = make(np.random.default_rng(3).uniform(1, 15, 300), 0, max_duration=60.0)
    chars = np.ones(300, np.int32)
    chars[17] = 1000
    worst = hardest(plan, durations, chars)
    members = {int(u) for i in worst for u in plan.batch(i)}
    assert int(durations.argmax()) in members and 17 in members
    assert len(worst) == len(set(worst)) <= 4
    assert max(len(plan.batch(i)) for i in range(len(plan))) == max(len(plan.batch(i)) for i in worst)


def test_a_plan_of_many_shards_is_a_permutation_kept_in_arrays():
    durations = np.random.default_rng(0).gamma(3, 2.5, 200_000).clip(1, 20).astype(np.float32)
    plan = epoch_plan(
        durations, np.arange(200_000) // 20_000, BatchLimits(200.0), np.random.default_rng(0), num_buckets=30
    )
    assert plan.order.dtype == np.int64 and plan.starts.dtype == np.int64
    assert np.array_equal(np.sort(plan.order), np.arange(200_000))
