"""AV-ConvTasNet, to compare with: Asteroid's temporal convolutional network with faces, and its audio-only baseline.

The first repeats run on the mixture only; then every face gets a stream into which its visual features are fused once,
as in the published network, and all streams run through the same remaining repeats.
"""

from typing import Any

import torch
from asteroid.masknn.convolutional import TDConvNet
from torch import nn

from local_models.configs import AVConvTasNetConfig
from local_models.separator import AVSeparator, for_each_stream, own_and_others


class TDConvNetMasker(TDConvNet):
    """Asteroid's TDConvNet mask estimator, conditioned on faces.

    Args:
        in_chan, n_masks, visual_chan, see_others: As of `local_models.av_dprnn.DPRNNMasker`.
        n_audio_repeats (int): Repeats that run on the mixture before the visual features are fused.
        **kwargs: Those of `asteroid.masknn.convolutional.TDConvNet`.

    Shape:
        - features: (batch, in_chan, frames)
        - visual: (batch, n_faces, visual_chan, frames), or None
        - output: (batch, n_faces or n_masks, out_chan, frames)

    References
        [1] Luo, Mesgarani, "Conv-TasNet", IEEE/ACM TASLP 2019, Sec. II.
        [2] Wu et al., "Time domain audio visual speech separation", ASRU 2019, Sec. 2.
    """

    def __init__(
        self, in_chan: int, n_masks: int, visual_chan: int, n_audio_repeats: int, see_others: bool, **kwargs: Any
    ) -> None:
        super().__init__(in_chan, n_masks, **kwargs)
        self.n_audio_blocks, self.see_others = n_audio_repeats * self.n_blocks, see_others
        # The last block's residual is not used; training on several devices refuses parameters without a gradient.
        self.TCN[-1].res_conv.requires_grad_(False)
        self.fusion = None
        if visual_chan:
            self.fusion = nn.Conv1d(self.bn_chan + visual_chan * (2 if see_others else 1), self.bn_chan, 1)

    def forward(self, features: torch.Tensor, visual: torch.Tensor | None = None) -> torch.Tensor:
        batch, _, n_frames = features.shape
        stream = self.bottleneck(features)  # (streams, bn_chan, frames), one for each mixture at first
        skips = torch.zeros(1, device=stream.device)
        n_streams = 1
        for index, layer in enumerate(self.TCN):
            if visual is not None and index == self.n_audio_blocks:
                n_streams = visual.shape[1]
                visual = (own_and_others(visual) if self.see_others else visual).flatten(0, 1)
                stream = for_each_stream(stream, n_streams)
                skips = for_each_stream(skips, n_streams) if index else skips
                stream = stream + self.fusion(torch.cat([stream, visual], dim=1))  # (streams, bn_chan, frames)
            residual, skip = layer(stream)
            stream, skips = stream + residual, skips + skip
        masks = self.output_act(self.mask_net(skips))  # (streams, n_masks * out_chan, frames)
        return masks.reshape(batch, n_streams * self.n_src, self.out_chan, n_frames)


class AVConvTasNet(AVSeparator):
    """Learned filterbank, masks of a `TDConvNetMasker`. Arguments and shapes: see `AVSeparator`."""

    config_type = AVConvTasNetConfig
    fb_name = "free"

    def __init__(self, config: AVConvTasNetConfig | None = None, **arguments: object) -> None:
        super().__init__(config, **arguments)
        self.masker = TDConvNetMasker(**self.asteroid_masker_args())
