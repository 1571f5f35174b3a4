"""Robustness: conditions against oracles that know what they should give, the numbers against stage 5's, the program."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from separation_helpers import TINY, make_experiment
from tiny_corpus import DIM, FPS, RATE_HZ, make_corpus
from torch import nn

from local_models.networks import build_network
from utils.data.audio import write_wav
from utils.data.files import write_json
from utils.data.manifest import read_manifest, write_manifest
from utils.embedding.store import EmbeddingStore
from utils.errors import UserError
from utils.mixing.levels import power
from utils.scoring.metrics import score_mixture
from utils.tools import robustness
from utils.tools.robustness import (
    ACCURACY,
    ALL_MISSING,
    BOTH_ACCURACY,
    CHANGED_JOINS,
    CLEAN,
    INACTIVE,
    QUIETEST_DB,
    SI_SNR,
    SI_SNRI,
    SI_SNRI_BEST,
    SWAPPED,
    SourceBank,
    Trial,
    all_conditions,
    gate,
    measure,
    noise_draws,
    results,
    score,
    spread,
    statistic,
    table,
)
from utils.training.config import read_config, write_config
from utils.training.experiment import save_model

N_MIXTURES, N_FRAMES, N_SAMPLES = 7, 25, 16000


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Mixtures 0+1, 1+2, ... of eight utterances of three speakers, their embeddings, an experiment and its baseline."""
    root = tmp_path_factory.mktemp("robustness")
    made = make_corpus(root, n_mixtures=N_MIXTURES)
    (root / "dump/embeddings/front").mkdir(parents=True)
    made["store"].rename(root / "dump/embeddings/front/tiny")
    make_experiment(root / "exp/baseline", None)
    conf = read_config("conf/av_tfdprnn.yml", TINY.split()).with_visual_dim(DIM)
    torch.manual_seed(0)
    save_model(root / "exp/av/best_model.pth", build_network(conf.model), {})
    write_config(root / "exp/av/conf.yml", conf)
    record = {"weights": "w", "layer": "trunk", "view": "centre", "store_name": "front", "precision": "float16"}
    write_json(root / "exp/av/frontend.json", record)
    return root


def noise_folder(root: Path) -> Path:
    write_wav(root / "noise/fan.wav", np.random.default_rng(5).standard_normal(700).astype(np.float32), RATE_HZ)
    return root / "noise"


@pytest.fixture
def bank(root) -> SourceBank:
    return SourceBank(read_manifest(root / "data/val.csv"), EmbeddingStore(root / "dump/embeddings/front/tiny"))


@pytest.fixture
def conditions(bank, tmp_path) -> dict:
    return all_conditions(bank, noise_draws(noise_folder(tmp_path), RATE_HZ), 3.0)


@pytest.fixture
def example(bank):
    return bank.example(bank.manifest.items[0])


def examples_of(bank: SourceBank, count: int) -> list[Trial]:
    return [bank.example(item) for item in spread(bank.manifest.items, count)]


class Oracle(nn.Module):
    """Knows each face's source; with `ignores_order` it gives them in an order of its own."""

    def __init__(self, bank: SourceBank, ignores_order: bool = False) -> None:
        super().__init__()
        self.known = [
            (visual, source)
            for item in bank.manifest.items
            for source, visual in zip(bank.example(item).references, bank.example(item).visual, strict=True)
        ]
        self.ignores_order = ignores_order

    def forward(self, mixture: torch.Tensor, visual: torch.Tensor | None) -> torch.Tensor:
        estimates = np.zeros((*visual.shape[:2], mixture.shape[-1]), np.float32)
        for place, row in enumerate(visual.numpy()):
            found = [next(k for k, (known, _) in enumerate(self.known) if np.array_equal(known, face)) for face in row]
            for k, index in enumerate(sorted(found) if self.ignores_order else found):
                estimates[place, k] = self.known[index][1]
        return torch.from_numpy(estimates)


