"""The low-frame-rate front end in torch: a filterbank, frames stacked and thinned out, normalised bins.

Shapes: B batch, N samples, W windows of an utterance, T frames, F bins of a frame.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from couloir.features.fbank import ExportableFbank, Fbank
from couloir.features.lfr_config import LfrConfig
from couloir.features.windows import pad_behind


class Lfr(nn.Module):
    """The front end "lfr", FunASR's.

    An utterance's first window is repeated before its beginning and its last one behind its end, so that its frames do
    not depend on the batch. There are no parameters, and the state dict is empty.

    Args:
        config: of it, with the statistics. exportable: of operations that can be exported.
    """

    neg_mean: Tensor
    inv_stddev: Tensor

    def __init__(self, config: LfrConfig | None = None, exportable: bool = False) -> None:
        super().__init__()
        self.config = config or LfrConfig()
        self.padding_value, self.feature_dim = self.config.padding_value, self.config.feature_dim
        self.fbank = ExportableFbank(self.config) if exportable else Fbank(self.config)
        for name, values in zip(("neg_mean", "inv_stddev"), self.config.statistics()):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)
        self.eval()  # noise is for those who train

    def num_frames(self, num_samples: int) -> int:
        """Frames of ``num_samples`` samples."""
        return self.config.num_frames(num_samples)

    def exportable(self) -> nn.Module:
        """The same features from matrix products, slices and look-ups."""
        return Lfr(self.config, exportable=True)

    def metadata(self) -> dict[str, str]:
        """What a file of a model says of these features."""
        return self.config.as_metadata()

    @torch.no_grad()
    def forward(self, waves: Tensor, wave_lens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N) float32 samples in [-1, 1], (B,) -> (B, T, F), 0 behind each end, and (B,) frames."""
        windows, window_lens = self.fbank(waves, wave_lens)
        with torch.autocast(waves.device.type, enabled=False):
            count = self.config.stacked(windows.shape[1])
            feats = (self._stacked(windows, window_lens, count) + self.neg_mean) * self.inv_stddev
            feat_lens = self.config.stacked(window_lens)
            return pad_behind(feats, feat_lens, self.padding_value), feat_lens

    def _stacked(self, windows: Tensor, window_lens: Tensor, count: int) -> Tensor:
        """(B, W, bins), (B,) -> (B, T, F): each frame's windows one behind the other."""
        batch, _, bins = windows.shape
        first = self.config.lfr_n * torch.arange(count, device=windows.device) - self.config.left_windows
        places = (first[:, None] + torch.arange(self.config.lfr_m, device=windows.device)).flatten()
        places = torch.minimum(places[None], window_lens[:, None] - 1).clamp(min=0)
        return windows.gather(1, places[:, :, None].expand(-1, -1, bins)).reshape(batch, count, self.feature_dim)
