"""Time and memory of one training step (forward, CTC, backward, ScaledAdam) against the `zipformer` 0.1.3 package.

    python benchmarks/train_step.py --preset medium --peer PEER_DIR

PEER_DIR is made by

    pip install --no-deps --target PEER_DIR zipformer==0.1.3 atdataset webdataset braceexpand simple-sentencepiece

(the package declares torch<2.8, hence --no-deps). torchaudio and k2, which it imports and a CTC step does not use,
are given to it as empty modules. Both models get the same weights, the same batch and, in turns, the machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from result_file import save_result
from torch import Tensor, nn

from couloir.models.heads.config import HeadsConfig
from couloir.models.zipformer.config import HEAD_WIDTHS, PRESETS
from couloir.models.zipformer.model import AsrModel, build_model, set_batch_count
from couloir.optim.scaled_adam import ScaledAdam

VOCABULARY = 127


class PeerModel(nn.Module):
    """The package's front end and encoder with the same CTC head."""

    def __init__(self, ours: AsrModel) -> None:
        super().__init__()
        from zipformer.modules.subsampling import Conv2dSubsampling  # type: ignore[import-not-found]
        from zipformer.modules.zipformer import Zipformer  # type: ignore[import-not-found]

        c = ours.zipformer_config
        first, second, third = c.frontend_channels
        self.encoder_embed = Conv2dSubsampling(
            in_channels=c.feature_dim,
            out_channels=c.encoder_dim[0],
            layer1_channels=first,
            layer2_channels=second,
            layer3_channels=third,
            dropout=scheduled((0.0, 0.3), (20000.0, 0.1)),
        )
        names = "downsampling_factor encoder_dim num_encoder_layers encoder_unmasked_dim query_head_dim pos_head_dim"
        names += " value_head_dim num_heads feedforward_dim cnn_module_kernel pos_dim output_downsampling_factor"
        self.encoder = Zipformer(
            **{name: getattr(c, name) for name in names.split()}, dropout=scheduled((0.0, 0.3), (20000.0, 0.1))
        )
        self.ctc_output = nn.Sequential(nn.Dropout(0.1), nn.Linear(c.output_dim, VOCABULARY), nn.LogSoftmax(dim=-1))
        self.load_state_dict(ours.state_dict(), strict=True)

    def forward(self, feats: Tensor, feat_lens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F) -> log-probabilities (B, S, V) and lengths."""
        x, lens = self.encoder_embed(feats, feat_lens)
        padding = torch.arange(x.shape[1], device=x.device) >= lens[:, None]
        x, lens = self.encoder(x.permute(1, 0, 2), lens, padding)
        return self.ctc_output(x.permute(1, 0, 2)), lens


def scheduled(*points: tuple[float, float]) -> nn.Module:
    """The package's own scheduled float."""
    from zipformer.modules.scaling import ScheduledFloat  # type: ignore[import-not-found]

    return ScheduledFloat(*points, default=0.0)


def import_peer(folder: Path) -> None:
    """Put the package on the import path, with empty stand-ins for what it imports in vain."""
    for name in ("torchaudio", "k2"):
        try:
            __import__(name)
        except Exception:
            sys.modules[name] = types.ModuleType(name)
    sys.path.insert(0, str(folder))


def make_batch(args: argparse.Namespace) -> dict[str, Tensor]:
    """Random features of utterances between 60 % and 100 % of ``--seconds``, and 12 tokens per second."""
    generator = torch.Generator().manual_seed(1)
    frames = int(args.seconds * 100)
    lens = torch.linspace(0.6 * frames, frames, args.utterances).long().flip(0)
    target_lens = (lens * 0.12 / 2).long()
    return {
        "feats": torch.randn(args.utterances, frames, 80, generator=generator).to(args.device),
        "feat_lens": lens.to(args.device),
        "targets": torch.randint(1, VOCABULARY, (int(target_lens.sum()),), generator=generator).to(args.device),
        "target_lens": target_lens.to(args.device),
    }


def ours_forward(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Our log-probabilities and lengths."""
    assert isinstance(model, AsrModel)
    encoded, lens = model.forward_encoder(batch["feats"], batch["feat_lens"])
    return model.ctc_log_probs(encoded), lens


def peer_forward(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The peer's log-probabilities and lengths."""
    return model(batch["feats"], batch["feat_lens"])


def push_batch_count(model: nn.Module, count: float) -> None:
    """Set the training progress in either implementation."""
    if isinstance(model, AsrModel):
        return set_batch_count(model, count)
    for name, module in model.named_modules():
        if hasattr(module, "batch_count"):
            module.batch_count, module.name = count, name
    return None


def step_function(
    model: nn.Module, forward: Callable, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor], amp: str
) -> Callable[[], float]:
    """One training step as a closure; returns the loss."""
    device = batch["feats"].device.type
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, "none": torch.float32}[amp]
    scaler = torch.amp.GradScaler(device, enabled=amp == "fp16", init_scale=1.0)

    def step() -> float:
        with torch.amp.autocast(device, dtype=dtype, enabled=amp != "none"):
            log_probs, lens = forward(model, batch)
        loss = F.ctc_loss(
            log_probs.float().transpose(0, 1), batch["targets"], lens, batch["target_lens"], reduction="sum"
        )
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def timed(step: Callable[[], float], device: str, clock: str) -> float:
    """Seconds of one call."""
    now = time.process_time if clock == "cpu" else time.perf_counter
    if device == "cuda":
        torch.cuda.synchronize()
    start = now()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return now() - start