class Fixed(nn.Module):
    """Gives the mixture times `gains`, whatever it sees."""

    def __init__(self, *gains: float) -> None:
        super().__init__()
        self.gains = torch.tensor(gains)

    def forward(self, mixture: torch.Tensor, visual: torch.Tensor | None) -> torch.Tensor:
        return mixture[:, None] * self.gains[:, None]


def separator(network: nn.Module, needs_faces: bool = True) -> SimpleNamespace:
    return SimpleNamespace(network=network, needs_faces=needs_faces, sample_rate=RATE_HZ, fps=float(FPS))


def compact(text: str) -> str:
    """A table without the blanks that align its columns."""
    return re.sub(" {2,}", " ", text)


def level_db(signal: np.ndarray) -> float:
    return 10 * np.log10(power(signal))


def values(scores, condition: str, measure: str) -> list[float]:
    return list(scores[(scores["condition"] == condition) & (scores["measure"] == measure)]["value"])


def test_swapped_faces_give_an_oracle_the_same_score_and_both_accurate(bank, conditions):
    chosen = {name: conditions[name] for name in (CLEAN, SWAPPED)}
    scores = measure(chosen, examples_of(bank, N_MIXTURES), separator(Oracle(bank)))
    for name in (CLEAN, SWAPPED):
        assert set(values(scores, name, ACCURACY)) == {100.0}
        assert min(values(scores, name, SI_SNRI)) > 60
    assert results(scores, chosen)["clean and swapped", BOTH_ACCURACY].model == (100.0, 0.0, N_MIXTURES)
    assert set(scores["mixture"]) == {item.mixture_id for item in bank.manifest.items}


def test_a_network_whose_estimates_do_not_follow_the_faces_is_never_right_both_ways(bank, conditions):
    chosen = {name: conditions[name] for name in (CLEAN, SWAPPED)}
    scores = measure(chosen, examples_of(bank, N_MIXTURES), separator(Oracle(bank, ignores_order=True)))
    assert [100.0 - value for value in values(scores, CLEAN, ACCURACY)] == values(scores, SWAPPED, ACCURACY)
    assert results(scores, chosen)["clean and swapped", BOTH_ACCURACY].model.mean == 0.0


def test_scores_are_those_of_stage_5(example):
    estimates = 0.1 * np.random.default_rng(0).standard_normal((2, N_SAMPLES)) + example.references[::-1]
    trial = example
    for measure_name, permute in ((SI_SNRI, False), (SI_SNRI_BEST, True)):
        rows = score_mixture(example.mixture, example.references, estimates, RATE_HZ, permute)
        expected = np.mean([row["si_snr_imp"] for row in rows])
        assert score(measure_name, estimates, trial) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "by"), [("faces 5 frames late", 5), ("faces 1 frame early", -1), ("faces 5 frames early", -5)]
)
def test_offsets_move_every_face_and_nothing_else(conditions, example, name, by):
    trial = conditions[name].trial(example, seed=0)
    late, early = (trial.visual, example.visual) if by > 0 else (example.visual, trial.visual)
    assert np.array_equal(late[:, abs(by) :], early[:, : N_FRAMES - abs(by)])
    assert np.array_equal(trial.mixture, example.mixture) and np.array_equal(trial.references, example.references)


def test_only_one_face_can_be_late_or_missing(conditions, example):
    late, missing = (conditions[name].trial(example, 0) for name in ("second face 5 frames late", "second face missing"))
    assert np.array_equal(late.visual[0], example.visual[0]) and np.array_equal(missing.visual[0], example.visual[0])
    assert np.array_equal(late.visual[1, 5:], example.visual[1, :-5])
    assert not missing.visual[1].any()


def test_the_share_of_missing_frames_is_the_asked_one(conditions, example):
    wanted = {CLEAN: 0, "25 % of each face's frames missing": round(0.25 * N_FRAMES) / N_FRAMES, ALL_MISSING: 1,
              "50 % of each face's frames missing": round(0.5 * N_FRAMES) / N_FRAMES, "second face missing": 0.5}  # fmt: skip
    trials = {name: conditions[name].trial(example, 0) for name in wanted}
    assert {name: np.mean(~trial.visual.any(axis=-1)) for name, trial in trials.items()} == pytest.approx(wanted)


