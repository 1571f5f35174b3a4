"""The networks' arguments as keys of a conf: which there are, their defaults, and values that no network can have.

The same facts stand in the constructors of `local_models`; they are repeated here so that a conf is checked before torch is
imported, and a test holds both equal.
"""

import re
from collections.abc import Iterator
from typing import Any

MODEL_SECTIONS = ("model", "filterbank", "masknet", "visual")
MODEL_CHOICES = {
    "fb_name": ("free", "stft"),
    "mask": ("complex", "real", "mapping"),
    "fusion": ("film", "concat"),
    "norm_type": ("gLN", "cLN", "cgLN"),
    "rnn_type": ("LSTM", "GRU", "RNN"),
}
MODEL_MAY_BE_ZERO = {"n_cues", "visual_dropout", "visual_blocks", "n_audio_repeats", "attention_heads"}

# The networks' arguments by section: {key: (section, default)}. A default gives the type; visual_dim comes from the
# embeddings.
_FRONT_KEYS: dict[str, tuple[str, Any]] = {
    "n_src": ("model", 2),
    "n_cues": ("model", 2),
    "sample_rate": ("model", 16000),
    "fit_to_mixture": ("model", True),
    "fb_name": ("filterbank", "free"),
    "n_filters": ("filterbank", 256),
    "kernel_size": ("filterbank", 40),
    "stride": ("filterbank", 20),
}
_RNN_KEYS: dict[str, tuple[str, Any]] = {
    "norm_type": ("masknet", "gLN"),
    "rnn_type": ("masknet", "LSTM"),
    "bidirectional": ("masknet", True),
}
_VISUAL_KEYS: dict[str, tuple[str, Any]] = {
    "visual_dim": ("visual", 512),
    "visual_chan": ("visual", 256),
    "visual_hid": ("visual", 512),
    "visual_blocks": ("visual", 5),
    "visual_dropout": ("visual", 0.0),
    "video_fps": ("visual", 25.0),
}
MODEL_KEYS: dict[str, dict[str, tuple[str, Any]]] = {
    "avtfdprnn": {
        **{key: value for key, value in _FRONT_KEYS.items() if key != "fb_name"},  # an STFT
        "fit_to_mixture": ("model", False),
        "n_filters": ("filterbank", 512),
        "kernel_size": ("filterbank", 512),
        "stride": ("filterbank", 256),
        "mask": ("masknet", "complex"),
        "bn_chan": ("masknet", 48),
        "hid_size": ("masknet", 48),
        "n_repeats": ("masknet", 4),
        "n_audio_repeats": ("masknet", 2),
        "bands": ("masknet", "8x4 4x8 2x32 2x64"),
        "grid_stride": ("masknet", 2),
        "fusion": ("masknet", "film"),
        "fuse_every_block": ("masknet", True),
        "exchange": ("masknet", True),
        "share_repeats": ("masknet", False),
        "attention_heads": ("masknet", 0),
        **_RNN_KEYS,
        **_VISUAL_KEYS,
        "visual_chan": ("visual", 64),
        "visual_hid": ("visual", 128),
        "visual_blocks": ("visual", 3),
    },
    "avdprnn": {
        **_FRONT_KEYS,
        "bn_chan": ("masknet", 64),
        "hid_size": ("masknet", 128),
        "chunk_size": ("masknet", 100),
        "hop_size": ("masknet", 50),
        "n_repeats": ("masknet", 6),
        "fuse_every_block": ("masknet", False),
        **_RNN_KEYS,
        **_VISUAL_KEYS,
    },
    "avconvtasnet": {
        **_FRONT_KEYS,
        "bn_chan": ("masknet", 128),
        "hid_chan": ("masknet", 256),
        "skip_chan": ("masknet", 128),
        "n_blocks": ("masknet", 8),
        "n_repeats": ("masknet", 3),
        "n_audio_repeats": ("masknet", 1),
        "norm_type": ("masknet", "gLN"),
        **_VISUAL_KEYS,
    },
}
DEFAULT_MODEL = "avtfdprnn"


def model_problems(name: str, nested: dict[str, dict[str, Any]]) -> Iterator[str]:
    """What no network `name` can have of these sections, each a line with the keys' names."""
    model, bank, mask = nested["model"], nested["filterbank"], nested["masknet"]
    if model["n_cues"] not in (0, model["n_src"]):
        yield "model.n_cues must be model.n_src (a face a voice) or 0 (no video)"
    if bank["kernel_size"] % bank["stride"]:
        yield "filterbank.kernel_size must be a multiple of filterbank.stride"
    if name == "avtfdprnn" or bank["fb_name"] == "stft":
        if bank["n_filters"] < bank["kernel_size"]:
            yield "an stft needs filterbank.n_filters >= filterbank.kernel_size"
        if bank["n_filters"] % 2:
            yield "an stft needs an even filterbank.n_filters"
    if nested["loss"]["signal_loss"] == "si_snr" and not model["fit_to_mixture"]:
        yield "loss.signal_loss si_snr leaves level to chance; set model.fit_to_mixture to true, or take signal_loss snr"
    if nested["loss"]["block_weight"] and name != "avdprnn":
        yield "loss.block_weight needs masks after each block, which avdprnn alone has; set it to 0"
    if mask["norm_type"] == "cgLN" and name != "avconvtasnet":
        yield "masknet.norm_type cgLN is for avconvtasnet alone; take gLN or cLN"
    if name == "avdprnn":
        if mask["hop_size"] > mask["chunk_size"]:
            yield "masknet.hop_size is larger than masknet.chunk_size: frames would be lost"
        elif mask["chunk_size"] % mask["hop_size"]:
            yield "masknet.chunk_size must be a multiple of masknet.hop_size"
    elif mask["n_audio_repeats"] >= mask["n_repeats"]:
        yield "masknet.n_audio_repeats must be below masknet.n_repeats"
    if name == "avtfdprnn":
        yield from _band_problems(mask["bands"], bank["n_filters"] // 2 + 1)
        if mask["grid_stride"] > 1 and mask["grid_stride"] % 2:
            yield "masknet.grid_stride must be 1 or even"
        if mask["attention_heads"] and mask["bn_chan"] % mask["attention_heads"]:
            yield "masknet.attention_heads must divide masknet.bn_chan"


def _band_problems(bands: str, n_bins: int) -> Iterator[str]:
    words = [re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", word) for word in bands.split()]
    sizes = [(int(word[1]), int(word[2])) for word in words if word]
    covered = sum(count * width for count, width in sizes)
    if not sizes or not all(words) or any(width % 2 for _, width in sizes):
        yield f"masknet.bands is '{bands}' where a list such as '8x4 4x8 2x32 2x64' is expected: bands x bins, bins even"
    elif not covered <= n_bins <= covered + sizes[-1][1] // 2:
        yield f"masknet.bands covers {covered} bins where filterbank.n_filters makes {n_bins}; make it {n_bins - 1}"
