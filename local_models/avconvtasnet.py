"""AV-ConvTasNet, to compare with: Asteroid's temporal convolutional network with faces, and its audio-only twin.

Reads nothing and writes nothing. The first repeats hear the mixture alone; then every face gets a stream into which its
cues are fused once, as in the published network, and all streams run through the same remaining repeats.
"""

from typing import Any

import torch
from asteroid.masknn.convolutional import TDConvNet
from torch import nn

from local_models.separator import SHARED_ARGUMENTS, AVSeparator, own_and_others


class AVTDConvNet(TDConvNet):
    """Asteroid's TDConvNet mask estimator, conditioned on faces.

    Args:
        in_chan (int): Channels of the audio features.
        n_masks (int): Masks that each stream gives: 1 with faces (one stream for each), n_src without.
        visual_chan (int): Channels of a face's cues; 0 makes the audio-only network, which is Asteroid's TDConvNet.
        n_audio_repeats (int): Repeats that run on the mixture before the cues are fused.
        see_others (bool): A face's stream sees the mean of the other faces' cues too (zero where it is alone).
        **kwargs: Those of `asteroid.masknn.convolutional.TDConvNet`.

    Shape:
        - features: (batch, in_chan, frames)
        - cues: (batch, n_cues, visual_chan, frames), or None
        - output: (batch, n_cues or n_masks, out_chan, frames)

    References
        [1] Luo, Mesgarani, "Conv-TasNet", IEEE/ACM TASLP 2019, Sec. II.
        [2] Wu et al., "Time domain audio visual speech separation", ASRU 2019, Sec. 2.
    """

    def __init__(
        self, in_chan: int, n_masks: int, visual_chan: int, n_audio_repeats: int, see_others: bool, **kwargs: Any
    ) -> None:
        super().__init__(in_chan, n_masks, **kwargs)
        self.n_audio_blocks, self.see_others = n_audio_repeats * self.n_blocks, see_others
        # Nothing hears the last block's residual; training on several devices refuses parameters without a gradient.
        self.TCN[-1].res_conv.requires_grad_(False)
        self.fusion = None
        if visual_chan:
            self.fusion = nn.Conv1d(self.bn_chan + visual_chan * (2 if see_others else 1), self.bn_chan, 1)

    def forward(self, features: torch.Tensor, cues: torch.Tensor | None = None) -> torch.Tensor:
        batch, _, n_frames = features.shape
        stream = self.bottleneck(features)
        skips = torch.zeros(1, device=stream.device)
        n_streams = 1
        for index, layer in enumerate(self.TCN):
            if cues is not None and index == self.n_audio_blocks:
                n_streams = cues.shape[1]
                cues = (own_and_others(cues) if self.see_others else cues).flatten(0, 1)
                stream = stream.repeat_interleave(n_streams, dim=0)
                skips = skips.repeat_interleave(n_streams, dim=0) if index else skips
                stream = stream + self.fusion(torch.cat([stream, cues], dim=1))
            residual, skip = layer(stream)
            stream, skips = stream + residual, skips + skip
        masks = self.output_act(self.mask_net(skips))
        return masks.reshape(batch, n_streams * self.n_src, self.out_chan, n_frames)


class AVConvTasNet(AVSeparator):
    """Encoder, audio-visual TDConvNet masks, decoder.

    Args:
        bn_chan, hid_chan, skip_chan, n_blocks, n_repeats, norm_type: Those of Asteroid's TDConvNet.
        n_audio_repeats (int): See `AVTDConvNet`.
        Others: See `AVSeparator`.

    Raises:
        ValueError: values that no such network can have, or a call with the wrong cues.
    """

    def __init__(
        self,
        n_src: int = 2,
        n_cues: int = 2,
        sample_rate: int = 16000,
        fit_to_mixture: bool = True,
        fb_name: str = "free",
        n_filters: int = 256,
        kernel_size: int = 40,
        stride: int = 20,
        bn_chan: int = 128,
        hid_chan: int = 256,
        skip_chan: int = 128,
        n_blocks: int = 8,
        n_repeats: int = 3,
        n_audio_repeats: int = 1,
        norm_type: str = "gLN",
        visual_dim: int = 512,
        visual_chan: int = 256,
        visual_hid: int = 512,
        visual_blocks: int = 5,
        visual_dropout: float = 0.0,
        video_fps: float = 25.0,
    ) -> None:
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        if n_audio_repeats >= n_repeats:
            raise ValueError(f"n_audio_repeats ({n_audio_repeats}) must be below n_repeats ({n_repeats})")
        super().__init__(**{name: config[name] for name in SHARED_ARGUMENTS})
        self._config = config
        self.masker = AVTDConvNet(
            in_chan=self.in_chan,
            out_chan=self.n_feats,
            n_masks=1 if n_cues else n_src,
            visual_chan=visual_chan if n_cues else 0,
            n_audio_repeats=n_audio_repeats,
            see_others=n_cues > 1,
            bn_chan=bn_chan,
            hid_chan=hid_chan,
            skip_chan=skip_chan,
            n_blocks=n_blocks,
            n_repeats=n_repeats,
            norm_type=norm_type,
            mask_act=self.mask_act,
        )