def test_half_of_the_frames_are_frozen_on_the_one_before(conditions, example):
    trial = conditions["50 % of each face's frames frozen"].trial(example, 0)
    for frozen, visual in zip(trial.visual, example.visual, strict=True):
        assert 0.4 <= np.mean((np.diff(frozen, axis=0) == 0).all(axis=1)) <= 0.6
        assert {tuple(frame) for frame in frozen} < {tuple(frame) for frame in visual}


@pytest.mark.parametrize("noise", ["white noise", "babble of 6 speakers", "noise fan.wav"])
def test_noise_has_the_asked_level_and_is_the_same_at_every_level(conditions, example, noise):
    noises = {}
    for snr_db in (10, 0):
        trial = conditions[f"{noise} at {snr_db} dB"].trial(example, 0)
        noises[snr_db] = trial.mixture - example.mixture
        assert level_db(example.mixture) - level_db(noises[snr_db]) == pytest.approx(snr_db, abs=0.01)
        assert np.array_equal(trial.references, example.references)
    np.testing.assert_allclose(noises[0], noises[10] * 10**0.5, atol=1e-5)


def test_babble_is_made_of_the_utterances_that_are_not_in_the_mixture(bank, conditions, example):
    trial = conditions["babble of 6 speakers at 0 dB"].trial(example, 0)
    utterances = {
        path: source
        for item in bank.manifest.items
        for path, source in zip(item.mouth_paths, bank.example(item).references, strict=True)
    }
    unit = np.stack([source / power(source) ** 0.5 for source in utterances.values()])
    weights = np.linalg.lstsq(unit.T, trial.mixture - example.mixture, rcond=None)[0]
    in_mixture = np.array([path in example.item.mouth_paths for path in utterances])
    assert np.abs(weights[in_mixture]).max() < 1e-3 < weights[~in_mixture].min()
    np.testing.assert_allclose(weights[~in_mixture], weights[~in_mixture].mean(), rtol=1e-2)


def test_babble_is_left_out_where_there_are_too_few_speakers(bank):
    items = bank.manifest.items[:5]
    few = SourceBank(dataclasses.replace(bank.manifest, items=items), bank.store)
    name = "babble of 6 speakers at 0 dB"
    chosen = {CLEAN: all_conditions(few, {}, 3.0)[CLEAN], name: all_conditions(few, {}, 3.0)[name]}
    scores = measure(chosen, examples_of(few, 2), separator(Fixed(1.0, 1.0)))
    assert f"| {name} | SI-SNRi (dB) | – | – | 0 |" in compact(table(results(scores, chosen), "net", ""))


def test_the_third_source_is_of_another_speaker_at_the_mean_level_with_its_own_face(bank, conditions):
    for example in examples_of(bank, 3):
        trial = conditions["three speakers, three faces"].trial(example, 0)
        levels_db = [level_db(source) for source in trial.references]
        assert levels_db[2] == pytest.approx((levels_db[0] + levels_db[1]) / 2, abs=1e-3)
        np.testing.assert_allclose(trial.mixture, trial.references.sum(axis=0), atol=1e-6)
        third = next(path for path in sorted(bank.store.keys()) if np.array_equal(bank.store.get(path), trial.visual[2]))
        speakers = {f"mouths/{index:04d}.npz": f"spk{index % 3}" for index in range(8)}
        assert speakers[third] not in example.item.speakers


def test_with_one_speaker_the_inactive_face_is_measured_against_the_mixture(bank, conditions, example):
    condition = conditions["one speaker, two faces"]
    trial = condition.trial(example, 0)
    assert np.array_equal(trial.mixture, example.references[0]) and len(trial.visual) == 2 and len(trial.references) == 1
    scores = measure({"two": condition}, [example], separator(Fixed(1.0, 0.01)))
    assert values(scores, "two", INACTIVE) == pytest.approx([-40.0], abs=1e-3)
    assert values(scores, "two", SI_SNR)[0] > 100
    silent = measure({"two": condition}, [example], separator(Fixed(1.0, 0.0)))
    assert values(silent, "two", INACTIVE) == [QUIETEST_DB]


