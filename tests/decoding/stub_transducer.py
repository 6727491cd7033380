"""A small transducer with icefall's interface and peaky outputs."""

import torch

from couloir.models.heads.transducer import Decoder, Joiner


class StubTransducer(torch.nn.Module):
    def __init__(self, vocab_size=12, dim=16, context_size=2, peak=6.0, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.decoder = Decoder(vocab_size, dim, context_size)
        self.joiner = Joiner(dim, dim, dim, vocab_size)
        with torch.no_grad():
            self.joiner.output_linear.weight *= peak
            self.joiner.output_linear.bias[0] += peak / 3
        self.eval()


def batch(sizes=(30, 11, 22, 30, 1), dim=16, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(sizes), max(sizes), dim, generator=generator), torch.tensor(sizes)
