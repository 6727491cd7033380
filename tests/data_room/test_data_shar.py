import filecmp
import gzip
import json

import numpy as np
import pytest
from lhotse import CutSet
from shar_tools import noise, utterances

from couloir.data.folder import folder_corpus
from couloir.data.reading import AudioReader
from couloir.data.shar import SharUtterance, iterate_shar, write_shar
from couloir.errors import UserError

PHONES = [("a", 0.0, 0.1), ("b", 0.1, 0.2)]


def test_lhotse_reads_what_is_written(tmp_path):
    audio = noise(8000)
    summary = write_shar([SharUtterance("x.1", audio, "a b", "ru", "s", PHONES, {"stress": 1})], tmp_path / "out")
    assert (summary.num_utterances, summary.num_shards, summary.duration_s, summary.skipped) == (1, 1, 0.5, [])
    (cut,) = CutSet.from_shar(in_dir=tmp_path / "out")
    supervision = cut.supervisions[0]
    assert (cut.id, supervision.text, supervision.language, supervision.speaker) == ("x.1", "a b", "ru", "s")
    assert [(i.symbol, i.start, i.duration) for i in supervision.alignment["phone"]] == PHONES
    assert supervision.custom == {"stress": 1}
    np.testing.assert_allclose(cut.load_audio()[0], audio, atol=2**-15)  # 16-bit steps


def test_what_lhotse_writes_is_read_sample_for_sample(tmp_path):
    write_shar(utterances(12), tmp_path / "ours", shard_size=5)
    cuts = CutSet.from_shar(in_dir=tmp_path / "ours").to_eager()
    for cut in cuts:
        for key in ("shard_origin", "shar_epoch"):
            cut.custom.pop(key)
    (tmp_path / "theirs").mkdir()
    cuts.to_shar(tmp_path / "theirs", fields={"recording": "flac"}, shard_size=7)
    found = list(iterate_shar(tmp_path / "theirs"))
    expected = list(CutSet.from_shar(in_dir=tmp_path / "theirs"))
    assert [u.id for u in found] == [c.id for c in expected]
    for utterance, cut in zip(found, expected):
        assert np.array_equal(utterance.audio, cut.load_audio()[0])


@pytest.mark.slow
def test_equal_utterances_are_equal_bytes_for_any_number_of_processes(tmp_path):
    for name, jobs in (("one", 1), ("again", 1), ("two", 2)):
        write_shar(utterances(11), tmp_path / name, shard_size=4, num_jobs=jobs)
    kinds = (("cuts", "jsonl.gz"), ("recording", "tar"))
    names = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert names == [f"{kind}.{i:06d}.{end}" for kind, end in kinds for i in range(3)]
    for other in ("again", "two"):
        assert filecmp.cmpfiles(tmp_path / "one", tmp_path / other, names, shallow=False) == (names, [], [])


