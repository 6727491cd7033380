"""Configuration of the data: where it is, how it is put into batches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from couloir.config import option
from couloir.errors import UserError, must_be

_BY_FOLDER = "the folders of --manifest-dir say what is trained on"
_ON_THE_FLY = "features are always computed from the audio, as it is read"


@dataclass(frozen=True)
class DataConfig:
    """Data. The flags are icefall's; ZIPA's are accepted too."""

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
        200.0, "Most audio in a batch, padding counted; a longer utterance is a batch of its own.", unit="s"
    )
    max_utterances: int = option(0, "Most utterances in a batch; 0 sets no bound.", unit="utterances")
    bucketing_sampler: bool = option(True, "Put utterances of similar length into a batch.")
    num_buckets: int = option(30, "Length classes that batches are drawn from.", unit="classes")
    shuffle: bool = option(True, "A new order in every epoch; False keeps the order of the shards.")
    shuffle_shards: int = option(
        8, "Shards that are mixed with each other; more mix better and read less in order.", unit="shards"
    )
    drop_last: bool = option(
        False, "Leave out the last batches that cannot be dealt to all ranks evenly; otherwise they are split."
    )
    num_workers: int = option(
        2, "Processes per rank that read and decode audio; 0 reads in the trainer's own.", unit="processes"
    )
    prefetch: int = option(4, "Batches that each worker prepares ahead.", unit="batches")
    min_utterance_duration: float = option(1.0, "Shorter utterances are left out of training.", unit="s")
    max_utterance_duration: float = option(20.0, "Longer utterances are left out of training.", unit="s")
    max_test_utterance_duration: float = option(
        120.0,
        "Longer utterances are left out of decoding: attention takes memory by the square of that. 0: no bound.",
        unit="s",
    )
    valid_share: float = option(
        0.01, "Share of the utterances kept for validation when the folder has no dev/ or valid/ of its own."
    )
    max_valid_utterances: int = option(2000, "Bound on that share.", unit="utterances")
    unknown_symbols: str = option(
        "keep", "What becomes of an utterance with symbols outside the vocabulary.", choices=("keep", "skip")
    )
    max_skipped_share: float = option(
        0.2, "Largest share of utterances that may be unusable; above it the run stops and says so."
    )
    index_dir: str = option("", "Folder for the indexes of the shards, if not beside the shards.")
    index_jobs: int = option(2, "Processes that index shards which are read for the first time.", unit="processes")

    full_libri: bool = option(True, "Accepted for icefall's commands.", hidden=True, ignored_because=_BY_FOLDER)
    mini_libri: bool = option(False, "Accepted for icefall's commands.", hidden=True, ignored_because=_BY_FOLDER)
    concatenate_cuts: bool = option(False, "Accepted for icefall's commands; must be False.", hidden=True)
    duration_factor: float = option(1.0, "Of --concatenate-cuts True alone.", hidden=True)
    gap: float = option(1.0, "Of --concatenate-cuts True alone.", hidden=True, unit="s")
    on_the_fly_feats: bool = option(True, "Accepted for icefall's commands.", hidden=True, ignored_because=_ON_THE_FLY)
    return_cuts: bool = option(True, "Accepted for icefall's commands; changes nothing.", hidden=True)
    input_strategy: str = option(
        "AudioSamples", "Accepted for icefall's commands.", hidden=True, ignored_because=_ON_THE_FLY
    )
    enable_musan: bool = option(False, "Noise from MUSAN is not mixed in; must be False.", hidden=True)
    subset: str = option("", "Accepted for ZIPA's commands.", hidden=True, ignored_because=_BY_FOLDER)
    train_manifest: str = option("", "Accepted for ZIPA's commands; must be empty.", hidden=True)

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
        for name in ("concatenate_cuts", "enable_musan"):
            if getattr(self, name):
                raise UserError(f"`--{name.replace('_', '-')} True` is not offered here; leave the flag out")
        if self.train_manifest:
            raise must_be("--train-manifest", "empty", self.train_manifest, "name its folder by --manifest-dir")

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
        raise must_be("--" + name.replace("_", "-"), f"at least {least}", value)
