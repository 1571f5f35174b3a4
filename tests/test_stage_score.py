"""Stage 5: from separated voices to tables, on small synthetic voices and on real ones."""

import csv
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from utils.data.audio import write_wav
from utils.data.estimates import ORDER_UNKNOWN
from utils.errors import UsageError, UserError
from utils.stages import score

RATE_HZ = 16000


def voice(seed: int, seconds: float = 0.8) -> np.ndarray:
    """Noise modulated like syllables, (time,)."""
    rng = np.random.default_rng(seed)
    time_sec = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    return 0.1 * rng.standard_normal(len(time_sec)) * (0.02 + np.sin(2 * np.pi * 1.5 * time_sec + seed) ** 2)


def write(path: Path, samples: np.ndarray, rate_hz: int = RATE_HZ) -> Path:
    write_wav(path, samples.astype(np.float32), rate_hz)
    return path


def make_folders(root: Path, n_mixtures: int = 2, n_src: int = 2, rest: float = 0.1) -> tuple[Path, Path, Path]:
    """mixtures/, references/s<k>/ and estimates/s<k>/ with `rest` of the other voices in each estimate."""
    for n in range(n_mixtures):
        voices = [voice(10 * n + k) for k in range(n_src)]
        write(root / "mixtures" / f"000{n}.wav", sum(voices))
        for k, one in enumerate(voices, start=1):
            write(root / "references" / f"s{k}" / f"000{n}.wav", one)
            write(root / "estimates" / f"s{k}" / f"000{n}.wav", one + rest * (sum(voices) - one))
    return root / "mixtures", root / "references", root / "estimates"


def make_experiment(root: Path, n_mixtures: int = 2, subsets: tuple[str, ...] = ("",), by: str = "avdprnn") -> Path:
    """exp/ with separated/test as stage 4 writes it."""
    mixtures, references, estimates = make_folders(root / "corpus", n_mixtures)
    folder = root / "exp" / "separated" / "test"
    shutil.copytree(estimates, folder)
    write_separated(folder, mixtures, references, n_mixtures, subsets, by)
    return root / "exp"


def write_separated(
    folder: Path,
    mixtures: Path,
    references: Path,
    n_mixtures: int,
    subsets: tuple[str, ...] = ("",),
    by: str = "avdprnn",
) -> None:
    names = "mixture_ID mixture_path source_1_path source_2_path estimate_1_path estimate_2_path subset separated_by"
    with open(folder / "separated.csv", "w", newline="", encoding="utf-8") as handle:
        rows = csv.writer(handle)
        rows.writerow(names.split())
        for n in range(n_mixtures):
            file = f"000{n}.wav"
            sources = [references / "s1" / file, references / "s2" / file]
            paths = [mixtures / file, *sources, f"s1/{file}", f"s2/{file}"]
            rows.writerow([f"000{n}", *paths, subsets[n % len(subsets)], by])


def run(monkeypatch: pytest.MonkeyPatch, *options: object) -> int:
    monkeypatch.setattr(sys, "argv", ["score", *map(str, options)])
    return score.main()


def run_folders(monkeypatch, root: Path, *more: object) -> int:
    options = ["--reference_dir", root / "references", "--estimate_dir", root / "estimates", "--out_dir", root / "out"]
    return run(monkeypatch, "--mixture_dir", root / "mixtures", *options, "--nj", 1, *more)