def peak_memory(step: Callable[[], float]) -> float:
    """Peak CUDA memory of one step, GiB."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    return (torch.cuda.max_memory_allocated() - before) / 2**30


GROUPS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm_", "addmm_", "linear", "addmv_"),
    "convolutions": ("convolution_backward", "mkldnn_convolution", "cudnn_convolution"),
    "exp, log, sigmoid, tanh": (
        "exp_",
        "log_",
        "reciprocal",
        "sigmoid",
        "tanh",
        "tanh_backward",
        "glu",
        "glu_backward",
    ),
    "softmax": ("_softmax", "_softmax_backward_data", "_log_softmax", "_log_softmax_backward_data"),
    "copies and fills": ("copy_", "fill_", "cat", "clone", "zero_", "masked_fill_"),
    "reductions": ("sum", "mean", "amax", "linalg_vector_norm", "_foreach_norm"),
    "CTC": ("_ctc_loss", "_ctc_loss_backward"),
}


def profile(step: Callable[[], float], device: str) -> str:
    """Where the time of one step goes: shares of groups of operators, then the dearest ones."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as recorded:
        step()
    key = f"self_{device}_time_total"
    events = recorded.key_averages()
    # Kernels are listed beside the operators that launch them, whose time they are.
    operators = [event for event in events if event.device_type == torch.autograd.DeviceType.CPU]
    times = {event.key.removeprefix("aten::"): getattr(event, key.replace("cuda", "device")) for event in operators}
    total = sum(times.values())
    lines = []
    for group, names in GROUPS.items():
        lines.append(f"{group:28s} {100 * sum(times.get(name, 0) for name in names) / total:5.1f} %")
    named = {name for names in GROUPS.values() for name in names}
    other = 100 * sum(value for name, value in times.items() if name not in named) / total
    lines.append(f"{'element-wise, Python, other':28s} {other:5.1f} %")
    return "\n".join(lines) + "\n" + events.table(sort_by=key, row_limit=15, max_name_column_width=45)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(PRESETS), default="tiny")
    parser.add_argument("--peer", type=Path, default=os.environ.get("COULOIR_PEER_ZIPFORMER"))
    parser.add_argument("--seconds", type=float, default=6.0, help="length of the longest utterance")
    parser.add_argument("--utterances", type=int, default=8)
    parser.add_argument("--steps", type=int, default=15, help="timed steps of each, after three more")
    parser.add_argument("--batch-counts", default="1000,20000", help="training progress: schedules depend on it")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--amp", choices=["none", "fp16", "bf16"], default="none")
    parser.add_argument(
        "--clock", choices=["wall", "cpu"], default="wall", help="cpu: CPU seconds, for a machine that is not idle"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--profile", action="store_true", help="also print where our step's time goes")
    parser.add_argument("--save", type=Path, help="write the result to this JSON file")
    return parser.parse_args()


def compare(args: argparse.Namespace) -> list[dict]:
    """Time both in turns, at every training progress."""
    torch.manual_seed(0)
    random.seed(0)
    heads = HeadsConfig(use_transducer=False, use_ctc=True, vocab_size=VOCABULARY, **HEAD_WIDTHS.get(args.preset, {}))
    # The package has no output at 50 frames per second.
    ours = build_model(dataclasses.replace(PRESETS[args.preset], output_downsampling_factor=2), heads)
    models: dict[str, nn.Module] = {"ours": ours}
    if args.peer:
        import_peer(Path(args.peer))
        models["peer"] = PeerModel(ours)
    batch, steps = make_batch(args), {}
    for name, model in models.items():
        model.to(args.device).train()
        optimizer = make_optimizer(name, model)
        forward = ours_forward if name == "ours" else peer_forward
        steps[name] = step_function(model, forward, optimizer, batch, args.amp)
    rows = []
    for count in map(float, args.batch_counts.split(",")):
        for model in models.values():
            push_batch_count(model, count)
        times: dict[str, list[float]] = {name: [] for name in steps}
        for round_ in range(3 + args.steps):
            for name, step in steps.items():
                seconds = timed(step, args.device, args.clock)
                if round_ >= 3:
                    times[name].append(seconds)
        row = {"preset": args.preset, "batch_count": count}
        for name, values in times.items():
            row[f"{name}_ms"] = round(1000 * statistics.median(values), 1)
            if args.device == "cuda":
                row[f"{name}_peak_gib"] = round(peak_memory(steps[name]), 3)
        if "peer" in times:
            row["ratio"] = round(statistics.median(times["ours"]) / statistics.median(times["peer"]), 3)
        rows.append(row)
        print(json.dumps(row), flush=True)
    if args.profile:
        print(profile(steps["ours"], args.device))
    return rows


def make_optimizer(name: str, model: nn.Module) -> torch.optim.Optimizer:
    """Each side's own ScaledAdam, with a learning rate that leaves the weights about where they are."""
    if name == "ours":
        return ScaledAdam(list(model.named_parameters()), lr=1.0e-4, clipping_scale=2.0)
    from zipformer.modules.optim import ScaledAdam as PeerScaledAdam  # type: ignore[import-not-found]
    from zipformer.utils.utils import get_parameter_groups_with_lrs  # type: ignore[import-not-found]

    groups = get_parameter_groups_with_lrs(model, lr=1.0e-4, include_names=True)
    return PeerScaledAdam(groups, lr=1.0e-4, clipping_scale=2.0)


def main() -> None:
    """Run, print and save."""
    args = parse()
    torch.set_num_threads(args.threads)
    rows = compare(args)
    if args.save:
        settings = {key: str(value) for key, value in vars(args).items() if key not in ("peer", "save", "profile")}
        save_result(args.save, {"settings": settings, "rows": rows}, args.device)


if __name__ == "__main__":
    main()