def test_faces_that_are_not_shown_are_not_given(conditions, example):
    names = "one speaker, one face", "two speakers, one face (the other off-screen)"
    single, off_screen = (conditions[name].trial(example, 0) for name in names)
    for trial in (single, off_screen):
        assert np.array_equal(trial.visual, example.visual[:1]) and np.array_equal(trial.references, example.references[:1])
    assert np.array_equal(single.mixture, example.references[0]) and np.array_equal(off_screen.mixture, example.mixture)


def test_a_draw_depends_on_the_seed_and_the_mixture(bank, conditions):
    first, second = examples_of(bank, 2)
    noise = [conditions["white noise at 0 dB"].trial(*which).mixture for which in ((first, 0), (first, 0), (first, 1))]
    assert np.array_equal(noise[0], noise[1]) and not np.array_equal(noise[0], noise[2])
    other = conditions["white noise at 0 dB"].trial(second, 0).mixture - second.mixture
    assert abs(np.corrcoef(noise[0] - first.mixture, other)[0, 1]) < 0.1


def test_joined_recordings_keep_a_speaker_on_its_face_where_the_manifest_allows_it(bank):
    pairs = [("A", "B"), ("B", "A")]
    items = tuple(dataclasses.replace(item, speakers=pairs[k % 2]) for k, item in enumerate(bank.manifest.items))
    couples = SourceBank(dataclasses.replace(bank.manifest, items=items), bank.store)
    recording = couples.joined(N_MIXTURES, couples.example(items[0]), np.random.default_rng(0))
    assert recording.changed_joins == 0 and recording.references.shape == (2, N_MIXTURES * N_SAMPLES)
    of_a = [bank.store.get(item.mouth_paths[item.speakers.index("A")]) for item in items]
    heard = recording.visual[0].reshape(N_MIXTURES, N_FRAMES, DIM)
    assert sorted(map(bytes, heard)) == sorted(map(bytes, of_a))  # each mixture once, A always on the first face


def test_joined_recordings_say_how_often_a_speaker_changes(bank, conditions):
    example = bank.example(bank.manifest.items[0])
    strangers = tuple(dataclasses.replace(item, speakers=("", "")) for item in bank.manifest.items)
    unknown = SourceBank(dataclasses.replace(bank.manifest, items=strangers), bank.store)
    joined = unknown.joined(2.5, unknown.example(strangers[0]), np.random.default_rng(0))
    assert joined.changed_joins == 1.0 and score(CHANGED_JOINS, joined.references, joined) == 100.0
    cut = bank.joined(0.6, example, np.random.default_rng(0))
    assert (
        np.isnan(cut.changed_joins)
        and np.array_equal(cut.references, example.references[:, :9600])
        and cut.visual.shape[1] == 15
    )


def test_long_recordings_go_through_windows_and_are_as_long_as_before(bank, conditions, example):
    trial = conditions["recordings of 30 s"].trial(example, 0)
    assert trial.mixture.shape == (30 * RATE_HZ,) and trial.visual.shape == (2, 30 * FPS, DIM)
    heard = []
    network = Fixed(1.0, 1.0)
    network.register_forward_pre_hook(lambda _, inputs: heard.append(inputs[0].shape[-1]))
    estimates = robustness.separate(separator(network), trial)
    assert heard == [8 * RATE_HZ] * 5
    np.testing.assert_allclose(estimates, np.stack([trial.mixture] * 2), atol=1e-6)


