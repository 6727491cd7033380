"""TorchScript files in a process that does not have couloir: the same tokens in real speech."""

import json
import subprocess
import sys

import numpy as np
import pytest
from small_models import FBANK, make_model, rows_of, speech_features, tokens_of

from couloir.export.torchscript import export_script, export_trace
from couloir.families.zipformer_export import export_parts, scripted_part

# Features in, tokens out, as icefall's jit_pretrained.py, jit_pretrained_ctc.py and jit_pretrained_streaming.py do it.
READER = """
import json, sys
sys.modules["couloir"] = None  # an import of it raises
import numpy, torch

torch.set_num_threads(1)
feats = torch.from_numpy(numpy.load("feats.npy"))
lens = torch.tensor([feats.shape[1]])


def collapsed(log_probs):
    ids = log_probs[0].argmax(-1).tolist()
    return [token for token, before in zip(ids, [0, *ids]) if token and token != before]


def searched(frames, predict, join):
    history = [-1, 0]
    for frame in frames[0]:
        token = int(join(frame[None], predict(torch.tensor([history]))).argmax())
        history += [token] if token else []
        yield from [token] if token else []


def windowed(encoder):
    states = encoder.get_init_states(1, torch.device("cpu"))
    step = 2 * encoder.chunk_size
    window = step + encoder.pad_length
    for start in range(0, feats.shape[1] - window + 1, step):
        out, out_lens, states = encoder(feats[:, start : start + window], torch.tensor([window]), states)
        assert out_lens.tolist() == [out.shape[1]]
        yield out


def scripted(name, streaming=False):
    model = torch.jit.load(name)
    if streaming:
        frames = torch.cat(list(windowed(model.encoder)), 1)
    else:
        frames, out_lens = model.encoder(feats, lens)
        assert out_lens.tolist() == [frames.shape[1]]
    predict = lambda history: model.decoder(history[:, -model.decoder.context_size :], need_pad=False)[:, 0]
    join = lambda encoded, predicted: model.joiner(encoded, predicted, project_input=True)
    return {"ctc": collapsed(model.ctc_output(frames)), "transducer": list(searched(frames, predict, join))}


def traced():
    ctc, *transducer = (torch.jit.load(name) for name in sys.argv[3:])
    encoder, decoder, joiner = transducer
    predict = lambda history: decoder(history[:, -2:])
    tokens = list(searched(encoder(feats, lens)[0], predict, joiner))
    return {"ctc": collapsed(ctc(feats, lens)[0]), "transducer": tokens}


with torch.no_grad():
    found = {"offline": scripted(sys.argv[1]), "streaming": scripted(sys.argv[2], True), "traced": traced()}
assert not any(name.split(".")[0] == "couloir" and module for name, module in sys.modules.items())
print(json.dumps(found))
"""


@pytest.mark.slow
def test_scripted_and_traced_files_find_what_pytorch_finds(tmp_path, waves):
    model, causal, ctc = make_model("both"), make_model("both", causal=True), make_model("ctc")
    names = [
        *export_script(scripted_part(model), FBANK, tmp_path, waves),
        *export_script(scripted_part(causal), FBANK, tmp_path, waves),
        *export_trace(export_parts(ctc), FBANK, tmp_path, waves),
        *export_trace(export_parts(model), FBANK, tmp_path, waves),
    ]
    scripts = ["jit_script.pt", "jit_script_chunk_16_left_32.pt"]
    assert names == scripts + ["jit_trace.pt"] + [f"{part}_jit_trace.pt" for part in ("encoder", "decoder", "joiner")]
    np.save(tmp_path / "feats.npy", speech_features().numpy())
    done = subprocess.run([sys.executable, "-c", READER, *names], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]

    def expected(model, kind, streaming=False):
        return tokens_of(model, kind, rows_of(model, kind, streaming))

    found = json.loads(done.stdout)
    for kind in ("ctc", "transducer"):
        assert found["offline"][kind] == expected(model, kind)
        assert found["streaming"][kind] == expected(causal, kind, streaming=True)
        assert found["traced"][kind] == expected(ctc if kind == "ctc" else model, kind)
        assert all(len(tokens[kind]) > 50 for tokens in found.values())
