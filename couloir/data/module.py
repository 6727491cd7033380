"""The data module: folders of shards in, batches out, in an order that (seed, epoch, rank, world size) fixes."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from couloir.config import flag_name
from couloir.data.batch import Batch
from couloir.data.config import DataConfig
from couloir.data.dataset import BatchDataset, Preparation
from couloir.data.folder import FEWEST_TO_JUDGE, Corpus, find_splits, open_corpus
from couloir.data.mixing import Mixer, make_mixer
from couloir.data.plan import BatchLimits, EpochPlan, deal, epoch_plan, hardest, sorted_plan
from couloir.data.shard_files import ShardFiles
from couloir.data.split_names import DEV, kind_of
from couloir.errors import UserError, unknown_name
from couloir.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)

_NAMED_SKIPS = 10
_UTTERANCES_TO_JUDGE = 200
_TEXTS_TO_CHECK = 2000
# A launcher's SIGTERM reaches loader processes too; the trainer may be in a long step or validation before it saves.
_WORKER_GRACE_S = 240
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
# What decides an epoch's batches beside the seed, the number of ranks and the utterances.
_ORDER_FIELDS = (
    "max_duration", "max_utterances", "bucketing_sampler", "num_buckets", "shuffle", "shuffle_shards", "drop_last",
    "min_utterance_duration", "max_utterance_duration", "valid_share", "max_valid_utterances",
)  # fmt: skip


class DataModule:
    """Batches for training, validation and tests from the folders that ``--manifest-dir`` names.

    A folder may hold train/, dev/ (or valid/) and test-*/, or shards at any depth; in the second case a fixed share
    of the utterances, chosen by their ids, is kept for validation. Nothing is read before it is asked for.

    Args:
        tokenizer: encodes the texts; without it `Batch.tokens` are empty lists.
        seed: of the data order.
        reason_to_skip: tokens and samples -> why the model cannot be trained on them, if so.
        text_transform: applied to every text before it is encoded. Both functions are defined at a module's top
            level, so that loader processes can be started with them.
    """

    def __init__(
        self,
        config: DataConfig,
        tokenizer: Tokenizer | None = None,
        seed: int = 42,
        *,
        reason_to_skip: Callable[[list[int], int], str | None],
        text_transform: Callable[[str], str] | None = None,
    ) -> None:
        self.config = config
        self.seed = seed
        self._limits = BatchLimits(config.max_duration, config.max_utterances)
        self._for_tests = Preparation(tokenizer, text_transform)
        self._for_training = replace(
            self._for_tests,
            reason_to_skip=reason_to_skip,
            skip_unknown=config.unknown_symbols == "skip",
        )
        self._splits = find_splits(config.folders)
        self._dev_sets = sorted(name for name in self._splits if name != DEV and kind_of(name) == DEV)
        if self._dev_sets:  # validation is on all of them
            names = [name for name in self._splits if kind_of(name) == DEV]
            self._splits[DEV] = [shard for name in names for shard in self._splits[name]]
        self._corpora: dict[str, Corpus] = {}
        self._plans: dict[tuple[int, int], EpochPlan] = {}
        self._fingerprints: dict[tuple[int, int], dict[str, Any]] = {}

    def train_loader(self, epoch: int, rank: int = 0, world_size: int = 1, start_batch: int = 0) -> BatchLoader:
        """One rank's batches of an epoch, from ``start_batch`` (position in the rank's epoch) on."""
        plan = self._train_plan(epoch, world_size)
        batches = plan.rank_batches(rank, world_size)
        # What is left of a pass, or a rank's part of it, may happen to hold nothing else.
        fewest = math.inf if start_batch else 1 if world_size == 1 else FEWEST_TO_JUDGE
        mixer = replace(self._mixer, epoch=epoch) if self._mixer else None
        preparation = replace(self._for_training, mixer=mixer)
        return BatchLoader(self._trained_on, preparation, plan, batches, self.config, start_batch, fewest)

    def plan_fingerprint(self, epoch: int, world_size: int = 1) -> dict[str, Any]:
        """What decides the batches of an epoch, by flag, and digests of the utterances and of the batches.

        A place in an epoch is a number, which means the same as long as ``plan`` is the same.
        """
        key = (epoch, world_size)
        if key not in self._fingerprints:
            plan, ids, used = self._train_plan(*key), self._trained_on.column("hash"), self._train_numbers
            flags = {flag_name(name): getattr(self.config, name) for name in _ORDER_FIELDS}
            durations = self._trained_on.column("duration")
            digests = {
                "the utterances": _digest(ids[used], durations[used]),
                "plan": _digest(ids[plan.order], plan.starts, plan.ends),
            }
            self._fingerprints = {key: {"--seed": self.seed, "--world-size": world_size, **flags, **digests}}
        return self._fingerprints[key]

    def valid_loader(self, rank: int = 0, world_size: int = 1) -> BatchLoader:
        """One rank's share of the validation utterances, longest first, without randomness.

        Every rank has the same number of batches; of fewer utterances than ranks, some ranks have an empty one.
        """
        corpus, numbers = self._validation
        plan = deal(self._sorted_plan(corpus, numbers), world_size)
        batches = plan.rank_batches(rank, world_size)
        return BatchLoader(corpus, self._for_training, plan, batches, self.config, fewest_to_judge=math.inf)

    def test_sets(self) -> list[str]:
        """Names of the test folders."""
        return sorted(set(self._splits) - {"train", DEV, *self._dev_sets})

    def dev_sets(self) -> list[str]:
        """Names of the development folders, where there are several or the one has its own name."""
        return self._dev_sets

    def test_loader(self, name: str, judge: bool = True) -> BatchLoader:
        """The utterances of a test set (or of ``dev`` or ``train``), longest first.

        Args:
            judge: raise for too many unusable ones, as `BatchLoader` does; otherwise the caller does that.

        Left out, and named on the log, are unreadable ones and those longer than ``--max-test-utterance-duration``.
        Where ``--manifest-dir`` has no ``dev``, that is the share kept for validation; where it has several, all.
        """
        if name not in self._splits and name != "dev":
            raise unknown_name("set", name, sorted({*self._splits, "dev"}))
        corpus = self._corpus(name if name in self._splits else "train")
        numbers = np.arange(len(corpus)) if name in self._splits else self._held_out
        numbers = self._not_too_long(name, corpus, numbers)
        self._report_unknown_symbols(corpus, numbers, f"never recognised in {name}")
        plan = self._sorted_plan(corpus, numbers)
        config = self.config if judge else replace(self.config, max_skipped_share=1.0)
        return BatchLoader(corpus, self._for_tests, plan, range(len(plan)), config, 0, 1 if judge else math.inf)

    def hardest_batches(self) -> list[Batch]:
        """The training batches likeliest not to fit in memory: the longest, the widest, the fullest, the most text."""
        plan, corpus = self._train_plan(1, 1), self._trained_on
        dataset = BatchDataset(corpus, self._for_training)
        worst = hardest(plan, corpus.column("duration"), corpus.column("num_chars"))
        batches = [dataset[i, plan.batch(i)] for i in worst]
        dataset.reader.close()
        return batches

    def train_texts(self) -> Iterator[str]:
        """The transcripts that are trained on, in the order of the shards."""
        return (self._trained_on.utterance(int(number)).text for number in self._train_numbers)

    def _corpus(self, name: str) -> Corpus:
        if name not in self._splits:
            raise UserError(f"{self.config.manifest_dir} has no {name} folder and no shards of its own to use as such")
        if name not in self._corpora:
            self._corpora[name] = self._open(self._splits[name])
        return self._corpora[name]

    def _open(self, shards: Sequence[ShardFiles]) -> Corpus:
        config = self.config
        return open_corpus(shards, config.index_dir, config.index_jobs, config.max_skipped_share)

    def _not_too_long(self, name: str, corpus: Corpus, numbers: np.ndarray) -> np.ndarray:
        """Those of the utterance numbers that a test may hold; the others are named on the log."""
        bound = self.config.max_test_utterance_duration
        durations = corpus.column("duration")[numbers]
        kept = durations <= bound if bound else np.ones(len(numbers), bool)
        if not kept.all():
            long = numbers[~kept]
            ids = ", ".join(corpus.utterance(int(number)).id for number in long[:_NAMED_SKIPS])
            ids += ", ..." if len(long) > _NAMED_SKIPS else ""
            text = "%s: %d of %d utterances left out, longer than --max-test-utterance-duration %g s: %s"
            log.warning(text, name, len(long), len(numbers), bound, ids)
        return numbers[kept]

    @cached_property
    def _trained_on(self) -> Corpus:
        """The training shards, and behind them those of --mux-manifest-dir; held out are none of the latter."""
        own, config = self._corpus("train"), self.config
        if not config.use_mux:
            return own
        shards = find_splits(config.mux_folders, "--mux-manifest-dir").get("train")
        if not shards:
            raise UserError(f"--mux-manifest-dir {config.mux_manifest_dir} has no shards to train on")
        more = self._open(shards)
        log.info("%d utterances of %s are mixed with %d of its own", len(more), config.mux_manifest_dir, len(own))
        return Corpus([*own.shards, *more.shards], [*own.problems, *more.problems])

    @cached_property
    def _mixer(self) -> Mixer | None:
        return make_mixer(self.config, self.seed)

    @cached_property
    def _held_out(self) -> np.ndarray:
        """Utterance numbers of the training shards kept for validation."""
        if "dev" in self._splits or self.config.valid_share == 0:
            return np.empty(0, np.int64)
        hashes = self._corpus("train").column("hash")
        count = min(max(1, round(self.config.valid_share * len(hashes))), self.config.max_valid_utterances)
        log.info("no dev folder: %d of %d utterances, chosen by their ids, are for validation", count, len(hashes))
        return np.sort(np.argsort(hashes, kind="stable")[:count])

    @cached_property
    def _validation(self) -> tuple[Corpus, np.ndarray]:
        """The corpus and the utterance numbers of validation."""
        if "dev" in self._splits:
            corpus = self._corpus("dev")
            return corpus, np.flatnonzero(self._fits(corpus, "validation"))
        corpus = self._corpus("train")
        return corpus, self._held_out[self._fits(corpus, "validation")[self._held_out]]

    @cached_property
    def _train_numbers(self) -> np.ndarray:
        """Utterance numbers that are trained on."""
        config, corpus = self.config, self._trained_on
        used = self._fits(corpus, "training")
        used[self._held_out] = False
        log.info("training on %d utterances, %.2f h", used.sum(), corpus.column("duration")[used].sum() / 3600)
        if not used.any():
            raise UserError(
                f"{config.manifest_dir} has no utterance to train on between --min-utterance-duration "
                f"{config.min_utterance_duration} and --max-utterance-duration {config.max_utterance_duration} s"
            )
        numbers = np.flatnonzero(used)
        tokenizer = self._for_training.tokenizer
        kept = "kept as <unk>" if tokenizer and tokenizer.unk_id >= 0 else "left out of their texts: there is no <unk>"
        self._report_unknown_symbols(corpus, numbers, "left out" if config.unknown_symbols == "skip" else kept)
        return numbers

    def _fits(self, corpus: Corpus, purpose: str) -> np.ndarray:
        """(utterances,) bool: neither too short nor too long; says how many are not."""
        durations, shortest = corpus.column("duration"), self.config.min_utterance_duration
        longest = self.config.max_utterance_duration
        short, long = durations < shortest, durations > longest
        if short.any() or long.any():
            text = "left out of %s: %d utterances shorter than %g s, %d longer than %g s"
            log.info(text, purpose, short.sum(), shortest, long.sum(), longest)
        fits = ~(short | long)
        alone = (fits & (durations > self.config.max_duration)).sum()
        if alone:
            log.info("%s: %d utterances longer than --max-duration are batches of their own", purpose, alone)
        return fits

    def _report_unknown_symbols(self, corpus: Corpus, numbers: np.ndarray, fate: str) -> None:
        """Say once, from a sample spread over the utterances, what the vocabulary lacks and what becomes of it."""
        tokenizer, transform = self._for_tests.tokenizer, self._for_tests.text_transform
        if tokenizer is None:
            return
        found = Counter[str]()
        sample = numbers[:: -(-len(numbers) // _TEXTS_TO_CHECK) or 1]
        for number in sample:
            text = corpus.utterance(int(number)).text
            found.update(sorted(tokenizer.unknown_symbols(transform(text) if transform else text)))
        if found:
            shown = ", ".join(f"{symbol} ({count})" for symbol, count in found.most_common(20))
            log.warning("outside the vocabulary, and %s (texts of %d looked at): %s", fate, len(sample), shown)

    def _train_plan(self, epoch: int, world_size: int) -> EpochPlan:
        key = (epoch, world_size)
        if key not in self._plans:
            config, corpus, numbers = self.config, self._trained_on, self._train_numbers
            plan = epoch_plan(
                corpus.column("duration")[numbers],
                corpus.shard_numbers()[numbers],
                self._limits,
                np.random.default_rng((self.seed, epoch)) if config.shuffle else None,
                num_buckets=config.num_buckets if config.bucketing_sampler else 1,
                window=config.shuffle_shards,
                world_size=world_size,
                drop_last=config.drop_last,
            )
            plan = replace(plan, order=numbers[plan.order])
            if not len(plan):
                raise UserError(
                    f"{len(numbers)} utterances make fewer batches than `--world-size` {world_size}: nothing is left "
                    "to train on; lower it or `--max-duration`" + ", or leave out `--drop-last`" * config.drop_last
                )
            if plan.num_dropped:
                log.warning("epoch %d: %d utterances do not fill a batch for each rank", epoch, plan.num_dropped)
            self._plans = {key: plan}
        return self._plans[key]

    def _sorted_plan(self, corpus: Corpus, numbers: np.ndarray) -> EpochPlan:
        plan = sorted_plan(corpus.column("duration")[numbers], self._limits)
        return replace(plan, order=numbers[plan.order])


def _digest(*arrays: np.ndarray) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


class BatchLoader(Iterable[Batch]):
    """Batches of a plan, read by loader processes. ``len`` is the number of batches that one pass yields.

    Unusable utterances are counted and the first ones named on the log; so are those that a caller adds
    to its ``skipped`` before taking the next. Raises `UserError` during a pass in which more than
    ``--max-skipped-share`` of the utterances are unusable, and after one of ``fewest_to_judge`` or more that all are.
    """

    def __init__(
        self,
        corpus: Corpus,
        preparation: Preparation,
        plan: EpochPlan,
        batches: Sequence[int],
        config: DataConfig,
        start: int = 0,
        fewest_to_judge: float = 1,
    ) -> None:
        self.items = _PlanItems(plan, batches, start)
        self.num_seen = self.num_skipped = 0
        self._max_skipped_share, self._fewest_to_judge = config.max_skipped_share, fewest_to_judge
        # A generator of its own: the loader's seed is not drawn from torch's, whose state a resumed run restores.
        self._loader = DataLoader(
            BatchDataset(corpus, preparation),
            batch_size=None,
            sampler=self.items,
            num_workers=config.num_workers,
            prefetch_factor=config.prefetch if config.num_workers else None,
            worker_init_fn=_start_worker if config.num_workers else None,
            generator=torch.Generator(),
            pin_memory=torch.cuda.is_initialized(),
        )

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Batch]:
        self.num_seen = self.num_skipped = 0
        try:
            with _stop_signals_held():
                batches = iter(self._loader)
            for batch in batches:
                unusable = len(batch.skipped)
                self._count(len(batch) + unusable, batch.skipped)
                yield batch
                self._count(0, batch.skipped[unusable:])
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise UserError(
                f"{error}; when memory ran out, lower --num-workers, --prefetch or --max-duration"
            ) from error
        if self.num_skipped > _NAMED_SKIPS:
            log.warning("%d of %d utterances were unusable", self.num_skipped, self.num_seen)
        self._judge()
        if self.num_seen and self.num_skipped == self.num_seen:
            text = f"none of {self.num_seen} utterances is usable; the log names the first"
            if self.num_seen >= self._fewest_to_judge:
                raise UserError(text)
            log.warning(text)

    def _count(self, seen: int, skipped: Sequence[tuple[str, str]]) -> None:
        for utterance_id, reason in skipped:
            self.num_skipped += 1
            if self.num_skipped <= _NAMED_SKIPS:
                log.warning("skipped %s: %s", utterance_id, reason.removeprefix(utterance_id).strip())
        self.num_seen += seen
        if self.num_seen >= _UTTERANCES_TO_JUDGE:
            self._judge()

    def _judge(self) -> None:
        seen, skipped = self.num_seen, self.num_skipped
        if skipped >= FEWEST_TO_JUDGE and skipped > self._max_skipped_share * seen:
            raise UserError(
                f"{skipped} of {seen} utterances are unusable, more than --max-skipped-share "
                f"{self._max_skipped_share}; the log names the first {min(skipped, _NAMED_SKIPS)}"
            )


class _PlanItems(Sampler):
    """(position in the rank's epoch, utterance numbers) of each batch from ``start`` on."""

    def __init__(self, plan: EpochPlan, batches: Sequence[int], start: int) -> None:
        self.plan, self.batches, self.start = plan, batches, min(start, len(batches))

    def __len__(self) -> int:
        return len(self.batches) - self.start

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        for position in range(self.start, len(self.batches)):
            yield position, self.plan.batch(self.batches[position])


@contextlib.contextmanager
def _stop_signals_held() -> Iterator[None]:
    """Signals that ask a run to stop wait meanwhile, here and in the processes started, up to `_start_worker`.

    In between, a loader process answers SIGTERM by leaving, which would end the run before it is saved.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(_: int) -> None:
    """Signals that stop a run are the trainer's to act on: it still needs batches, or time to save."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_WORKER_GRACE_S))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
