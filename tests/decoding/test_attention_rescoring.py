import torch

from couloir.models.heads import attention_decoder
from couloir.models.heads.attention_decoder import AttentionDecoder
from couloir.models.heads.config import HeadsConfig


def test_scores_are_those_of_each_hypothesis_alone(monkeypatch):
    """Teacher-forced, with the sentence's end; neither padding nor the size of a batch shows."""
    torch.manual_seed(0)
    heads = HeadsConfig(
        use_attention_decoder=True, vocab_size=7, attention_decoder_dim=8, attention_decoder_num_layers=2,
        attention_decoder_attention_dim=8, attention_decoder_num_heads=2, attention_decoder_feedforward_dim=8,
    )  # fmt: skip
    decoder = AttentionDecoder(heads, 6, sos_eos_id=2).double().eval()
    encoded, lens = torch.randn(2, 5, 6, dtype=torch.float64), torch.tensor([5, 3])
    tokens, owner = [[3, 4], [], [5], [3, 3, 6, 4]], [0, 0, 1, 1]
    monkeypatch.setattr(attention_decoder, "RESCORED_VALUES", 3 * encoded[0].numel())
    found = decoder.sequence_scores(encoded, lens, tokens, owner)
    for ids, i, score in zip(tokens, owner, found):
        logits = decoder.decoder(torch.tensor([[2, *ids]]), encoded[i : i + 1, : lens[i]], lens[i : i + 1])
        log_probs = logits.float().log_softmax(-1)[0]
        expected = sum(log_probs[t, token].item() for t, token in enumerate([*ids, 2]))
        torch.testing.assert_close(score.item(), expected, atol=1e-5, rtol=1e-5)
    assert decoder.sequence_scores(encoded, lens, [], []).shape == (0,)