def read_rows(out_dir: Path) -> list[dict[str, str]]:
    with open(out_dir / "all_metrics.csv", newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def read_final(out_dir: Path) -> dict:
    return json.loads((out_dir / "final_metrics.json").read_text())


def failures(out_dir: Path) -> list[dict[str, str]]:
    with open(out_dir / "failed.csv", newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def test_an_experiment_is_scored_by_subset_and_a_second_call_does_nothing(tmp_path, monkeypatch, capsys, caplog):
    caplog.set_level("INFO")
    exp = make_experiment(tmp_path, n_mixtures=3, subsets=("same_voice", "", ""))
    (exp / "training.json").write_text('{"seed": 7, "epochs": 2}')
    (exp / "separated" / "test" / "failed.csv").write_text("row,id,path,reason\n5,x,m.npz,missing\n")
    out = exp / "results" / "test"
    assert run(monkeypatch, "--exp_dir", exp, "--test_name", "test") == 0
    assert "SI-SNRi" in capsys.readouterr().out
    final, rows = read_final(out), read_rows(out)
    assert [(row["mixture_ID"], row["speaker"]) for row in rows[:4]] == [
        ("0000", "1"), ("0000", "2"), ("0000", "mean"), ("0001", "1"),
    ]  # fmt: skip
    assert len(rows) == 9
    means = [float(row["si_snr_imp"]) for row in rows if row["speaker"] == "mean"]
    assert final["overall"]["n"] == 3
    assert final["overall"]["metrics"]["si_snr_imp"]["mean"] == pytest.approx(np.mean(means), abs=1e-5)
    error = np.std(means, ddof=1) / np.sqrt(3)
    assert final["overall"]["metrics"]["si_snr_imp"]["standard_error"] == pytest.approx(error, abs=1e-5)
    assert {name: group["n"] for name, group in final["subsets"].items()} == {"same_voice": 1, "(unmarked)": 2}
    text = (out / "RESULTS.md").read_text()
    for part in ("same_voice, unprocessed", "training, seed: 7", "1 mixtures were not separated", "BSS Eval v3", "git:"):
        assert part in text
    assert (out / "histogram.png").read_bytes().startswith(b"\x89PNG")
    info = soundfile.info(out / "examples" / "0000_s1_estimate.wav")
    assert (info.subtype, info.samplerate) == ("PCM_16", RATE_HZ)
    peak = np.abs(soundfile.read(out / "examples" / "0000_mixture.wav")[0]).max()
    assert peak == pytest.approx(0.9, abs=1e-3)

    before = (out / "RESULTS.md").stat().st_mtime_ns
    assert run(monkeypatch, "--exp-dir", exp, "--test-name", "test") == 0
    assert "up to date" in caplog.text and str(out) in caplog.text
    assert (out / "RESULTS.md").stat().st_mtime_ns == before


def test_changed_estimates_are_scored_again_and_replace_the_rows(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    make_folders(tmp_path, n_mixtures=3)
    assert run_folders(monkeypatch, tmp_path) == 0
    first = read_rows(tmp_path / "out")
    for k in (1, 2):
        write(tmp_path / "estimates" / f"s{k}" / "0001.wav", voice(10) + voice(11))
        shutil.copy(tmp_path / "mixtures" / "0001.wav", tmp_path / "estimates" / f"s{k}" / "0001.wav")
    assert run_folders(monkeypatch, tmp_path) == 0
    assert "changed since the last scoring: audio" in caplog.text
    assert "2 of 3 mixtures were done before" in caplog.text
    second = read_rows(tmp_path / "out")
    assert len(second) == len(first) == 9
    assert len((tmp_path / "out" / "eval.txt").read_text().splitlines()) == 3 + 7  # rows and means, not appended
    assert [row for row in second if row["mixture_ID"] != "0001"] == [r for r in first if r["mixture_ID"] != "0001"]
    changed = [row for row in second if row["mixture_ID"] == "0001"]
    for row in changed:  # the mixture as estimate: not better, not worse
        assert {row[name] for name in row if name.endswith("_imp")} == {"0.0"}


def test_voices_whose_order_nobody_knows_are_put_in_the_best_order(tmp_path, monkeypatch):
    exp = make_experiment(tmp_path, by=f"dprnn {ORDER_UNKNOWN}")
    folder = exp / "separated" / "test"
    for left, right in ((folder / "s1", folder / "s2"),):
        left.rename(folder / "other")
        right.rename(left)
        (folder / "other").rename(right)
    assert run(monkeypatch, "--exp_dir", exp, "--test_name", "test", "--nj", 1) == 0
    final = read_final(exp / "results" / "test")
    assert final["n_order_unknown"] == 2 and final["overall"]["metrics"]["si_snr"]["mean"] > 15
    assert "no face told the sources' order" in (exp / "results" / "test" / "RESULTS.md").read_text()


def test_the_cue_test_tells_a_network_that_follows_the_faces_from_one_that_does_not(tmp_path, monkeypatch):
    exp = make_experiment(tmp_path, n_mixtures=2)
    folder = exp / "separated" / "test"
    corpus = tmp_path / "corpus"
    for n in range(2):  # 0000 follows the swapped faces, 0001 does not
        order = (2, 1) if n == 0 else (1, 2)
        for k, source in enumerate(order, start=1):
            for cues in ("cues_swapped", "cues_shuffled"):
                target = folder / cues / f"s{k}" / f"000{n}.wav"
                target.parent.mkdir(parents=True, exist_ok=True)
                mixture_as_estimate = corpus / "mixtures" / f"000{n}.wav"
                shutil.copy(folder / f"s{source}" / f"000{n}.wav" if cues == "cues_swapped" else mixture_as_estimate, target)
    for cues in ("cues_swapped", "cues_shuffled"):
        write_separated(folder / cues, corpus / "mixtures", corpus / "references", 2)
    assert run(monkeypatch, "--exp_dir", exp, "--test_name", "test", "--nj", 1) == 0
    cue_test = read_final(exp / "results" / "test")["cue_test"]
    assert cue_test["n"] == 2
    assert cue_test["own"]["si_snr_imp"] > 15 and cue_test["own"]["assignment_accuracy"] == 1.0
    assert cue_test["swapped"]["si_snr_imp"] == pytest.approx(cue_test["swapped"]["si_snr_imp_swapped_references"], abs=3)
    assert cue_test["swapped"]["assignment_accuracy"] == cue_test["both_assignments_accuracy"] == 0.5
    assert cue_test["shuffled"]["si_snr_imp"] == pytest.approx(0.0, abs=1e-6)
    assert "Correct with their own faces and with swapped ones: 50.0%" in (exp / "results/test/RESULTS.md").read_text()


def test_without_references_it_says_which_columns_are_missing_and_succeeds(tmp_path, monkeypatch, caplog):
    exp = make_experiment(tmp_path)
    path = exp / "separated" / "test" / "separated.csv"
    rows = list(csv.DictReader(path.read_text().splitlines()))
    with open(path, "w", newline="") as handle:
        table = csv.DictWriter(handle, rows[0])
        table.writeheader()
        table.writerows(row | {"source_1_path": "", "source_2_path": ""} for row in rows)
    assert run(monkeypatch, "--exp_dir", exp, "--test_name", "test") == 0
    assert "cannot score test: no references (source_1_path, source_2_path absent or empty" in caplog.text
    path.write_text("mixture_ID,mixture_path,estimate_1_path,estimate_2_path\n0000,m.wav,s1/0000.wav,s2/0000.wav\n")
    assert run(monkeypatch, "--exp_dir", exp, "--test_name", "test") == 0
    assert not (exp / "results").exists()


def test_permutation_is_fixed_unless_asked_for(tmp_path, monkeypatch):
    _, _, estimates = make_folders(tmp_path, n_mixtures=1)
    (estimates / "s1").rename(estimates / "x")
    (estimates / "s2").rename(estimates / "s1")
    (estimates / "x").rename(estimates / "s2")
    assert run_folders(monkeypatch, tmp_path) == 0
    assert read_final(tmp_path / "out")["overall"]["metrics"]["si_snr_imp"]["mean"] < 0
    assert run_folders(monkeypatch, tmp_path, "--permute", "true") == 0
    assert read_final(tmp_path / "out")["overall"]["metrics"]["si_snr_imp"]["mean"] > 15
    assert [row["estimate"] for row in read_rows(tmp_path / "out")] == ["2", "1", ""]


def test_three_speakers_in_other_formats_match_by_stem_without_mixtures(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    _, references, estimates = make_folders(tmp_path, n_mixtures=1, n_src=3)
    for path in references.glob("s*/*.wav"):
        soundfile.write(path.with_suffix(".flac"), *soundfile.read(path))
        path.unlink()
    (references / "s1" / "notes.txt").write_text("a stray file")
    out = tmp_path / "out"
    folders = ["--reference_dir", references, "--estimate_dir", estimates, "--out_dir", out]
    assert run(monkeypatch, *folders, "--nj", 1) == 0
    assert [row["speaker"] for row in read_rows(out)] == ["1", "2", "3", "mean"]
    assert "si_snr_imp" not in read_final(out)["overall"]["metrics"]
    assert "No mixtures were given" in (out / "RESULTS.md").read_text() and "no improvements" in caplog.text


def test_what_cannot_be_scored_is_listed_with_its_reason_and_the_rest_is_scored(tmp_path, monkeypatch):
    mixtures, references, estimates = make_folders(tmp_path, n_mixtures=8)
    (estimates / "s2" / "0000.wav").unlink()
    stereo = np.stack([voice(10), voice(11)], axis=1)
    soundfile.write(references / "s1" / "0001.wav", stereo, RATE_HZ)
    write(estimates / "s1" / "0002.wav", voice(20)[::2], 8000)
    write(estimates / "s1" / "0003.wav", voice(30)[:-401])
    write(estimates / "s1" / "0004.wav", voice(40)[:-400])
    (mixtures / "0005.wav").write_bytes(b"not audio")
    shutil.copy(references / "s1" / "0006.wav", references / "s1" / "0006.mp3")
    with pytest.raises(UserError, match=r"6 mixtures could not be scored \(--max_failed 0\)"):
        run_folders(monkeypatch, tmp_path)
    reasons = {row["id"]: row["reason"] for row in failures(tmp_path / "out")}
    assert set(reasons) == {"0000", "0001", "0002", "0003", "0005", "0006"}
    assert "estimates/s2 holds no file named 0000" in reasons["0000"]
    assert "2 channels" in reasons["0001"] and str(references / "s1" / "0001.wav") in reasons["0001"]
    assert "s1/0002.wav at 8000 Hz" in reasons["0002"]
    assert "differ by more than 25 ms" in reasons["0003"] and "12399 samples" in reasons["0003"]
    assert "cannot be read as audio" in reasons["0005"]
    assert "which one is meant" in reasons["0006"]
    rows = read_rows(tmp_path / "out")
    assert [row["mixture_ID"] for row in rows if row["speaker"] == "mean"] == ["0004", "0007"]
    assert rows[0]["trimmed_samples"] == "400"
    text = (tmp_path / "out" / "RESULTS.md").read_text()
    assert "6 mixtures could not be scored" in text and "In 1 mixtures the files' lengths differed" in text
    assert run_folders(monkeypatch, tmp_path, "--max_failed", 6) == 0


def test_a_silent_estimate_and_a_short_mixture_are_nan_counted_with_reasons(tmp_path, monkeypatch):
    make_folders(tmp_path, n_mixtures=2)
    write(tmp_path / "estimates" / "s1" / "0000.wav", np.zeros(len(voice(0))))
    for path in tmp_path.glob("*/**/0001.wav"):
        write(path, soundfile.read(path)[0][:2000])
    assert run_folders(monkeypatch, tmp_path) == 0
    final, rows = read_final(tmp_path / "out"), read_rows(tmp_path / "out")
    assert final["nan_reasons"]["si_snr"] == {"the estimate is silent": 1}
    assert final["overall"]["metrics"]["si_snr"]["nan"] == 1
    assert final["overall"]["metrics"]["pesq_wb"]["nan"] == 3
    assert rows[0]["si_snr"] == "" and "si_snr: the estimate is silent" in rows[0]["reasons"]
    assert float(rows[2]["si_snr"]) == pytest.approx(float(rows[1]["si_snr"]))  # the mean of what there is
    assert "si_snr: 1 x the estimate is silent" in (tmp_path / "out" / "RESULTS.md").read_text()


def test_eight_kilohertz_is_scored_without_wide_band_pesq(tmp_path, monkeypatch):
    make_folders(tmp_path, n_mixtures=1)
    for path in tmp_path.glob("*/**/0000.wav"):
        write(path, soundfile.read(path)[0], 8000)
    assert run_folders(monkeypatch, tmp_path) == 0
    final = read_final(tmp_path / "out")
    assert final["sample_rates_hz"] == [8000]
    assert final["overall"]["metrics"]["pesq_wb"]["mean"] is None
    assert final["overall"]["metrics"]["pesq_nb"]["mean"] > 1
    assert final["nan_reasons"]["pesq_wb"] == {"PESQ wb is defined at 16000 Hz, not at 8000 Hz": 2}


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def wait_until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def test_a_killed_run_leaves_no_process_and_the_next_one_has_the_same_results(tmp_path, monkeypatch, caplog, repo_root):
    caplog.set_level("INFO")
    exp = make_experiment(tmp_path, n_mixtures=5)
    out = exp / "results" / "test"
    options = ["--exp_dir", exp, "--test_name", "test", "--nj", "1"]
    process = subprocess.Popen([sys.executable, "-m", "utils.stages.score", *map(str, options)], cwd=repo_root)
    journal = out / ".scored.jsonl"
    wait_until(lambda: journal.is_file() and journal.read_text().count("\n") >= 2)
    workers = children_of(process.pid)
    process.kill()
    process.wait()
    n_before = journal.read_text().count("\n")
    assert workers and not (out / "all_metrics.csv").exists()
    wait_until(lambda: not any(is_running(pid) for pid in workers), seconds=20)
    assert run(monkeypatch, *options) == 0
    assert n_before == 5 or f"{n_before} of 5 mixtures were done before" in caplog.text
    resumed = (out / "all_metrics.csv").read_text()
    assert run(monkeypatch, *options, "--force") == 0
    assert (out / "all_metrics.csv").read_text() == resumed
    assert not list(out.glob(".tmp-*"))


def test_wrong_paths_and_options_fail_at_once_naming_the_remedy(tmp_path, monkeypatch, repo_root):
    with pytest.raises(UserError, match=r"separated.csv: no such file; stage 4"):
        run(monkeypatch, "--exp_dir", tmp_path, "--test_name", "test")
    with pytest.raises(UsageError, match="not both"):
        run(monkeypatch, "--exp_dir", tmp_path, "--test_name", "test", "--out_dir", tmp_path)
    with pytest.raises(UsageError, match="--reference_dir, --estimate_dir and --out_dir"):
        run(monkeypatch, "--exp_dir", tmp_path)
    _, references, estimates = make_folders(tmp_path, n_mixtures=1)
    shutil.rmtree(estimates / "s2")
    with pytest.raises(UserError, match="holds s1, s2, .* holds s1; give both the same"):
        run_folders(monkeypatch, tmp_path)
    code = "import sys, utils.stages.score; print([m for m in ('torch', 'pandas', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=repo_root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_repeated_id_or_unequal_numbers_of_voices_in_the_list_is_an_error(tmp_path, monkeypatch):
    exp = make_experiment(tmp_path, n_mixtures=1)
    path = exp / "separated" / "test" / "separated.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1]]) + "\n")
    with pytest.raises(UserError, match="mixture_ID 0000 is listed twice"):
        run(monkeypatch, "--exp_dir", exp, "--test_name", "test")
    path.write_text("\n".join(line.replace("source_2_path", "other") for line in lines) + "\n")
    with pytest.raises(UserError, match="1 references but 2 estimates"):
        run(monkeypatch, "--exp_dir", exp, "--test_name", "test")


def test_real_mixtures_as_estimates_improve_by_nothing(tmp_path, monkeypatch, shared_data):
    audio = shared_data / "grid_dla" / "audio" / "test"
    chosen = sorted((audio / "mix").iterdir())[:2]
    for path in chosen:
        for source, target in (("mix", "mixtures"), ("s1", "references/s1"), ("s2", "references/s2")):
            (tmp_path / target).mkdir(parents=True, exist_ok=True)
            shutil.copy(next((audio / source).glob(f"{path.stem}.*")), tmp_path / target)
        for k in ("s1", "s2"):
            (tmp_path / "estimates" / k).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / "estimates" / k)
    assert run_folders(monkeypatch, tmp_path) == 0
    metrics = read_final(tmp_path / "out")["overall"]["metrics"]
    assert {metrics[name]["mean"] for name in metrics if name.endswith("_imp")} == {0.0}
    assert metrics["si_snr"]["nan"] == metrics["pesq_wb"]["nan"] == 0
