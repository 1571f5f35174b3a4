"""Every corpus as a small copy, by the commands of the corpora's READMEs, from stage 0 to a table of scores.

Sounds and mouths are the demo's, so that nothing else is needed; where faces must be found in pictures the clips are real
ones, and these tests are skipped where there are none.
"""

import json
import pickle
import shutil
from collections.abc import Sequence
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from corpora_helpers import GAINS_DB, RATE_HZ, VIDEOS, encode_clip, two_mix_name, write_audio, write_two_mix
from recipe_helpers import (
    CORNER,
    TINY,
    TINY_TIME_DOMAIN,
    WEIGHTS,
    Clip,
    Recipe,
    at_rate,
    draw_clips,
    draw_video,
    film_clip,
    readme_command,
    sound_of,
)

from utils.data.manifest import read_manifest
from utils.data.mouths import read_mouths
from utils.video.landmarks import Person, write_people

# Of twelve clips, two of each of six speakers: the first and the second source of each mixture.
PAIRS = {"train": [(0, 2), (3, 1), (1, 2)], "val": [(4, 6), (7, 5)], "test": [(8, 10), (11, 8), (9, 8)]}
FOLDERS = {"train": "tr", "val": "cv", "test": "tt"}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> list[Clip]:
    return draw_clips(tmp_path_factory.mktemp("drawn"))


# Mixtures and mouth crops


def write_mouths(folder: Path, ids: Sequence[str], clips: Sequence[Clip]) -> None:
    folder.mkdir(parents=True)
    for name, clip in zip(ids, clips, strict=True):
        np.savez_compressed(folder / f"{name}.npz", data=clip.mouths)


class TwoMix:
    """A 2Mix folder of the drawn clips, under the most difficult names of its corpus."""

    def __init__(self, home: Path, corpus: str, drawn: list[Clip]) -> None:
        self.recipe = Recipe(home, corpus)
        names = [f"{video}_{number:05d}" for video, number in product(VIDEOS[corpus], (1, 48))]
        self.sounds = {name: clip.samples for name, clip in zip(names, drawn, strict=True)}
        splits = {FOLDERS[split]: [(names[a], names[b]) for a, b in pairs] for split, pairs in PAIRS.items()}
        write_two_mix(self.recipe.raw, splits, self.sounds)
        write_mouths(self.recipe.raw / "mouths", names, drawn)
        self.ids = {two_mix_name(pair, GAINS_DB): pair for pair in splits["tt"]}

    def check(self) -> None:
        self.recipe.check(self.ids, self.sounds)


def write_json_lists(root: Path, target: Path) -> Path:
    """The public lists of a 2Mix folder, with paths of another machine."""
    for split, part in product(FOLDERS.values(), ("mix", "s1", "s2")):
        rows = []
        for path in sorted((root / f"audio/wav16k/min/{split}/{part}").glob("*.wav")):
            ids = [name for name in (mouth.stem for mouth in (root / "mouths").iterdir()) if name in path.stem]
            mouth = min(ids, key=path.stem.index) if part == "s1" else max(ids, key=path.stem.index)
            place = f"/home/x y/{split}/{part}/{path.name}"
            rows.append([place, 32000] if part == "mix" else [place, f"/home/x y/mouths/{mouth}.npz", 32000])
        (target / split).mkdir(parents=True, exist_ok=True)
        (target / split / f"{part}.json").write_text(json.dumps(rows))
    return target


def test_lrs2_2mix_by_its_lists_ends_in_scores_and_a_second_call_does_nothing(tmp_path, drawn):
    corpus = TwoMix(tmp_path, "lrs2", drawn)
    lists = {"/data/lrs2_2mix_json": write_json_lists(corpus.recipe.raw, tmp_path / "lists")}
    places = {**lists, "/data/lrs2_2mix": corpus.recipe.raw, "FILE": WEIGHTS}
    command = readme_command("lrs2", "./egs/lrs2/run.sh --corpus_dir /data/lrs2_2mix --corpus_args", places)
    corpus.recipe.run(command, "--train_args", TINY)
    corpus.check()
    assert corpus.recipe.run(command, "--train_args", TINY).count("up to date") == 6