def test_the_baseline_gets_the_mixtures_of_the_network_without_faces_and_is_scored_in_the_best_order(bank, conditions):
    class Reversed(nn.Module):
        def forward(self, mixture, visual):
            assert visual is None
            sources = {bytes(example.mixture): example.references for example in examples_of(bank, N_MIXTURES)}
            return torch.from_numpy(np.stack([sources[bytes(row)][::-1] for row in mixture.numpy()]))

    chosen = {name: conditions[name] for name in (CLEAN, ALL_MISSING, "one speaker, one face")}
    baseline = separator(Reversed(), needs_faces=False)
    scores = measure(chosen, examples_of(bank, 3), separator(Fixed(1.0, 1.0)), baseline)
    rows = results(scores, chosen)
    clean = rows[CLEAN, SI_SNRI].baseline
    assert clean.mean > 60 and clean.n == 3 and rows[ALL_MISSING, SI_SNRI_BEST].baseline == clean
    assert rows["one speaker, one face", SI_SNR].baseline.n == 0 == rows[CLEAN, ACCURACY].baseline.n
    assert f"missing: 0.00 ± 0.00 dB, baseline {clean.mean:.2f}" in gate(scores)  # the mixture itself improves nothing
    assert f"difference {-clean.mean:.2f} ± " in gate(scores)


def test_mixtures_without_a_value_are_counted_and_not_averaged(conditions):
    rows = [(CLEAN, SI_SNRI, "a", 3.0, np.nan), (CLEAN, SI_SNRI, "b", np.nan, np.nan),
            (CLEAN, ACCURACY, "a", 100.0, np.nan), (CLEAN, ACCURACY, "b", 0.0, np.nan)]  # fmt: skip
    scores = pd.DataFrame(rows, columns=["condition", "measure", "mixture", "value", "baseline"])
    text = table(results(scores, {CLEAN: conditions[CLEAN]}), "net", "")
    assert "| clean | SI-SNRi (dB) | 3.00 | – | 1 of 2 |" in compact(text)
    assert "| clean | assignment accuracy (%) | 50.00 ± 50.00 | – | 2 |" in compact(text)
    assert statistic(pd.Series([], dtype=float)) == (None, None, 0)


def test_a_silent_estimate_has_no_improvement(example):
    trial = example
    assert np.isnan(score(SI_SNRI, np.stack([example.references[0], np.zeros(N_SAMPLES)]), trial))
    assert score(ACCURACY, np.stack([example.references[0], np.zeros(N_SAMPLES)]), trial) == 0.0


def test_accuracy_asks_of_every_estimate_which_source_is_nearest(example):
    trial = example
    first, second = (source / power(source) ** 0.5 for source in example.references)
    assert score(ACCURACY, np.stack([first + 0.1 * second, second + 0.9 * first]), trial) == 100.0
    assert score(ACCURACY, np.stack([first + 0.1 * second, 0.9 * second + first]), trial) == 0.0


def test_a_silent_noise_is_named_before_anything_is_measured(tmp_path) -> None:
    write_wav(tmp_path / "hum.wav", np.full(700, 1e-5, np.float32), RATE_HZ)
    with pytest.raises(UserError, match="--noise_dir: .*hum.wav is silent in 20 stretches"):
        noise_draws(tmp_path, RATE_HZ)


def test_a_noise_file_is_tried_by_itself(tmp_path, example) -> None:
    for number in (1, 2):
        write_wav(tmp_path / f"{number}.wav", np.full(700, 0.1 * number, np.float32), RATE_HZ)
    draws = noise_draws(tmp_path, RATE_HZ)
    stretches = {name: draw(example, np.random.default_rng(0)) for name, draw in draws.items()}
    assert {name: round(float(stretch[0]), 3) for name, stretch in stretches.items()} == {
        "noise 1.wav": 0.1,
        "noise 2.wav": 0.2,
    }
    assert {stretch.shape for stretch in stretches.values()} == {(N_SAMPLES,)}


def test_chosen_mixtures_are_spread_over_the_manifest():
    assert spread(list(range(10)), 5) == [0, 2, 4, 6, 8]
    assert spread((1, 2), 40) == [1, 2]


