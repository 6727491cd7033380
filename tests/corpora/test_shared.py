"""What a person's splits put on both sides is counted."""

from couloir.data.corpora.validation import _between_splits


def cut(id, speaker, recording="", prescribed=True, text="x"):
    custom = {
        "corpus": "user",
        "orthography": id,
        "recording": recording,
        **({"prescribed_split": "x"} if prescribed else {}),
    }
    return {"id": id, "supervisions": [{"speaker": speaker, "text": text, "language": "sw", "custom": custom}]}


def test_speakers_and_recordings_in_training_and_in_a_test_are_counted():
    cuts = {
        "train": [cut("a", "ann", "s/r1"), cut("b", "bob", "s/r2"), cut("c", "cy", "s/r3"), cut("d", "", "")],
        "dev": [cut("e", "cy")],
        "test-heldout": [cut("f", "ann", "s/r1"), cut("g", "ann", "s/r1"), cut("h", "bob", "s/r9"), cut("i", "", "")],
    }
    found = _between_splits(cuts)
    assert found.problems == [] and found.warnings == [
        "test-heldout: 1 recordings are in train as well, as the data itself prescribes",
        "dev: 1 speakers are in train as well, as the data itself prescribes",
        "test-heldout: 2 speakers are in train as well, as the data itself prescribes",
    ]


def test_where_chance_splits_seen_speakers_are_meant_to_be_in_both():
    cuts = {"train": [cut("a", "ann", prescribed=False)], "test-heldout": [cut("b", "ann", prescribed=False)]}
    assert _between_splits(cuts).warnings == []