@pytest.mark.parametrize(
    ("name", "folder", "conf", "sizes"),
    [("lrs3", "/data/lrs3_2mix", "tse_tfdprnn", TINY), ("voxceleb2", "/data/vox2_2mix", "tse_dprnn", TINY_TIME_DOMAIN)],
)
def test_2mix_trains_networks_that_extract_one_target(tmp_path, drawn, name, folder, conf, sizes):
    corpus = TwoMix(tmp_path, name, drawn)
    places = {folder: corpus.recipe.raw, "lrw_resnet18_mstcn.pth.tar": WEIGHTS}
    command = readme_command(name, f"./egs/{name}/run.sh --corpus_dir {folder}", places)
    corpus.recipe.run(command, "--conf", f"conf/{conf}.yml", "--train_args", sizes)
    corpus.check()


def test_dla_trains_in_the_noise_of_musan(tmp_path, drawn):
    musan = Recipe(tmp_path, "musan")
    rng = np.random.default_rng(0)
    for k in range(5):
        write_audio(musan.raw / f"noise/free-sound/noise-free-sound-{k:04d}.wav", 0.1 * rng.standard_normal(RATE_HZ))
    write_audio(musan.raw / "music/fma/music-fma-0000.wav", 0.1 * rng.standard_normal((44100, 2)), 44100)
    musan.run(readme_command("musan", "./egs/musan/run.sh --corpus_dir /data/musan ", {"/data/musan": musan.raw}))
    noise = musan.data / "noise/train"
    assert len(list(noise.rglob("*.wav"))) >= 4

    recipe = Recipe(tmp_path / "noisy", "dla")
    names = [f"{k:011d}" for k in range(8)] + ["_a-b_", "9", "-__c", "d_9"]
    sounds = {name: clip.samples for name, clip in zip(names, drawn, strict=True)}
    for split, pairs in PAIRS.items():
        for first, second in pairs:
            sources = np.stack([drawn[first].samples, drawn[second].samples])
            for part, samples in (("mix", sources.sum(axis=0)), ("s1", sources[0]), ("s2", sources[1])):
                write_audio(recipe.raw / f"audio/{split}/{part}/{names[first]}_{names[second]}.wav", samples)
    write_mouths(recipe.raw / "mouths", names, drawn)
    places = {"data/musan/noise/train": noise, "DIR": recipe.raw, "FILE": WEIGHTS, "_prob 0.5": f"_prob 0.5 {TINY}"}
    recipe.run(readme_command("musan", "./run.sh --corpus dla", places))
    recipe.check({f"{names[a]}_{names[b]}": (names[a], names[b]) for a, b in PAIRS["test"]}, sounds)
    conf = yaml.safe_load((recipe.exp / "conf.yml").read_text())
    assert (conf["data"]["noise_dir"], conf["data"]["noise_prob"]) == (str(noise), 0.5)


# Raw video


