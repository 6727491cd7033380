"""Configuration of the data: where it is, how it is put into batches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from couloir.config import flag_name, option
from couloir.errors import UserError, must_be


@dataclass(frozen=True)
class DataConfig:
    """Data. The flags are icefall's where it has one."""

    manifest_dir: str = option(
        "data/shar", "Folder of Shar shards, or of train/, dev/ and test-*/ folders of them; several by commas."
    )
    use_mux: bool = option(
        False, "Mix the data of --mux-manifest-dir into training, so that fine-tuning does not forget what it held."
    )
    mux_manifest_dir: str = option(
        "", "Folders of that data, by commas: every epoch has all of it once; its dev and test sets are not used."
    )
    max_duration: float = option(
        200.0, "Most audio in a batch, padding counted; a longer utterance is a separate batch.", unit="s"
    )
    max_utterances: int = option(0, "Most utterances in a batch; 0 sets no bound.", unit="utterances", rare=True)
    bucketing_sampler: bool = option(True, "Put utterances of similar length into a batch.", rare=True)
    num_buckets: int = option(30, "Length classes that batches are drawn from.", unit="classes", rare=True)
    shuffle: bool = option(True, "A new order in every epoch; False keeps the order of the shards.", rare=True)
    shuffle_shards: int = option(
        8, "Shards that are mixed with each other; more mix better and read less in order.", unit="shards", rare=True
    )
    drop_last: bool = option(
        False,
        "Leave out the last batches that cannot be dealt to all ranks evenly; otherwise they are split.",
        rare=True,
    )
    num_workers: int = option(
        2, "Processes per rank that read and decode audio; 0 reads in the trainer's own.", unit="processes"
    )
    prefetch: int = option(4, "Batches that each worker prepares ahead.", unit="batches", rare=True)
    min_utterance_duration: float = option(1.0, "Shorter utterances are left out of training.", unit="s")
    max_utterance_duration: float = option(20.0, "Longer utterances are left out of training.", unit="s")
    max_test_utterance_duration: float = option(
        120.0,
        "Longer utterances are left out of decoding: attention takes memory by the square of that. 0: no bound.",
        unit="s",
        rare=True,
    )
    valid_share: float = option(
        0.01, "Share of the utterances kept for validation when the folder has no dev/ or valid/ of its own.", rare=True
    )
    max_valid_utterances: int = option(2000, "Bound on that share.", unit="utterances", rare=True)
    unknown_symbols: str = option(
        "keep", "What becomes of an utterance with symbols outside the vocabulary.", choices=("keep", "skip"), rare=True
    )
    max_skipped_share: float = option(
        0.2, "Largest share of utterances that may be unusable; above it the run stops and says so.", rare=True
    )
    enable_musan: bool = option(False, "Mix noise into training utterances: the recordings of --noise-dir.")
    noise_dir: str = option("", "Folder of noise, such as MUSAN's: any recordings, at any depth.", rare=True)
    noise_prob: float = option(0.5, "Probability that an utterance gets noise.", rare=True)
    noise_snr: tuple[float, ...] = option(
        (10.0, 20.0), "Lowest and highest ratio of speech to noise.", unit="dB", rare=True
    )
    enable_rir: bool = option(False, "Let training utterances sound as in rooms.", rare=True)
    rir_dir: str = option("", "Folder of impulse responses of rooms; empty: rooms are simulated.", rare=True)
    rir_prob: float = option(0.5, "Probability that an utterance is put into a room.", rare=True)
    index_dir: str = option("", "Folder for the indexes of the shards, if not beside the shards.", rare=True)
    index_jobs: int = option(
        2, "Processes that index shards which are read for the first time.", unit="processes", rare=True
    )

    def __post_init__(self) -> None:
        if not self.manifest_dir.strip():
            raise must_be("--manifest-dir", "a folder", "empty")
        if self.use_mux != bool(self.mux_folders):
            raise UserError("`--use-mux True` and `--mux-manifest-dir`, the folder to mix in, need each other")
        for name, least in (("max_duration", 0.1), ("num_buckets", 1), ("shuffle_shards", 1), ("prefetch", 1)):
            _at_least(name, getattr(self, name), least)
        for name in ("num_workers", "max_utterances", "index_jobs", "max_valid_utterances"):
            _at_least(name, getattr(self, name), 0)
        for name in ("min_utterance_duration", "max_test_utterance_duration"):
            _at_least(name, getattr(self, name), 0)
        if self.max_utterance_duration <= self.min_utterance_duration:
            raise must_be(
                "--max-utterance-duration",
                f"more than --min-utterance-duration ({self.min_utterance_duration} s)",
                f"{self.max_utterance_duration} s",
            )
        if not 0 <= self.valid_share < 1:
            raise must_be("--valid-share", "from 0 to less than 1", self.valid_share)
        if self.enable_musan and not self.noise_dir.strip():
            raise UserError("`--enable-musan True` needs `--noise-dir`, a folder of recordings such as MUSAN's")
        for name in ("noise_prob", "rir_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise must_be(flag_name(name), "between 0 and 1", getattr(self, name))
        if len(self.noise_snr) != 2 or self.noise_snr[0] > self.noise_snr[1]:
            raise must_be("--noise-snr", "two ratios in dB, the lower one first", self.noise_snr)

    @property
    def folders(self) -> list[Path]:
        """The folders that --manifest-dir lists."""
        return _listed(self.manifest_dir)

    @property
    def mux_folders(self) -> list[Path]:
        """The folders that --mux-manifest-dir lists."""
        return _listed(self.mux_manifest_dir)


def _listed(folders: str) -> list[Path]:
    return [Path(part.strip()) for part in folders.split(",") if part.strip()]


def _at_least(name: str, value: float, least: float) -> None:
    if value < least:
        raise must_be(flag_name(name), f"at least {least}", value)