@pytest.fixture
def program(root, tmp_path, monkeypatch):
    def run(**more) -> Path:
        options = {"exp_dir": root / "exp/av", "manifest": root / "data/val.csv", "dump_dir": root / "dump"}
        options |= {"max_mixtures": 2, "threads": 1, "out_dir": tmp_path / "out"} | more
        words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
        monkeypatch.setattr(sys, "argv", ["robustness", *words])
        assert robustness.main() == 0
        return tmp_path / "out"

    return run


def test_the_program_writes_table_numbers_and_picture(root, tmp_path, monkeypatch, program, capsys):
    monkeypatch.setattr(robustness, "LENGTHS_SEC", (1, 3))
    more = {"baseline_exp_dir": root / "exp/baseline", "noise_dir": noise_folder(tmp_path)}
    out = program(**more, results=tmp_path / "R.md", section="robustness-tiny")
    text = (out / "robustness.md").read_text("utf-8")
    assert text in capsys.readouterr().out
    assert "| av | baseline | n |" in compact(text) and "noise fan.wav at 10 dB" in text and CHANGED_JOINS in text
    assert "**All faces missing: " in text and ", baseline " in text and "2 of the 7 mixtures" in text
    assert f"<!-- begin robustness-tiny -->\n{text.strip()}\n" in (tmp_path / "R.md").read_text("utf-8")
    assert (out / "robustness.png").stat().st_size > 10_000
    numbers = json.loads((out / "robustness.json").read_text("utf-8"))
    clean = next(row for row in numbers["rows"] if row["condition"] == CLEAN and row["measure"] == SI_SNRI)
    swapped = next(row for row in numbers["rows"] if row["condition"] == SWAPPED and row["measure"] == SI_SNRI)
    assert swapped["model"]["mean"] == pytest.approx(clean["model"]["mean"], abs=1e-3)  # the estimates swap exactly
    assert clean["n_trials"] == 2


def test_mistakes_end_in_one_line_that_names_the_remedy(root, tmp_path, program):
    bare = read_manifest(root / "data/val.csv")
    items = [dataclasses.replace(item, source_paths=("", "")) for item in bare.items]
    common = {"corpus": "tiny", "split": "bare", "data_root": root, "sample_rate": RATE_HZ, "n_src": 2}
    write_manifest(tmp_path / "bare.csv", items=items, **common)
    faceless = [dataclasses.replace(item, mouth_paths=(item.mouth_paths[0], "")) for item in bare.items]
    write_manifest(tmp_path / "faceless.csv", items=faceless, **common)
    write_manifest(tmp_path / "slow.csv", items=[dataclasses.replace(i, fps=30.0) for i in bare.items], **common)
    write_manifest(tmp_path / "rate.csv", items=bare.items, **common | {"sample_rate": 8000})
    (tmp_path / "empty").mkdir()
    mistakes = [
        ({"exp_dir": root / "exp/baseline"}, "audio-only"),
        ({"exp_dir": root / "exp/none"}, "stage 3 makes it"),
        ({"baseline_exp_dir": root / "exp/av"}, "needs faces itself"),
        ({"manifest": tmp_path / "bare.csv"}, "without sources"),
        ({"manifest": root / "data/utterances.csv"}, "without sources"),
        ({"manifest": tmp_path / "faceless.csv"}, "row 2: a source without a mouth"),
        ({"manifest": tmp_path / "slow.csv"}, "30 frames/s"),
        ({"manifest": tmp_path / "rate.csv"}, "8000 Hz where"),
        ({"dump_dir": tmp_path}, "stage 2"),
        ({"noise_dir": tmp_path / "empty"}, "no .wav or .flac files"),
        ({"max_mixtures": 1}, "at least 2"),
        ({"section": "two words"}, "section 'two words'"),
        ({"device": "nothing"}, "no such device"),
    ]
    for options, reason in mistakes:
        with pytest.raises(UserError, match=reason) as caught:
            program(**options)
        assert "\n" not in str(caught.value)


def test_options_are_checked_before_torch_is_there():
    code = "import sys, utils.tools.robustness; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
