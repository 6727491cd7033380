"""Random tiny models as the files that inference meets: run directories, checkpoints, ONNX."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from couloir.checkpoint import save_checkpoint
from couloir.config import as_plain, write_yaml
from couloir.features.config import FbankConfig
from couloir.features.fbank import ExportableFbank
from couloir.models.heads.config import HeadsConfig
from couloir.models.zipformer.config import ZipformerConfig
from couloir.models.zipformer.model import AsrModel, build_model

PIECES = ["<blk>", "<sos/eos>", "<unk>", *"aeioptksmnrl", "ʰ", "ː", "t͡s", "ʂ"]


def tiny_config(rate_factor: int = 1, causal: bool = False) -> ZipformerConfig:
    """A model of three stacks."""
    return ZipformerConfig(
        num_encoder_layers=(1, 1, 1),
        downsampling_factor=(1, 2, 4),
        feedforward_dim=(48,),
        num_heads=(2,),
        encoder_dim=(32, 48, 40),
        query_head_dim=(8,),
        value_head_dim=(6,),
        encoder_unmasked_dim=(32,),
        cnn_module_kernel=(15, 7, 15),
        frontend_channels=(4, 8, 16),
        output_downsampling_factor=rate_factor,
        causal=causal,
    )


def tiny_model(kind: str = "ctc", rate_factor: int = 1, seed: int = 0, causal: bool = False) -> AsrModel:
    """Random weights with a head that emits symbols rather than blanks, so that tests see some."""
    torch.manual_seed(seed)
    heads = HeadsConfig(
        use_ctc=kind == "ctc",
        use_transducer=kind == "transducer",
        vocab_size=len(PIECES),
        decoder_dim=16,
        joiner_dim=24,
    )
    model = build_model(tiny_config(rate_factor, causal), heads).eval()
    with torch.no_grad():
        head = model.ctc_output[1] if kind == "ctc" else model.joiner.output_linear
        head.weight.mul_(30.0)
        head.bias[0] += 2.0
        head.bias[1:3] -= 1000.0
        for parameter in model.parameters():
            parameter.requires_grad_(False)
    return model


def write_tokens(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tokens.txt"
    path.write_text("".join(f"{piece} {i}\n" for i, piece in enumerate(PIECES)), encoding="utf-8")
    return path


def write_run(folder: Path, model: AsrModel) -> Path:
    """A run directory as the trainer leaves it."""
    write_tokens(folder / "lang")
    sections = {
        "recipe": "zipformer_crctc",
        "zipformer": as_plain(model.zipformer_config),
        "heads": as_plain(model.heads_config),
        "fbank": as_plain(FbankConfig()),
        "text": {"bpe_model": "moved/away.model"},
    }
    write_yaml(folder / "config.yaml", sections)
    save_checkpoint(folder / "epoch-1.pt", {"model": model.state_dict(), "batch_idx_train": 10})
    return folder


class _Ctc(nn.Module):
    def __init__(self, model: AsrModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor]:
        encoded, lens = self.model.forward_encoder(x, x_lens, padding="reference")
        return self.model.ctc_log_probs(encoded), lens


class _CtcOfAudio(nn.Module):
    def __init__(self, model: AsrModel) -> None:
        super().__init__()
        self.ctc, self.fbank = _Ctc(model), ExportableFbank()

    def forward(self, audio: Tensor, audio_lens: Tensor) -> tuple[Tensor, Tensor]:
        return self.ctc(*self.fbank(audio, audio_lens))


class _Encoder(nn.Module):
    def __init__(self, model: AsrModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor]:
        encoded, lens = self.model.forward_encoder(x, x_lens, padding="reference")
        return self.model.joiner.encoder_proj(encoded), lens


class _Decoder(nn.Module):
    def __init__(self, model: AsrModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, y: Tensor) -> Tensor:
        return self.model.joiner.decoder_proj(self.model.decoder(y, need_pad=False)).squeeze(1)


class _Joiner(nn.Module):
    def __init__(self, model: AsrModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, encoder_out: Tensor, decoder_out: Tensor) -> Tensor:
        return self.model.joiner(encoder_out, decoder_out, project_input=False)


def write_onnx(folder: Path, model: AsrModel) -> Path:
    """icefall's file names, inputs and outputs."""
    write_tokens(folder)
    feats, lens = torch.randn(1, 100, 80), torch.tensor([100])
    if model.heads_config.use_ctc:
        _export(_Ctc(model), (feats, lens), folder / "model.onnx", ["x", "x_lens"], ["log_probs", "log_probs_len"])
        return folder
    width = model.heads_config.joiner_dim
    names = {part: folder / f"{part}-epoch-999-avg-1.onnx" for part in ("encoder", "decoder", "joiner")}
    _export(_Encoder(model), (feats, lens), names["encoder"], ["x", "x_lens"], ["encoder_out", "encoder_out_lens"])
    _export(_Decoder(model), (torch.zeros(1, 2, dtype=torch.int64),), names["decoder"], ["y"], ["decoder_out"])
    rows = torch.randn(1, width), torch.randn(1, width)
    _export(_Joiner(model), rows, names["joiner"], ["encoder_out", "decoder_out"], ["logit"])
    return folder


def write_onnx_of_audio(folder: Path, model: AsrModel) -> Path:
    """A CTC model that takes samples."""
    write_tokens(folder)
    names = ["audio", "audio_lens"], ["log_probs", "log_probs_len"]
    _export(_CtcOfAudio(model), (torch.randn(1, 20000), torch.tensor([20000])), folder / "audio-model.onnx", *names)
    return folder


def _export(module: nn.Module, example: tuple, path: Path, inputs: list[str], outputs: list[str]) -> None:
    timed = {"x", "audio", "log_probs", "encoder_out"} & {*inputs, *outputs} if len(inputs) == len(outputs) == 2 else ()
    axes = {name: {0: "N", 1: "T"} if name in timed else {0: "N"} for name in (*inputs, *outputs)}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, example, str(path), input_names=inputs, output_names=outputs, dynamic_axes=axes,
            opset_version=13, dynamo=False,
        )  # fmt: skip
