"""The keys of a conf's `data` section: what the network hears and sees in training, and what goes together.

Nothing here imports torch. Validation is never augmented: it takes the mixtures of val.csv as they are.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, TypeVar

Part = TypeVar("Part")


@dataclass(frozen=True)
class DataConf:
    """What the network hears and sees in training."""

    task: str = "separation"
    """separation: all faces of a mixture at once; extraction: one face in, its voice out, whoever else is heard."""
    dynamic: bool = True
    """Mix single utterances anew in every epoch (true), or take the mixtures of train.csv (false)."""
    segment_sec: float = 2.0
    """Length of a training and validation example; whole video frames."""
    epoch_size: int = 0
    """Mixtures in an epoch of dynamic mixing; 0: as many as there are utterances."""
    sir_db: float = 5.0
    """Dynamic mixing draws the true SIR of a pair uniformly from -sir_db..sir_db, over the segment."""
    same_speaker: float = 0.0
    """Share of the drawn pairs in which both utterances are of one speaker; 0 keeps speakers apart."""
    speed: float = 0.0
    """Dynamic mixing plays each voice with its face at 1 - speed to 1 + speed of its speed."""
    three_voices: float = 0.0
    """Share of mixtures with n_src + 1 voices, all with faces, all to be separated; in batches of their own."""
    off_screen: float = 0.0
    """Share of mixtures with a further voice that has no face and is not to be separated."""
    interferer_dir: str = ""
    """Folder of speech without faces, mono wav or flac at the corpus' rate, with its subfolders; "": none."""
    interferer_share: float = 0.0
    """Share of the voices without a face that are speech of interferer_dir; the others are of the corpus' utterances."""
    lone_voice: float = 0.0
    """Share of extraction mixtures in which nobody else talks: the target in noise."""
    silent_voice: float = 0.0
    """Share of mixtures in which one of the faces is seen and its voice is silent (extraction: the target is absent)."""
    noise_dir: str = ""
    """Folder of mono wav or flac noise at the corpus' rate, with its subfolders; "": none."""
    noise_share: float = 0.0
    """Share of mixtures with noise."""
    noise_snr_low_db: float = 0.0
    """The SNR of all voices together over the noise is uniform from here..."""
    noise_snr_high_db: float = 20.0
    """...to here."""
    rir_dir: str = ""
    """Folder of room impulse responses, wav or flac; the channels of a file are positions in one room; "": none."""
    rir_share: float = 0.0
    """Share of mixtures in a room; the targets keep the first 50 ms after the direct sound."""
    shift_frames: int = 0
    """Each face comes too late or too early by a whole number of video frames, uniform in -shift_frames..shift_frames."""
    drop_frames: float = 0.0
    """Each face loses a share of its frames (zeros), uniform in 0..drop_frames, in bursts."""
    freeze_frames: float = 0.0
    """Each face repeats its last good frame in a share of its frames, uniform in 0..freeze_frames, in bursts."""
    drop_face: float = 0.0
    """Share of mixtures in which one face is missing altogether (zeros)."""
    drop_all_faces: float = 0.0
    """Share of mixtures in which all faces are missing."""
    num_workers: int = 1
    """Loader processes for each training process."""

    def part(self, kind: type[Part]) -> Part:
        """A dataclass whose fields are some of these keys, with their values."""
        return kind(**{field.name: getattr(self, field.name) for field in fields(kind)})


DATA_CHOICES = {"task": ("separation", "extraction")}
_DYNAMIC_SHARES = ("same_speaker", "speed", "three_voices", "off_screen", "interferer_share", "lone_voice", "silent_voice",
                   "noise_share", "rir_share")  # fmt: skip
DATA_SHARES = (*_DYNAMIC_SHARES, "drop_frames", "freeze_frames", "drop_face", "drop_all_faces")
DATA_MAY_BE_NEGATIVE = {"noise_snr_low_db", "noise_snr_high_db"}
DATA_MAY_BE_ZERO = {"epoch_size", "num_workers", "sir_db", "shift_frames", *DATA_SHARES}


def data_problems(nested: dict[str, dict[str, Any]]) -> Iterator[str]:
    """What cannot be trained on together, each a line with the keys' names."""
    data, n_src, n_cues = nested["data"], nested["model"]["n_src"], nested["model"]["n_cues"]
    if data["task"] == "extraction" and (n_src, n_cues) != (1, 1):
        yield "data.task extraction needs model.n_src 1 and model.n_cues 1: one face in, its voice out"
    if data["lone_voice"] and data["task"] != "extraction":
        yield "data.lone_voice is for data.task extraction alone; set it to 0"
    if data["lone_voice"] and not data["noise_share"]:
        yield "data.lone_voice needs data.noise_share and data.noise_dir: without noise there is nothing to remove"
    if data["interferer_share"] and n_src > 1 and not data["off_screen"]:
        yield "data.interferer_share needs voices without a face: set data.off_screen above 0, or it to 0"
    if data["same_speaker"] and n_src == 1 and data["interferer_share"] == 1:
        yield "data.same_speaker needs a second voice of the corpus: set it to 0, or data.interferer_share below 1"
    if data["three_voices"] and not n_cues == n_src >= 2:
        yield "data.three_voices needs a network for several faces (model.n_cues = model.n_src = 2 or more); set it to 0"
    if data["three_voices"] and nested["training"]["overfit_batch"]:
        yield "training.overfit_batch repeats one batch, data.three_voices makes two kinds; set one of them to false or 0"
    if data["off_screen"] and not n_cues:
        yield "data.off_screen needs faces that tell which voices are wanted (model.n_cues above 0); set it to 0"
    if data["silent_voice"] and nested["model"]["fit_to_mixture"]:
        yield "model.fit_to_mixture makes every voice as loud as it can be; set it to false, or data.silent_voice to 0"
    if n_cues == 1 and (data["drop_face"] or data["drop_all_faces"]):
        yield "data.drop_face and data.drop_all_faces leave nothing that tells the voice of one face (model.n_cues 1); set 0"
    if data["speed"] > 0.5:
        yield f"data.speed is {data['speed']!r}; at most 0.5: nobody speaks at twice the speed"
    for share in _DYNAMIC_SHARES:
        if data[share] and not data["dynamic"]:
            yield f"data.{share} needs data.dynamic true: the mixtures of train.csv are taken as they are; set it to 0"
    folders = (("noise_share", "noise_dir"), ("rir_share", "rir_dir"), ("interferer_share", "interferer_dir"))
    for share, folder in folders:
        if data[share] and not data[folder]:
            yield f"data.{share} needs data.{folder}, a folder of wav or flac files; give one, or set the share to 0"
    if data["noise_snr_low_db"] > data["noise_snr_high_db"]:
        yield "data.noise_snr_low_db is above data.noise_snr_high_db; exchange them"
