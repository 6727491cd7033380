"""Random models that sherpa-onnx can run, and what PyTorch finds with them in real speech."""

from pathlib import Path

import numpy as np
import torch

from couloir.audio import load_audio
from couloir.export.onnx import export_offline, export_streaming
from couloir.export.selfcheck import check_waves
from couloir.families.zipformer_export import export_parts
from couloir.features.config import FbankConfig
from couloir.features.fbank import Fbank
from couloir.inference.search import ctc_greedy, transducer_greedy
from couloir.models.heads.config import HeadsConfig
from couloir.models.zipformer.config import ZipformerConfig
from couloir.models.zipformer.model import build_model
from couloir.models.zipformer.streaming import initial_states

SPEECH = Path(__file__).resolve().parents[1] / "data" / "ru_0274.flac"
PIECES = ["<blk>", "<sos/eos>", "<unk>", *"abcdefghijklmnop"]
FBANK = FbankConfig()
SUFFIX = "epoch-1-avg-1"
CHUNK, LEFT = 16, 32


def make_model(kind, causal=False, seed=1):
    """Two stacks; kind: "ctc", "transducer" or "both"."""
    torch.manual_seed(seed)
    sizes = ZipformerConfig(
        num_encoder_layers=(1, 1),
        downsampling_factor=(1, 2),
        feedforward_dim=(48,),
        num_heads=(2,),
        encoder_dim=(32, 48),
        query_head_dim=(8,),
        value_head_dim=(6,),
        encoder_unmasked_dim=(32,),
        cnn_module_kernel=(15, 7),
        frontend_channels=(8, 32, 128),  # sherpa-onnx's streams know no other
        causal=causal,
        chunk_size=(CHUNK,),
        left_context_frames=(LEFT,),
    )
    heads = HeadsConfig(
        use_ctc=kind != "transducer",
        use_transducer=kind != "ctc",
        vocab_size=len(PIECES),
        decoder_dim=16,
        joiner_dim=24,
    )
    model = build_model(sizes, heads).eval().requires_grad_(False)
    feats = speech_features()
    encoded, _ = model.forward_encoder(feats, torch.tensor([feats.shape[1]]), padding="reference")
    if heads.use_ctc:
        _sharpen(model.ctc_output[1], encoded[0])
    if heads.use_transducer:
        predicted = model.joiner.decoder_proj(model.decoder(torch.tensor([[-1, 0]]), need_pad=False)[0])
        _sharpen(model.joiner.output_linear, torch.tanh(model.joiner.encoder_proj(encoded[0]) + predicted))
    return model


def _sharpen(head, inputs):
    """A head that is sure of itself, and of another symbol every now and then."""
    head.weight.mul_(100.0)
    head.bias.copy_(-(inputs @ head.weight.T).mean(0))
    head.bias[1:3] -= 1000.0


def write_tokens(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokens.txt").write_text("".join(f"{piece} {i}\n" for i, piece in enumerate(PIECES)))


def export(model, kind, config, folder, waves, suffix=SUFFIX, fbank=FBANK):
    """ONNX files of whole recordings."""
    return export_offline(export_parts(model, kind), fbank, config, folder, waves, suffix)


def export_chunks(model, kind, config, folder, waves, suffix=SUFFIX):
    """ONNX files of chunks."""
    return export_streaming(export_parts(model, kind, streaming=True), FBANK, config, folder, waves, suffix)


def short_waves():
    return [wave[:24000] if i == 0 else wave[: 8000 + 4000 * i] for i, wave in enumerate(check_waves(""))]


def speech_features(config=FBANK):
    wave = load_audio(SPEECH)
    return Fbank(config)(torch.from_numpy(wave)[None], torch.tensor([len(wave)]))[0]


def chunks(feats):
    """Windows (B, 45, 80) as sherpa-onnx feeds them: what fills none is left over."""
    return [feats[:, start : start + 45] for start in range(0, feats.shape[1] - 45 + 1, 32)]


@torch.no_grad()
def rows_of(model, kind, streaming=False):
    """Log-probabilities, or the encoder's part of the joiner's input, of `SPEECH`: (S, D)."""
    feats, head = speech_features(), model.ctc_log_probs if kind == "ctc" else model.joiner.encoder_proj
    if not streaming:
        encoded, _ = model.forward_encoder(feats, torch.tensor([feats.shape[1]]), padding="reference")
        return head(encoded)[0].numpy()
    states, rows = initial_states(model.zipformer_config, 1, LEFT), []
    for chunk in chunks(feats):
        encoded, states = model.streaming_forward(chunk, states)
        rows.append(head(encoded)[0])
    return torch.cat(rows).numpy()


@torch.no_grad()
def tokens_of(model, kind, rows):
    """Greedy search in PyTorch."""
    if kind == "ctc":
        return ctc_greedy(rows).tokens

    def predict(histories):
        decoded = model.decoder(torch.from_numpy(histories), need_pad=False)[:, 0]
        return model.joiner.decoder_proj(decoded).numpy()

    def join(encoded, predicted):
        return model.joiner(torch.from_numpy(encoded), torch.from_numpy(predicted), project_input=False).numpy()

    return transducer_greedy([np.asarray(rows)], predict, join, 2)[0].tokens
