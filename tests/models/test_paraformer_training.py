"""A Paraformer learns a toy language in sixty steps, with and without the sampler, and then recognises it."""

from dataclasses import replace

import pytest
import torch

from couloir.losses.paraformer import paraformer_losses
from couloir.losses.paraformer_config import ParaformerLossConfig
from couloir.models.paraformer.config import ParaformerConfig
from couloir.models.paraformer.model import build_model

SANM = ParaformerConfig(
    vocab_size=9,
    feature_dim=28,
    encoder_dim=32,
    encoder_feedforward_dim=64,
    num_encoder_layers=2,
    encoder_kernel=5,
    decoder_feedforward_dim=64,
    num_decoder_layers=2,
    num_decoder_attention_layers=2,
    decoder_kernel=5,
    dropout=0.0,
    attention_dropout=0.0,
    positional_dropout=0.0,
)
CONFORMER = replace(SANM, encoder="conformer", decoder="san", predictor="v1", predictor_bias=0, use_ctc=True)


def batch(size, frames_each, sounds):
    """Sentences of two to six tokens, each some frames of its own sound, and silence behind."""
    tokens = [torch.randint(3, 9, (int(torch.randint(2, 7, ())),)).tolist() for _ in range(size)]
    spoken = [
        torch.cat([*(sounds[i].repeat(frames_each, 1) for i in ids), sounds[0].repeat(frames_each // 2, 1)])
        for ids in tokens
    ]
    feats = torch.nn.utils.rnn.pad_sequence(spoken, batch_first=True)
    return feats + 0.1 * torch.randn_like(feats), torch.tensor([len(x) for x in spoken]), tokens


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.0, 0.75])
@pytest.mark.parametrize(("config", "frames_each"), [(SANM, 4), (CONFORMER, 12)], ids=["sanm", "conformer"])
def test_it_learns(config, frames_each, ratio):
    torch.manual_seed(0)
    sounds, model = torch.randn(9, 28), build_model(config)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    loss_config = ParaformerLossConfig(sampling_ratio=ratio, ctc_weight=0.3 if config.use_ctc else 0.0)
    for _ in range(60):
        feats, lens, tokens = batch(16, frames_each, sounds)
        losses = paraformer_losses(model.teach(feats, lens, tokens, ratio), tokens, loss_config)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    feats, lens, tokens = batch(32, frames_each, sounds)
    with torch.no_grad():
        found = model.eval()(feats, lens)
    best = found.log_probs.argmax(dim=-1)
    texts = [[i for i in row[:n].tolist() if i > 2] for row, n in zip(best, found.token_num)]
    assert sum(text == wanted for text, wanted in zip(texts, tokens)) >= 30
    # Each token's span overlaps the frames where it was spoken.
    times = model.token_times(found) * (1 if config.encoder == "sanm" else 4)
    for item, wanted in enumerate(tokens):
        if texts[item] == wanted:
            for k in range(len(wanted)):
                assert times[item, k, 0] < (k + 1) * frames_each
                assert times[item, k, 1] > k * frames_each
