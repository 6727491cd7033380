"""Small Shar folders for tests, sound and damaged."""

import functools
import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import soundfile

from couloir.data.config import DataConfig
from couloir.data.module import DataModule
from couloir.data.shar import SharUtterance, make_cut
from couloir.families.zipformer import FAMILY
from couloir.families.zipformer_spec import ZipformerRunConfig


def noise(num_samples, seed=0):
    return (np.random.default_rng(seed).standard_normal(num_samples) * 0.1).clip(-1, 1).astype(np.float32)


def utterances(count, prefix="u", shortest=0.1, longest=0.6, text="a b"):
    lengths = np.random.default_rng(count).uniform(shortest, longest, count)
    for i, seconds in enumerate(lengths):
        yield SharUtterance(f"{prefix}{i}", noise(int(seconds * 16000), i), text, "ru", f"spk{i % 3}")


def encoded(samples, rate=16000, kind="FLAC", subtype=None):
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=kind, subtype=subtype)
    return stream.getvalue()


def raw_shard(folder: Path, entries, number=0):
    """A shard from (id, text, seconds said by the manifest, suffix, bytes of the audio)."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        gzip.open(folder / f"cuts.{number:06d}.jsonl.gz", "wt", encoding="utf-8") as cuts,
        tarfile.open(folder / f"recording.{number:06d}.tar", "w") as tar,
    ):
        for name, text, seconds, suffix, content in entries:
            cut = make_cut(SharUtterance(name, np.zeros(0), text), int(seconds * 16000))
            cuts.write(json.dumps(cut.to_dict()) + "\n")
            for member, data in ((f"{name}.{suffix}", content), (f"{name}.json", b"{}")):
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


reason_to_skip = functools.partial(FAMILY.reason_to_skip, ZipformerRunConfig())


def module(folder, tokenizer=None, seed=7, **options):
    defaults = {"num_workers": 0, "max_duration": 3.0, "num_buckets": 4, "min_utterance_duration": 0.0, "index_jobs": 1}
    config = DataConfig(manifest_dir=str(folder), **{**defaults, **options})
    return DataModule(config, tokenizer, seed, reason_to_skip=reason_to_skip)


def tar_of(path: Path, entries):
    """A tar from (member's name, bytes)."""
    with tarfile.open(path, "w") as tar:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
