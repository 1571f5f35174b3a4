"""A suite of tiny networks and a plan of its rows, for the tests of the comparison."""

from pathlib import Path

import yaml

TINY = {
    "model": {"name": "avdprnn", "n_cues": 0},
    "filterbank": {"fb_name": "stft", "n_filters": 64, "kernel_size": 64, "stride": 32},
    "masknet": {"bn_chan": 8, "hid_size": 4, "chunk_size": 16, "hop_size": 16, "n_repeats": 1},
    "data": {"segment_sec": 0.4, "epoch_size": 8, "num_workers": 0},
    "training": {"batch_size": 2, "audio_examples": 0},
}


def suite_file(folder: Path, **changes) -> Path:
    """A suite of two rows of a tiny audio-only conf."""
    conf = folder / "tiny.yml"
    conf.write_text(yaml.safe_dump(TINY))
    rows = {"small": {"conf": str(conf)}, "wide": {"conf": str(conf), "train_args": "--bn_chan 12"}}
    path = folder / "suite.yml"
    path.write_text(yaml.safe_dump({"minutes": 0.001, "common": "--lr 0.01", "rows": rows, "baseline": "small"} | changes))
    return path


OLD_PLAN = {  # as the first version of plan.json had it
    "epochs": 7, "epoch_size": 38, "expected_minutes": 1.0, "step_sec": 0.2, "val_step_sec": 0.1, "read_sec": 0.1,
    "val_read_sec": 0.1, "inputs": {"conf": "c", "minutes": "0.001", "data": "d"},
    "measured": "2026-01-02T03:04+00:00, 2 at once, 1 threads each, 2 cores",
}  # fmt: skip
