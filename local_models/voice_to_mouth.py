"""From a voice to what a camera would see of its face: 68 landmarks, or visual embeddings of the lips, frame by frame.

A voice tells how far a mouth is open and how its lips are rounded, and little of whose mouth it is. So targets are learned as
they are, but what counts is how they change (`utils.voice_to_mouth.losses`).
"""

import dataclasses
from typing import Any

import numpy as np
import torch
import torchaudio
from asteroid.models.base_models import BaseModel
from torch import nn

from local_models.configs import VoiceToMouthConfig
from local_models.visual import resample_frames

_WINDOW_SEC, _HOP_SEC = 0.025, 0.010
_N_MELS = 64  # below a cepstrum
_FLOOR = 1e-4  # of the mean energy in a band, of frames that are loud
_LOUD = 0.01  # of the loudest frame's energy: a pause has less
_KERNEL_SIZE = 5
_N_HEADS = 4


class VoiceToMouth(BaseModel):
    """Predict visual targets from a voice; an Asteroid model (`serialize`, `from_pretrained`).

    Args:
        config: the arguments as one object; None takes `VoiceToMouthConfig(**arguments)`.
        arguments: fields of `VoiceToMouthConfig`.

    Shape:
        - voice: (batch, time)
        - output: (batch, video_frames, visual_dim)

    References
        [1] Kumar et al., "ObamaNet: Photo-realistic lip-sync from text", 2017, Sec. 3.2 (an LSTM from a voice to landmarks).
    """

    config_type = VoiceToMouthConfig

    def __init__(self, config: VoiceToMouthConfig | None = None, **arguments: Any) -> None:
        config = config or VoiceToMouthConfig(**arguments)
        super().__init__(sample_rate=config.sample_rate, in_channels=None)
        self.config = config
        self.hearing = Wav2Vec2Hearing(config) if config.features == "wav2vec2" else Hearing(config)
        chan, n_features = config.hid_chan, self.hearing.n_features
        self.norm = nn.BatchNorm1d(n_features)  # not over a step: how loud it is tells most
        self.enter = nn.Linear(n_features, chan)
        n_blocks = 0 if config.encoder == "lstm" else config.n_blocks
        self.blocks = nn.Sequential(*(ConvBlock(chan, config.dropout) for _ in range(n_blocks)))
        if config.encoder == "conv_attention":
            sizes = {"dim_feedforward": 2 * chan, "dropout": config.dropout, "batch_first": True, "norm_first": True}
            layer = nn.TransformerEncoderLayer(chan, _N_HEADS, **sizes)
            self.context = nn.TransformerEncoder(layer, config.n_layers, enable_nested_tensor=False)
        else:
            is_both_ways = config.encoder == "conv_blstm"
            dropout = config.dropout if config.n_layers > 1 else 0.0
            how = {"batch_first": True, "bidirectional": is_both_ways, "dropout": dropout}
            self.context = nn.LSTM(chan, chan // (1 + is_both_ways), config.n_layers, **how)
        self.dropout = nn.Dropout(config.dropout)
        self.leave = nn.Linear(chan, config.visual_dim)
        # The mean and the scale of the targets that were trained on.
        self.target_norm = nn.BatchNorm1d(config.visual_dim, affine=False, momentum=None)

    def get_model_args(self) -> dict[str, Any]:
        """The constructor's arguments, plain types; Asteroid's `serialize` keeps them with the weights."""
        return dataclasses.asdict(self.config)

    def forward(self, voice: torch.Tensor, n_frames: int | None = None, fps: float | None = None) -> torch.Tensor:
        """Targets (batch, n_frames, visual_dim) of voices (batch, time).

        Args:
            voice: at `sample_rate`, any level.
            n_frames: video frames; None: as many as the voice lasts, rounded.
            fps: of the video; None: as in training.
        """
        return self.restored(self.standardised(voice, n_frames, fps))

    def standardised(self, voice: torch.Tensor, n_frames: int | None = None, fps: float | None = None) -> torch.Tensor:
        """As `forward`, with a mean of 0 and a mean variance of 1 over what was trained on."""
        if voice.ndim != 2:
            raise ValueError(f"voice is {tuple(voice.shape)} where (batch, time) is expected")
        fps = fps or self.config.video_fps
        n_frames = n_frames or max(round(voice.shape[-1] * fps / self.config.sample_rate), 1)
        x = self.norm(self.hearing(voice).transpose(1, 2)).transpose(1, 2)  # (batch, steps, n_features)
        x = self.enter(x)  # (batch, steps, chan)
        x = self.blocks(x.transpose(1, 2)).transpose(1, 2)
        if isinstance(self.context, nn.LSTM):
            x = self.context(x)[0]
        else:
            x = self.context(x + _positions(x.shape[1], x.shape[2], x.device))
        x = self.leave(self.dropout(x))  # (batch, steps, visual_dim)
        middles_sec = (torch.arange(n_frames, device=x.device) + 0.5) / fps
        positions = (middles_sec - self.hearing.first_sec) / self.hearing.hop_sec
        return resample_frames(x.transpose(1, 2), positions).transpose(1, 2)

    def standardise(self, targets: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Targets (batch, video_frames, visual_dim) as `standardised` gives them; in training they count for the statistics.

        Args:
            targets: those of frames that are not `seen` are of no interest.
            seen: bool (batch, video_frames).
        """
        if self.training and seen.sum() > 1:
            self.target_norm(targets[seen])
        return (targets - self.target_norm.running_mean) / self._scale

    def restored(self, standardised: torch.Tensor) -> torch.Tensor:
        """What `standardise` was given."""
        return standardised * self._scale + self.target_norm.running_mean

    @property
    def _scale(self) -> torch.Tensor:
        """Of each number of an embedding its own; of landmarks one for all, or those that hardly move would count as much."""
        variance = self.target_norm.running_var
        return (variance.mean() if self.config.target == "keypoints" else variance).clamp(min=1e-8).sqrt()

    def predict(self, voice: np.ndarray | torch.Tensor, fps: float | None = None) -> np.ndarray | torch.Tensor:
        """Targets (video_frames, visual_dim) of one voice (time,), of its kind."""
        given = torch.as_tensor(voice, dtype=torch.float32, device=next(self.parameters()).device)
        was_training = self.training
        self.eval()  # Asteroid's `from_pretrained` leaves dropout switched on
        with torch.inference_mode():
            targets = self(given[None], fps=fps)[0]
        self.train(was_training)
        return targets.cpu().numpy() if isinstance(voice, np.ndarray) else targets.to(voice.device)


class Hearing(nn.Module):
    """What is heard of a voice, 100 times each second: log mel energies or their cepstrum, less their mean over speech.

    Level, microphone and room count for little so, and neither do pauses, how ever long.

    Shape:
        - input: (batch, time)
        - output: (batch, steps, n_features), step k centred on `first_sec` + k `hop_sec`
    """

    first_sec, hop_sec = 0.0, _HOP_SEC

    def __init__(self, config: VoiceToMouthConfig) -> None:
        super().__init__()
        self.n_features = config.n_features
        window, self.hop = (round(length_sec * config.sample_rate) for length_sec in (_WINDOW_SEC, _HOP_SEC))
        n_fft = 1 << (window - 1).bit_length()
        self.n_fft, self.window = n_fft, window
        n_mels = config.n_features if config.features == "mel" else max(_N_MELS, config.n_features)
        mels = torchaudio.functional.melscale_fbanks(n_fft // 2 + 1, 60.0, config.sample_rate / 2, n_mels, config.sample_rate)
        self.register_buffer("mels", mels, persistent=False)
        self.register_buffer("taper", torch.hann_window(window), persistent=False)
        cepstrum = torchaudio.functional.create_dct(config.n_features, n_mels, "ortho") if config.features == "mfcc" else None
        self.register_buffer("cepstrum", cepstrum, persistent=False)

    def forward(self, voice: torch.Tensor) -> torch.Tensor:
        missing = max(self.n_fft // 2 + 1 - voice.shape[-1], 0)  # a reflection needs so many samples
        voice = nn.functional.pad(voice.float(), (0, missing))
        spectrum = torch.stft(voice, self.n_fft, self.hop, self.window, self.taper, return_complex=True)
        energies = spectrum.abs().square().transpose(1, 2) @ self.mels  # (batch, steps, n_mels)
        levels = energies.mean(dim=2, keepdim=True)  # (batch, steps, 1)
        loud = (levels >= _LOUD * levels.amax(dim=1, keepdim=True)).to(levels.dtype)
        loud = loud / loud.sum(dim=1, keepdim=True)
        heard = (energies + _FLOOR * (levels * loud).sum(dim=1, keepdim=True) + 1e-10).log()
        heard = heard - (heard * loud).sum(dim=1, keepdim=True)
        return heard if self.cepstrum is None else heard @ self.cepstrum


class Wav2Vec2Hearing(nn.Module):
    """The last layer of a pretrained wav2vec 2.0, 50 times each second; frozen, and not part of a saved network.

    Shape:
        - input: (batch, time), 16 kHz
        - output: (batch, steps, n_features), step k centred on `first_sec` + k `hop_sec`

    Raises:
        ValueError: transformers is not installed, or the folder holds no such network.

    References
        [1] Baevski et al., "wav2vec 2.0: A framework for self-supervised learning of speech representations", 2020, Sec. 2.
    """

    first_sec, hop_sec = 0.0125, 0.02  # a step sees 400 samples
    _FEWEST_SAMPLES = 400

    def __init__(self, config: VoiceToMouthConfig) -> None:
        super().__init__()
        try:
            from transformers import Wav2Vec2Model
        except ImportError:
            raise ValueError("features wav2vec2 needs a package: pip install transformers") from None
        try:  # safetensors alone: they cannot run code
            how = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
            network, found = Wav2Vec2Model.from_pretrained(config.wav2vec2_dir, **how)
            if found["missing_keys"]:  # transformers fills them with random numbers
                raise ValueError(f"it lacks {min(found['missing_keys'])}")
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"wav2vec2_dir {config.wav2vec2_dir}: no wav2vec 2.0 with safetensors ({reason})") from None
        self._network = [network.eval().requires_grad_(False)]  # a list: neither trained nor saved nor counted
        self.n_features = network.config.hidden_size

    @torch.no_grad()
    def forward(self, voice: torch.Tensor) -> torch.Tensor:
        network = self._network[0].to(voice.device)
        voice = nn.functional.pad(voice.float(), (0, max(self._FEWEST_SAMPLES - voice.shape[-1], 0)))
        variance, mean = torch.var_mean(voice, dim=1, keepdim=True, correction=0)
        return network((voice - mean) / (variance + 1e-7).sqrt()).last_hidden_state


class ConvBlock(nn.Module):
    """A convolution over time whose output is added; (batch, chan, steps) in and out."""

    def __init__(self, chan: int, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(chan, chan, _KERNEL_SIZE, padding=_KERNEL_SIZE // 2),
            nn.GroupNorm(1, chan),
            nn.GELU(),
            nn.Dropout1d(dropout),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.net(x)


def _positions(n_steps: int, chan: int, device: torch.device) -> torch.Tensor:
    """Where each step is in time, as sines: (n_steps, chan). Vaswani et al. 2017, Sec. 3.5."""
    rates = 10000.0 ** (-torch.arange(0, chan, 2, device=device) / chan)
    angles = torch.arange(n_steps, device=device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)
