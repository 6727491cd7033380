"""A causal model transcribes with one context, which is said and can be chosen: full unless asked otherwise."""

from __future__ import annotations

import copy
import json
import random

import numpy as np
import pytest
import torch
from tiny_models import tiny_model, write_run

from couloir.audio import load_audio
from couloir.checkpoint import save_checkpoint
from couloir.errors import UserError
from couloir.export.config import CtcOnnxConfig
from couloir.export.onnx import export_offline
from couloir.families.zipformer_export import export_parts
from couloir.features.config import FbankConfig
from couloir.features.fbank import Fbank
from couloir.inference.align import align
from couloir.inference.file_run import made_with
from couloir.inference.info import describe
from couloir.inference.known_text import words_of_ipa
from couloir.inference.recognizer import Recognizer

CONTEXTS = [(16, 64), (32, 128), (64, -1), (32, None)]


def sensitive(kind, seed=0):
    """A causal model whose attention matters, as a trained one's does."""
    model = tiny_model(kind, seed=seed, causal=True)
    for name, weight in model.named_parameters():
        if "attn" in name and name.endswith("weight"):
            weight.mul_(3.0)
    return model


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    """kind -> the run directory of a causal model with the default chunk sizes; and its weights."""
    made = {}
    for kind in ("ctc", "transducer"):
        model = sensitive(kind)
        made[kind] = write_run(tmp_path_factory.mktemp(kind) / "run", model), model
    return made


def numbers(recognizer, items):
    return [t.log_probs for t in recognizer.transcribe(items, log_probs=True)]


@pytest.mark.parametrize("kind", ["ctc", "transducer"])
@pytest.mark.parametrize("door", ["run", "file", "folder"])
def test_asked_again_it_says_the_same(causal, speech, tmp_path, kind, door):
    run, model = causal[kind]
    source = run
    if door != "run":  # a foreign checkpoint, which does not tell its chunk sizes
        (tmp_path / "tokens.txt").write_bytes((run / "lang" / "tokens.txt").read_bytes())
        torch.save({"model": model.state_dict()}, tmp_path / "epoch-1.pt")
        source = tmp_path / "epoch-1.pt" if door == "file" else tmp_path
    recognizer = Recognizer.from_pretrained(source, model_type=kind)
    random.seed(4)
    said = [tuple((t.text, t.confidence) for t in recognizer.transcribe(speech[:2])) for _ in range(6)]
    assert len(set(said)) == 1 and said[0][0][0]


@pytest.mark.parametrize("context", [(), *CONTEXTS])
def test_the_context_is_that_which_was_asked_for(causal, speech, context):
    """Against the encoder itself with that context, on the front end's own features."""
    run, model = causal["ctc"]
    names = dict(zip(("chunk_size", "left_context_frames"), context))
    recognizer = Recognizer.from_pretrained(run, window_s=60.0, **names)
    wave = load_audio(speech[0])
    model.encoder.config = model.zipformer_config.with_context(*context)
    feats, lens = Fbank(FbankConfig())(torch.from_numpy(wave)[None], torch.tensor([len(wave)]))
    expected = model.ctc_log_probs(model.forward_encoder(feats, lens)[0])[0].numpy()
    model.encoder.config = model.zipformer_config
    np.testing.assert_allclose(numbers(recognizer, [speech[0]])[0], expected, atol=1e-4)
    full = model.ctc_log_probs(model.forward_encoder(feats, lens)[0])[0].numpy()
    assert np.allclose(expected, full, atol=1e-4) == (not context)


def test_all_contexts_differ(causal, speech):
    run, _ = causal["ctc"]
    found = [numbers(Recognizer.from_pretrained(run), speech[:1])[0]]
    for chunk, left in CONTEXTS[:3]:
        recognizer = Recognizer.from_pretrained(run, chunk_size=chunk, left_context_frames=left)
        found.append(numbers(recognizer, speech[:1])[0])
    for i, one in enumerate(found):
        assert all(np.abs(one - other).max() > 1e-3 for other in found[:i])


def test_passes_and_alignments_say_the_same_again(causal, speech):
    run, _ = causal["ctc"]
    recognizer = Recognizer.from_pretrained(run, passes=3)
    first, second = numbers(recognizer, speech[:1]), numbers(recognizer, speech[:1])
    assert np.array_equal(first[0], second[0])
    words = words_of_ipa("kata soti")
    once, again = (align(Recognizer.from_pretrained(run), speech[0], words) for _ in range(2))
    assert once == again
    chunked = align(Recognizer.from_pretrained(run, chunk_size=16, left_context_frames=64), speech[0], words)
    assert chunked.score != once.score


