"""The recipe from Python: docs/python.md as it stands, and what its functions promise."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from recipe_helpers import ROOT
from separation_helpers import make_experiment, make_lips

from utils.data.audio import read_audio, write_wav
from utils.errors import UserError

pytest.importorskip("av", reason="the packages of requirements-video.txt are not installed")
from utils.embedding.joined import joined
from utils.embedding.store import EmbeddingStore
from utils.separation.api import embed_mouths, load_network, read_separated, separate
from utils.video.decoding import read_pictures
from utils.video.preview import write_video
from utils.video.sound import extract_sound

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def video(tmp_path_factory, shared_data) -> Path:
    """Two people of GRID side by side, one and a half seconds."""
    folder = tmp_path_factory.mktemp("video")
    clips = [shared_data / f"grid_video/{name}.mpg" for name in ("g2brbk7n", "g3lbax4n")]
    sounds = []
    for clip in clips:
        extract_sound(clip, folder / "a.wav")
        sounds.append(read_audio(folder / "a.wav", 20 * 640, 24_000))  # from its 20th picture on
    write_wav(folder / "mix.wav", sum(sounds), 16_000)
    pairs = zip(*(read_pictures(clip, 58, 20) for clip in clips), strict=True)
    write_video(folder / "talk.mp4", (np.concatenate([a, b], axis=1) for (_, a), (_, b) in pairs), folder / "mix.wav", 720, 288)
    return folder / "talk.mp4"


@pytest.fixture(scope="module")
def shown(tmp_path_factory, video) -> tuple[Path, str]:
    """What the blocks of docs/python.md print, one after the other, in a folder of their own."""
    folder = tmp_path_factory.mktemp("python")
    program = f"VIDEO = {str(video)!r}\n" + "\n".join(BLOCKS) + "\nprint(estimates.shape, mixture.shape, visual.shape)"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    how = {"cwd": folder, "env": environment, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", program], check=False, **how)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_the_page_runs_from_any_folder_and_says_what_it_promises(shown):
    folder, text = shown
    lines = text.splitlines()
    assert lines[0].startswith("face1 24576 on screen ((0.0, 1.52),) sure 0.")  # whole frames of AAC
    assert any(line.startswith("face2 24576") for line in lines)
    assert lines[-2] == "separated/talk/stems/face1.wav 16000 tracks.mp4"
    assert lines[-1] == "(2, 24576) (24576,) (2, 39, 168)"
    assert sorted(path.name for path in folder.iterdir()) == ["separated"]


def test_embeddings_of_a_mouth_file_are_those_of_the_store(shown):
    folder, _ = shown
    cache = folder / "separated/.cache"
    (mouth,) = cache.glob("videos/*/talk/mouths/face1.npz")
    stores = [EmbeddingStore(next(cache.glob(f"embeddings/{name}-*/videos_*"))) for name in ("lr_asd", "lip_shape")]
    stored = joined(stores).get(str(mouth.relative_to(folder)))
    np.testing.assert_array_equal(embed_mouths(mouth), stored)


def test_what_was_separated_can_be_opened_again_and_read_in_stretches(shown):
    folder, _ = shown
    talk = read_separated(folder / "separated/talk")
    assert [track.name for track in (*talk.tracks, talk.rest)] == ["face1", "face2", "rest"] and talk.n_samples == 24_576
    whole = talk.tracks[1].read()
    np.testing.assert_array_equal(talk.tracks[1].read(0.5, 0.25), whole[8000:12_000])
    assert all(track.stem_path.is_file() for track in (*talk.tracks, talk.rest))
    with pytest.raises(UserError, match="holds no tracks.json"):
        read_separated(folder)


def test_what_cannot_be_separated_says_why(tmp_path):
    broken = tmp_path / "broken.mp4"
    with pytest.raises(UserError, match="no such video"):
        separate(broken, tmp_path / "out")
    broken.write_bytes(b"no video at all")
    with pytest.raises(UserError, match=r"broken\.mp4: "):
        separate(broken, tmp_path / "out")
    with pytest.raises(TypeError, match="no_option"):
        separate(broken, tmp_path / "out", no_option=1)
    for wrong in ({"output_rate": "48k"}, {"mux": "no"}, {"people": "2"}, {"subtype": "pcm24"}):
        with pytest.raises(UserError, match=f"^{next(iter(wrong))} '.*: it is "):
            separate(broken, tmp_path / "out", **wrong)
    with pytest.raises(UserError, match="no such experiment"):
        load_network(tmp_path / "nothing")


def test_a_network_of_ones_own_is_loaded(tmp_path):
    assert load_network(make_experiment(tmp_path / "exp/av", make_lips(tmp_path / "lips.pth"))).training is False
