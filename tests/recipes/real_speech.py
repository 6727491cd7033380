"""A prepared folder made from the real utterances of tests/data, and what a run there logged."""

import dataclasses
import json

from programs import ROOT

from couloir.audio import load_audio
from couloir.data.corpora.festvox import read_labels
from couloir.data.shar import SharUtterance, write_shar
from couloir.text.tokenizer import train_tokenizer

FIXTURES = ROOT / "tests" / "data"
TINY = (
    "--num-encoder-layers 1 --downsampling-factor 1,2 --feedforward-dim 32,48 --encoder-dim 24,32 "
    "--encoder-unmasked-dim 24,32 --num-heads 2 --query-head-dim 8 --value-head-dim 6 --cnn-module-kernel 7 "
    "--frontend-channels 4,8,8"
)


def utterances():
    """The three sentences, each whole and cut into pieces at silences between phones."""
    for path in sorted(FIXTURES.glob("ru_*.lab")):
        samples, phones = load_audio(path.with_suffix(".flac")), read_labels(path)
        whole = "".join(phone.symbol for phone in phones)
        yield SharUtterance(path.stem, samples, whole, "ru", "nsh")
        for number, first in enumerate(range(0, len(phones) - 9, 9)):
            piece = phones[first : first + 9]
            start, end = int(piece[0].start * 16000), int((piece[-1].start + piece[-1].duration) * 16000)
            text = "".join(phone.symbol for phone in piece)
            yield SharUtterance(f"{path.stem}-{number}", samples[start:end], text, "ru", "nsh")


def prepare(folder, copies=1):
    """data/shar/{train,dev,test-heldout} and data/lang below ``folder``; train has everything ``copies`` times."""
    everything = list(utterances())
    more = [dataclasses.replace(one, id=f"{one.id}-copy{number}") for number in range(1, copies) for one in everything]
    for split, part in (("train", everything + more), ("dev", everything[:2]), ("test-heldout", everything[2:6])):
        write_shar(part, folder / "data/shar" / split, shard_size=8)
    train_tokenizer([one.text for one in everything], folder / "data/lang")
    return folder


def losses(exp_dir):
    """Training loss by batch, from metrics.jsonl."""
    rows = [json.loads(line) for line in (exp_dir / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if row["kind"] == "train"}