def test_own_videos_with_landmarks_train_a_network_that_separates_a_video(tmp_path, drawn):
    recipe = Recipe(tmp_path, "own_video")
    people, sounds, mouths = ("anna", "bert 2", "_c-", "Zoë"), {}, {}
    for number, (person, take) in enumerate(product(people, range(3))):
        clip, path = drawn[number], recipe.raw / person / ("" if take else "2024") / f"-talk_{take}.mp4"
        landmarks = draw_video(path, [clip], clip.samples)[0]
        if take == 2:
            path.with_suffix(".pkl").write_bytes(pickle.dumps(list(landmarks)))
        else:
            np.savez(path.with_suffix(".npz"), data=landmarks)
        name = "_".join(path.relative_to(recipe.raw).with_suffix("").parts).replace(" ", "-")
        sounds[name], mouths[name] = clip.samples, clip.mouths
    places = {"DIR": recipe.raw, "dump/weights/lr_asd_talkset.pth.tar": WEIGHTS}
    recipe.run(readme_command("own_video", "./egs/own_video/run.sh --corpus_dir DIR", places), "--train_args", TINY)
    recipe.check(recipe.drawn_ids(), sounds)
    for name, crops in mouths.items():
        found = read_mouths(recipe.data / f"mouths/{name}.npz")[:50].astype(int)
        assert np.abs(found - crops).mean() < 3, f"{name}: not the mouth that was drawn, at row and column {CORNER}"

    video, samples = tmp_path / "meeting.mp4", drawn[0].samples + drawn[2].samples
    points = draw_video(video, [drawn[0], drawn[2]], samples)
    n_samples = len(sound_of(video))
    faces = [Person(f"face{k}", np.arange(50), track, np.concatenate([track.min(1), track.max(1)], axis=1), np.ones(50))
             for k, track in enumerate(points, start=1)]  # fmt: skip
    (tmp_path / "landmarks").mkdir()
    write_people(tmp_path / "landmarks/meeting.npz", faces, -(-n_samples // 640), 512, 256)
    recipe.command(["./separate.sh", video, "--exp_dir", recipe.exp, "--landmarks_dir", tmp_path / "landmarks"])
    tracks = recipe.exp / "separated/meeting/meeting"
    heard = [soundfile.read(tracks / f"{name}.wav")[0] for name in ("face1", "face2", "rest")]
    np.testing.assert_allclose(sum(heard), sound_of(video), atol=1e-3)


class RawVideos:
    """Real clips of 2.2 s, and the same under the names of corpora."""

    def __init__(self, folder: Path, shared_data: Path) -> None:
        self.sources = sorted((shared_data / "grid_video").glob("*.mpg"))
        self.paths = [folder / f"{k}.mp4" for k in range(7)]
        self.samples = [film_clip(path, source, 2.2, Fraction(25), RATE_HZ)
                        for path, source in zip(self.paths, self.sources, strict=False)]  # fmt: skip

    def place(self, root: Path, *names: str, first: int = 0) -> dict[str, np.ndarray]:
        """The clips from the `first` one on under these names below a folder; their sounds by name, with `_` for `/`."""
        sounds = {}
        for number, name in enumerate(names, start=first):
            target = root / f"{name}.mp4"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.paths[number], target)
            sounds[name.replace("/", "_")] = self.samples[number]
        return sounds


@pytest.fixture(scope="module")
def filmed(tmp_path_factory, shared_data) -> RawVideos:
    return RawVideos(tmp_path_factory.mktemp("filmed"), shared_data)


def test_raw_lrs2_by_the_public_gain_lists_ends_in_scores(tmp_path, filmed):
    recipe = Recipe(tmp_path, "lrs2")
    names = [f"{video}/00001" for video in VIDEOS["lrs2"]] + [f"{VIDEOS['lrs2'][5]}/00048"]
    sounds = filmed.place(recipe.raw / "main", *names)
    for split, chosen in (("train", names[:2]), ("val", names[2:4]), ("test", [f"{name} MV" for name in names[4:]])):
        (recipe.raw / f"{split}.txt").write_text("\n".join(chosen))
    pairs = {"tr": [(0, 1)], "cv": [(2, 3)], "tt": [(4, 5), (6, 4)]}
    places = {"/data/mvlrs_v1": recipe.raw, "FILE": WEIGHTS}
    for split, chosen in pairs.items():
        path = places[f"mix_2_spk_{split}.txt"] = tmp_path / f"mix_2_spk_{split}.txt"
        path.write_text("".join(f"/x/main/{names[a]}.wav 1.048 /x/main/{names[b]}.wav -1.048\n" for a, b in chosen))
    command = readme_command("lrs2", './egs/lrs2/run.sh --corpus_dir /data/mvlrs_v1 --corpus_args "--train_gains', places)
    recipe.run(command, "--train_args", TINY)
    groups = [(names[a].replace("/", "_"), names[b].replace("/", "_")) for a, b in pairs["tt"]]
    recipe.check({two_mix_name(group, GAINS_DB): group for group in groups}, sounds)


def test_raw_lrs3_with_drawn_mixtures_ends_in_scores(tmp_path, filmed):
    recipe, videos = Recipe(tmp_path, "lrs3"), VIDEOS["lrs3"]
    sounds = filmed.place(recipe.raw / "trainval", *(f"{video}/00001" for video in videos[:4]))
    sounds |= filmed.place(recipe.raw / "test", *(f"{video}/00048" for video in (*videos[4:], "-----------")), first=4)
    sizes = {"--n_val 2000 --n_test 2000": "--n_val 1 --n_test 2 --val_share 0.5"}
    places = {"/data/lrs3 ": f"{recipe.raw} ", "FILE": WEIGHTS, **sizes}
    recipe.run(readme_command("lrs3", "./egs/lrs3/run.sh --corpus_dir /data/lrs3 ", places), "--train_args", TINY)
    assert len(recipe.drawn_ids()) == 2
    recipe.check(recipe.drawn_ids(), sounds)


@pytest.mark.parametrize("n_src", [2, 3])
def test_the_extraction_familys_list_on_raw_voxceleb2_ends_in_scores(tmp_path, filmed, n_src):
    recipe = Recipe(tmp_path, "voxceleb2")
    names = [video.replace("_", "/", 1) + "/00001" for video in VIDEOS["voxceleb2"]]
    names = [f"{'dev' if k < 4 else 'test'}/{name}" for k, name in enumerate(names)]
    sounds = {name.partition("_")[2]: samples for name, samples in filmed.place(recipe.raw / "mp4", *names).items()}
    for name, samples in zip(names, filmed.samples, strict=False):
        encode_clip(recipe.raw / "aac" / f"{name}.m4a", at_rate(samples, 44100), 44100, None)
    pairs = {2: {"train": [(0, 1)], "val": [(2, 3)], "test": [(4, 5), (5, 4)]},
             3: {"train": [(0, 1, 2)], "val": [(3, 4, 5)], "test": [(4, 5, 3), (5, 3, 4)]}}[n_src]  # fmt: skip
    lines, ids = [], {}
    for split, groups in pairs.items():
        for group in groups:
            clips = [f"train,{names[k].split('/', 2)[1]},{names[k].split('/', 2)[2]},{1.5 * place:g}"
                     for place, k in enumerate(group)]  # fmt: skip
            lines.append(",".join([split, *clips, "2.2"]))
            clip_ids = tuple(names[k].partition("/")[2].replace("/", "_") for k in group)
            ids |= {two_mix_name(clip_ids, (0, 1.5, 3)[:n_src]): clip_ids} if split == "test" else {}
    (tmp_path / "list.csv").write_text("\n".join(lines))
    places = {"/data/voxceleb2/aac": recipe.raw / "aac", "/data/voxceleb2 ": f"{recipe.raw} ", "FILE": WEIGHTS,
              "mixture_data_list_2mix.csv": tmp_path / "list.csv"}  # fmt: skip
    beginning = './egs/voxceleb2/run.sh --corpus_dir /data/voxceleb2 --frontend_weights FILE --nj 8 --corpus_args "--mix'
    conf = "conf/av_tfdprnn.yml" if n_src == 2 else "conf/tse_tfdprnn.yml"
    recipe.run(readme_command("voxceleb2", beginning, places), "--conf", conf, "--train_args", TINY)
    recipe.check(ids, sounds)
    row = recipe.test.items[0]
    assert row.sir_db == pytest.approx(-1.5) and read_manifest(recipe.data / "utterances.csv").items


def test_tcd_timit_at_its_own_rates_trains_the_familys_network(tmp_path, shared_data):
    recipe, sounds = Recipe(tmp_path, "tcd_timit"), {}
    speakers = ("volunteers/01M", "volunteers/02F", "volunteers/03F", "volunteers/04M", "volunteers/05F", "volunteers/06M",
                "lipspeakers/Lipspkr1")  # fmt: skip
    for speaker, source in zip(speakers, sorted((shared_data / "grid_video").glob("*.mpg")), strict=False):
        path = recipe.raw / speaker / "Clips/straightcam/sa1.mp4"
        sounds[f"{Path(speaker).name}_sa1"] = film_clip(path, source, 2.2, Fraction(30000, 1001), 48000)
    places = {"/data/tcd_timit": recipe.raw, "lrw_resnet18_mstcn.pth.tar": WEIGHTS,
              "--n_val 500 --n_test 1000": "--n_val 1 --n_test 2 --val_share 0.25 --test_share 0.4"}  # fmt: skip
    command = readme_command("tcd_timit", "./egs/tcd_timit/run.sh --corpus_dir", places)
    recipe.run(command, "--conf", "conf/tse_dprnn.yml", "--train_args", TINY_TIME_DOMAIN)
    assert len(recipe.drawn_ids()) == 2
    recipe.check(recipe.drawn_ids(), sounds)


def test_grid_as_distributed_ends_in_scores(tmp_path, shared_data):
    recipe, sounds = Recipe(tmp_path, "grid", shared_data / "weights/lr_asd_talkset.model"), {}
    for number, source in enumerate(sorted((shared_data / "grid_video").glob("*.mpg"))[:7], start=1):
        path = recipe.raw / f"s{number}" / ("video/mpg_6000" if number % 2 else "") / f"{source.stem[2:]}.mpg"
        path.parent.mkdir(parents=True)
        shutil.copyfile(source, path)
        sounds[f"s{number}_{path.stem}"] = sound_of(source)
        if number % 3 == 0:
            write_audio(recipe.raw / f"audio_25k/s{number}/{path.stem}.wav", at_rate(sound_of(source), 25000), 25000)
    places = {"/data/GRID": recipe.raw, "dump/weights/lr_asd_talkset.pth.tar": recipe.weights}
    command = readme_command("grid", "./egs/grid/run.sh --corpus_dir /data/GRID --frontend", places)
    shares = "--val_share 0.25 --test_share 0.4"
    recipe.run(command, "--corpus_args", shares, "--train_args", TINY)
    assert len(recipe.drawn_ids()) == 3
    recipe.check(recipe.drawn_ids(), sounds)
