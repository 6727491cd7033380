"""The resume law with a real Zipformer: its dropouts, skips, Balancers and Whitens draw the same after a resume."""

import json

import pytest
import torch
from fake_run import FakeData
from torch import nn

from couloir.features.config import FbankConfig
from couloir.features.fbank import Fbank
from couloir.losses.ctc import ctc_loss
from couloir.models.heads.config import HeadsConfig
from couloir.models.zipformer.config import ZipformerConfig
from couloir.models.zipformer.model import build_model
from couloir.optim.config import OptimConfig
from couloir.training.config import TrainerConfig
from couloir.training.random_state import seed_everything
from couloir.training.trainer import Trainer

SIZES = ZipformerConfig(
    num_encoder_layers=(1, 1),
    downsampling_factor=(1, 2),
    feedforward_dim=(32, 32),
    num_heads=(2, 2),
    encoder_dim=(16, 24),
    query_head_dim=(8,),
    value_head_dim=(4,),
    pos_head_dim=(4,),
    pos_dim=8,
    encoder_unmasked_dim=(12, 16),
    cnn_module_kernel=(7, 7),
    frontend_channels=(4, 8, 16),
)


class CtcObjective(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = build_model(SIZES, HeadsConfig(use_transducer=False, use_ctc=True, vocab_size=10))
        self.fbank = Fbank(FbankConfig())

    def forward(self, batch, batch_idx_train):
        encoded, lens = self.model.forward_encoder(*self.fbank(batch.audio, batch.audio_lens))
        loss = ctc_loss(self.model.ctc_log_probs(encoded), lens, batch.tokens)
        stats = {"loss": loss.detach(), "frames": 4 * lens.sum(), "utterances": torch.tensor(len(batch))}
        return loss, stats


def losses(exp_dir, *bounds):
    for max_steps in bounds:
        config = TrainerConfig(
            exp_dir=exp_dir,
            max_steps=max_steps,
            log_interval=1,
            tensorboard=False,
            final_decay=0,
            batch_count_scale=1000,
        )
        seed_everything(config.seed)
        Trainer(config, OptimConfig(warmup_batches=5), CtcObjective(), FakeData(num_utterances=64)).fit()
    return [json.loads(line)["loss"] for line in (exp_dir / "metrics.jsonl").read_text().splitlines() if "grad" in line]


@pytest.mark.parametrize("bounds", [(2, 5, 8), pytest.param((7, 13, 20), marks=pytest.mark.slow)])
def test_a_zipformer_resumes_to_the_last_bit(tmp_path, bounds):
    straight = losses(tmp_path / "straight", bounds[-1])
    assert len(straight) == bounds[-1]
    assert losses(tmp_path / "resumed", *bounds) == straight