def test_a_model_trained_with_one_chunk_size_keeps_to_it(tmp_path, speech):
    model = sensitive("ctc")
    model.zipformer_config = model.zipformer_config.with_context(16, 64)
    run = write_run(tmp_path / "run", model)
    recognizer = Recognizer.from_pretrained(run)
    assert recognizer.choices == {"chunk_size": 16, "left_context_frames": 64}
    full = Recognizer.from_pretrained(run, chunk_size=-1)
    assert full.choices == {}
    assert np.abs(numbers(recognizer, speech[:1])[0] - numbers(full, speech[:1])[0]).max() > 1e-3
    assert "chunks of 16" in describe(run)["context"]


def test_info_states_the_context(causal, models):
    run, _ = causal["ctc"]
    facts = describe(run)
    assert facts["context"].startswith("full") and "--chunk-size" in facts["context"]
    assert facts["trained with chunk-size"] == "16,32,64,-1"
    assert facts["trained with left-context-frames"] == "64,128,256,-1"
    assert "context" not in describe(models() / "run")


def test_what_was_transcribed_with_another_context_is_not_resumed(causal):
    run, _ = causal["ctc"]
    settings = [
        json.dumps(made_with(Recognizer.from_pretrained(run, **names), None))
        for names in ({}, {"chunk_size": 16}, {"chunk_size": 16, "left_context_frames": 64})
    ]
    assert len(set(settings)) == 3
    plain = made_with(Recognizer.from_pretrained(run, chunk_size=-1, left_context_frames=-1), None)
    assert json.dumps(plain) == settings[0]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({"chunk_size": 7}, ["--chunk-size", "multiples"]),
        ({"chunk_size": 0}, ["--chunk-size"]),
        ({"left_context_frames": 64}, ["--left-context-frames", "--chunk-size"]),
    ],
)
def test_a_context_that_it_cannot_have_is_refused(causal, names, words):
    with pytest.raises(UserError) as caught:
        Recognizer.from_pretrained(causal["ctc"][0], **names)
    assert all(word in str(caught.value) for word in words)


def test_models_without_chunks_refuse_them(models):
    with pytest.raises(UserError, match="--chunk-size.*not trained for streaming"):
        Recognizer.from_pretrained(models() / "run", chunk_size=16)
    with pytest.raises(UserError, match="--chunk-size.*exported"):
        Recognizer.from_pretrained(models() / "onnx", chunk_size=16)
    for place in ("run", "onnx"):
        assert Recognizer.from_pretrained(models() / place, chunk_size=-1).choices == {}


def test_the_command_line_passes_it_on(causal, speech, call, one_line, tmp_path):
    run, _ = causal["ctc"]
    outputs = []
    for flags in ((), (), ("--chunk-size", "16", "--left-context-frames", "64")):
        out = tmp_path / f"{len(outputs)}.jsonl"
        assert call("couloir", "transcribe", run, speech[0], "--output", out, *flags).returncode in (None, 0)
        outputs.append([token["confidence"] for token in json.loads(out.read_text("utf-8"))["tokens"]])
    assert outputs[0] == outputs[1] != outputs[2]
    one_line("couloir", ("transcribe", run, speech[0], "--left-context-frames", "64"), "--left-context-frames")
    again = ("transcribe", run, speech[0], "--output", tmp_path / "0.jsonl", "--chunk-size", "32")
    one_line("couloir", again, "--output")
    grid = tmp_path / "x.TextGrid"
    aligned = call("couloir", "align", run, speech[0], "kata", "--output", grid, "--chunk-size", "16")
    assert aligned.returncode in (None, 0) and grid.is_file()


@pytest.mark.slow
def test_a_file_for_whole_recordings_has_full_context(causal, speech, tmp_path):
    """Whatever chunk size the model itself was given."""
    run, model = causal["ctc"]
    waves = [torch.from_numpy(load_audio(path)) for path in speech]
    chunked = copy.deepcopy(model)
    chunked.zipformer_config = chunked.encoder.config = model.zipformer_config.with_context(16, 64)
    config = CtcOnnxConfig(enable_int8_quantization=False)
    export_offline(export_parts(chunked, "ctc"), FbankConfig(), config, tmp_path, waves)
    (tmp_path / "tokens.txt").write_bytes((run / "lang" / "tokens.txt").read_bytes())
    exported = numbers(Recognizer.from_pretrained(tmp_path, runtime="onnx"), speech)
    for ours, theirs in zip(numbers(Recognizer.from_pretrained(run), speech), exported):
        np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_a_checkpoint_of_a_causal_model_alone(causal, speech, tmp_path):
    """Of a foreign folder: the tokens are named, the context is asked for."""
    run, model = causal["transducer"]
    save_checkpoint(tmp_path / "pretrained.pt", {"model": model.state_dict()})
    options = {"tokens": run / "lang" / "tokens.txt", "chunk_size": 32, "left_context_frames": 64}
    found = [Recognizer.from_pretrained(tmp_path / "pretrained.pt", **options).transcribe(speech) for _ in range(2)]
    assert [t.text for t in found[0]] == [t.text for t in found[1]]
