"""A training step leaves nothing behind."""

import gc

import pytest
import torch

from couloir.losses.ctc import ctc_loss
from couloir.models.common.whiten import Whiten
from couloir.models.heads.config import HeadsConfig
from couloir.models.zipformer.config import ZipformerConfig
from couloir.models.zipformer.model import build_model, set_batch_count


def living_tensors(model):
    for module in model.modules():
        if isinstance(module, Whiten):
            # It keeps the verdict of a backward pass until it is asked for.
            assert 0 < module.prob < 1
    gc.collect()
    return sum(type(thing) is torch.Tensor for thing in gc.get_objects())


@pytest.mark.slow
def test_tensors_of_a_step_are_freed():
    sizes = {"num_encoder_layers": (1,), "feedforward_dim": (32,), "encoder_dim": (24,), "encoder_unmasked_dim": (24,)}
    zipformer = ZipformerConfig(
        downsampling_factor=(1, 2), **sizes, num_heads=(2,), cnn_module_kernel=(7,), frontend_channels=(4, 8, 8)
    )
    model = build_model(zipformer, HeadsConfig(use_transducer=False, use_ctc=True, vocab_size=9))
    model.train()
    set_batch_count(model, 100.0)

    def step():
        encoded, lens = model.forward_encoder(torch.randn(2, 48, 80), torch.tensor([48, 40]))
        ctc_loss(model.ctc_log_probs(encoded), lens, [[1, 2, 3], [4]]).backward()
        model.zero_grad()

    for _ in range(10):
        step()
    before = living_tensors(model)
    for _ in range(10):
        step()
    assert living_tensors(model) - before < 5