def test_a_failure_while_writing_leaves_the_old_folder_and_no_rest(tmp_path):
    write_shar(utterances(3, "old"), tmp_path / "out")

    def breaks():
        yield from utterances(3, "new")
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        write_shar(breaks(), tmp_path / "out", shard_size=2)
    assert [u.id for u in iterate_shar(tmp_path / "out")] == ["old0", "old1", "old2"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_folder_is_replaced_and_its_old_index_not_believed(tmp_path):
    write_shar(utterances(5, "old"), tmp_path / "out", shard_size=2)
    assert len(list(iterate_shar(tmp_path / "out"))) == 5
    write_shar(utterances(3, "new"), tmp_path / "out", shard_size=2)
    assert [u.id for u in iterate_shar(tmp_path / "out")] == ["new0", "new1", "new2"]


def test_a_folder_with_other_things_is_not_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"thesis\.tex"):
        write_shar(utterances(1), tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_unusable_audio_is_left_out_and_named(tmp_path):
    bad = [
        SharUtterance("nan", np.array([0.0, np.nan], np.float32), "a"),
        SharUtterance("empty", np.zeros(0, np.float32), "a"),
        SharUtterance("missing", tmp_path / "nowhere.wav", "a"),
    ]
    summary = write_shar([bad[0], *utterances(1), *bad[1:]], tmp_path / "out", shard_size=3)
    assert summary.num_utterances == 1 and summary.num_shards == 1
    assert [name for name, _ in summary.skipped] == ["nan", "empty", "missing"]
    assert "nowhere.wav" in summary.skipped[2][1]
    assert [u.id for u in iterate_shar(tmp_path / "out")] == ["u0"]


def test_shard_size_must_be_positive(tmp_path):
    with pytest.raises(UserError, match="shard_size"):
        write_shar([], tmp_path / "out", shard_size=0)


def test_texts_without_audio_keep_the_alignment(tmp_path):
    write_shar([SharUtterance("x", noise(8000), "a b", alignment=PHONES)], tmp_path / "out")
    (found,) = iterate_shar(tmp_path / "out", with_audio=False)
    assert found.audio.size == 0 and found.alignment == PHONES and found.custom["duration"] == 0.5


def test_recordings_that_are_files_are_read_through_the_same_index(tmp_path):
    """icefall's manner: a manifest of cuts within long, two-channel files."""
    import soundfile

    stereo = np.stack([noise(44100, 1), noise(44100, 2)], axis=1)
    soundfile.write(tmp_path / "long.wav", stereo, 44100, subtype="FLOAT")
    from lhotse import MonoCut, Recording, SupervisionSegment

    recording = Recording.from_file(tmp_path / "long.wav", recording_id="long")
    cuts = []
    for i, channel in enumerate((0, 1)):
        supervision = SupervisionSegment(f"s{i}", "long", 0, 0.5, channel=channel, text="a")
        cuts.append(MonoCut(f"c{i}", 0.25, 0.5, channel, supervisions=[supervision], recording=recording))
    perturbed = cuts[0].perturb_speed(1.1)
    CutSet.from_cuts([*cuts, perturbed]).to_file(tmp_path / "my_cuts_train.jsonl.gz")
    corpus = folder_corpus([tmp_path])
    assert len(corpus) == 2 and "transforms" in corpus.problems[0]
    reader = AudioReader(corpus)
    found = [reader.read(i)[1] for i in range(2)]
    import soxr

    for channel, samples in enumerate(found):
        assert np.array_equal(samples, soxr.resample(stereo[11025:33075, channel], 44100, 16000))


def test_a_cut_within_a_longer_recording_of_a_shard_is_cut_out(tmp_path):
    write_shar([SharUtterance("x", noise(16000), "a")], tmp_path / "out")
    path = tmp_path / "out" / "cuts.000000.jsonl.gz"
    cut = json.loads(gzip.decompress(path.read_bytes()))
    whole = next(iterate_shar(tmp_path / "out")).audio
    path.write_bytes(gzip.compress(json.dumps({**cut, "start": 0.25, "duration": 0.5}).encode() + b"\n"))
    assert np.array_equal(next(iterate_shar(tmp_path / "out")).audio, whole[4000:12000])


@pytest.mark.parametrize(
    "bad",
    [
        SharUtterance("", noise(1600), "a"),
        SharUtterance("x\ny", noise(1600), "a"),
        SharUtterance("x" * 2000, noise(1600), "a"),
        SharUtterance("\ud800", noise(1600), "a"),
        SharUtterance("x", noise(1600), "a \udcff"),
        SharUtterance("u0", noise(1600), "a"),
        SharUtterance("x", noise(1600), "a", alignment=[("a", float("nan"), 0.1)]),
        SharUtterance("x", noise(1600), "a", custom={"a": "\udcff"}),
    ],
    ids=[
        "no_id",
        "line_break",
        "long_id",
        "surrogate_id",
        "surrogate_text",
        "id_twice",
        "nan_time",
        "surrogate_custom",
    ],
)
def test_what_could_not_be_read_again_is_not_written(tmp_path, bad):
    summary = write_shar([*utterances(2), bad, *utterances(1, "v")], tmp_path / "s")
    assert summary.num_utterances == 3 and [name for name, _ in summary.skipped] == [bad.id]
    corpus = folder_corpus([tmp_path / "s"])
    assert [corpus.utterance(i).id for i in range(len(corpus))] == ["u0", "u1", "v0"] and not corpus.problems
