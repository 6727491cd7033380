"""A bare state dict tells what it is."""

from dataclasses import replace

import pytest
import torch

from couloir.errors import UserError
from couloir.models.paraformer.architecture import IN_WEIGHTS, adapted, is_paraformer, paraformer_config
from couloir.models.paraformer.config import PRESETS, ParaformerConfig
from couloir.models.paraformer.model import build_model

ODD = ParaformerConfig(
    vocab_size=17,
    feature_dim=28,
    encoder_dim=24,
    encoder_num_heads=3,
    encoder_feedforward_dim=36,
    num_encoder_layers=1,
    encoder_kernel=7,
    decoder_feedforward_dim=40,
    num_decoder_layers=3,
    num_decoder_attention_layers=1,
    decoder_kernel=5,
    predictor="v1",
    use_ctc=True,
)
ODD_CONFORMER = replace(
    ODD, encoder="conformer", decoder="san", feature_dim=41, num_encoder_layers=2, num_decoder_attention_layers=3
)


def weights_of(config):
    with torch.device("meta"):
        return build_model(config).state_dict()


@pytest.mark.parametrize("name", PRESETS)
def test_published_sizes_are_found_whole(name):
    assert paraformer_config(weights_of(PRESETS[name]), "x.pt") == PRESETS[name]


@pytest.mark.parametrize(
    "config",
    [ODD, replace(ODD, num_decoder_attention_layers=3), replace(ODD, predictor="v3", time_factor=5), ODD_CONFORMER],
)
def test_all_that_weights_tell_is_read(config):
    found = paraformer_config(weights_of(config), "x.pt", replace(config, num_encoder_layers=9, vocab_size=99))
    assert found == config
    bare = paraformer_config(weights_of(config), "x.pt", replace(PRESETS["small"], encoder_num_heads=1))
    differing = {name for name in IN_WEIGHTS if getattr(bare, name) != getattr(config, name)}
    # Of a decoder without memories the kernel stays what was said; 41 and 44 bins become as many behind convolutions.
    assert differing == ({"feature_dim"} if config.encoder == "conformer" else set())
    assert weights_of(bare).keys() == weights_of(config).keys()
    assert [v.shape for v in weights_of(bare).values()] == [v.shape for v in weights_of(config).values()]


def test_heads_of_a_conformer_are_read_too():
    assert paraformer_config(weights_of(ODD_CONFORMER), "x.pt", PRESETS["aishell"]).encoder_num_heads == 3


def test_other_weights_are_refused_by_what_is_missing():
    assert not is_paraformer({"encoder.after_norm.weight", "ctc.ctc_lo.weight"})
    with pytest.raises(UserError, match=r"x\.pt is no Paraformer: `predictor\.cif_output\.weight` is not in it"):
        paraformer_config({k: v for k, v in weights_of(ODD).items() if "cif_output" not in k}, "x.pt")
    with pytest.raises(UserError, match=r"no Paraformer that can be built: .*pos_bias_u"):
        kept = {k: v for k, v in weights_of(ODD_CONFORMER).items() if "pos_bias" not in k}
        paraformer_config(kept, "x.pt")


def test_a_flag_that_contradicts_the_weights_is_refused():
    said = replace(PRESETS["small"], num_encoder_layers=7)
    weights = weights_of(PRESETS["tiny"])
    assert adapted(said, weights, (), "x.pt").num_encoder_layers == 6
    with pytest.raises(UserError, match="`--num-encoder-layers` must be 6 .*, but is 7"):
        adapted(said, weights, ("num_encoder_layers",), "x.pt")
