"""The page in a real Chromium without a screen, whose network ends at 127.0.0.1: upload, progress, what is heard, downloads."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

pytest.importorskip("gradio", reason="needs requirements-demo.txt")
pytest.importorskip("selenium", reason="needs requirements-dev.txt")
CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
if not (CHROMIUM and DRIVER):
    pytest.skip("needs chromium and chromium-driver of the system", allow_module_level=True)

from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

from utils.data.audio import read_audio, write_wav  # noqa: E402
from utils.page.jobs import RESULT_WORDS  # noqa: E402
from utils.video.containers import sound_start  # noqa: E402
from utils.video.decoding import probe_video, read_pictures  # noqa: E402
from utils.video.preview import write_video  # noqa: E402
from utils.video.sound import extract_sound  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
RATE_HZ = 16_000
HEARD_SAMPLES = 4096
MOST_APART_SEC = 0.04  # a picture
BEGIN_TO_LISTEN = f"""
window.ear = player.context.createAnalyser();
window.ear.fftSize = {HEARD_SAMPLES};
player.master.connect(window.ear);
"""
LISTEN = f"""
const samples = new Float32Array({HEARD_SAMPLES});
window.ear.getFloatTimeDomainData(samples);
return [Array.from(samples), player.state(), player.latencySec];
"""


def wait_until(is_so: Callable[[], object], seconds: float = 60.0):
    end = time.monotonic() + seconds
    while not (found := is_so()):
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.1)
    return found


@pytest.fixture(scope="module")
def two_faces(shared_data, tmp_path_factory) -> Path:
    """Two speakers of GRID side by side, both talking."""
    folder = tmp_path_factory.mktemp("video")
    clips = [shared_data / "grid_video" / name for name in ("s1bgbh4n.mpg", "g2brbk7n.mpg")]
    sounds = []
    for clip in clips:
        extract_sound(clip, folder / "sound.wav")
        sounds.append(read_audio(folder / "sound.wav", sample_rate=RATE_HZ))
    length = min(map(len, sounds))
    write_wav(folder / "sound.wav", sum(0.45 * sound[:length] / np.abs(sound).max() for sound in sounds), RATE_HZ)
    pairs = zip(*(read_pictures(clip, 75) for clip in clips), strict=True)
    pictures = (np.hstack([picture for _, picture in pair]) for pair in pairs)
    write_video(folder / "zwei – 二人.mp4", pictures, folder / "sound.wav", 720, 288)
    return folder / "zwei – 二人.mp4"


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[SimpleNamespace]:
    """A server: `url`, and `root`, the folder with everybody's files."""
    folder = tmp_path_factory.mktemp("tmp")
    words = ("--exp_dir", "egs/own_video/pretrained", "--port", "0", "--max_minutes", "1")
    command = [sys.executable, "-m", "utils.page.server", *words]
    server = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True
    )
    url = next(match[0] for text in server.stderr if (match := re.search(r"http://127\.0\.0\.1:\d+/", text)))
    with open(folder / "log", "w") as log:
        drain = subprocess.Popen(["cat"], stdin=server.stderr, stdout=log)
        yield SimpleNamespace(url=url, root=next(folder.glob("avsep-page-*")), log=folder / "log")
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == -signal.SIGTERM
        drain.wait()
        server.stderr.close()
    assert not list(folder.glob("avsep-page-*"))


@pytest.fixture(scope="module")
def browser(page, tmp_path_factory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1100,1200",
                 "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", "--use-fake-device-for-media-stream",
                 "--use-fake-ui-for-media-stream", f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):  # fmt: skip
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    browser.set_script_timeout(30)
    yield browser
    browser.quit()


def find(browser, selector: str):
    found = browser.find_elements(By.CSS_SELECTOR, selector)
    return found[0] if found else None


def visit(browser, page) -> None:
    browser.get(page.url)
    wait_until(lambda: find(browser, "#source input[type=file]"))


def upload(browser, path: Path) -> None:
    find(browser, "#source input[type=file]").send_keys(str(path))


def shown(browser) -> str:
    return find(browser, "#shown").text


def play_from(browser, seconds: float) -> None:
    browser.execute_script("player.video.pause(); player.video.currentTime = arguments[0]", seconds)
    wait_until(lambda: not browser.execute_script("return player.video.seeking"))
    find(browser, ".player video").send_keys(Keys.SPACE)  # as a user does: sound needs a gesture
    wait_until(lambda: browser.execute_script("return player.state().isPlaying"))


def heard(browser, seconds: float = 0.5) -> tuple[np.ndarray, float]:
    """What is heard after so much more of the video, and where it is then; looks that all tracks are at one place."""
    goal = browser.execute_script("return player.video.currentTime") + seconds
    wait_until(lambda: browser.execute_script("return player.video.currentTime") > goal)
    samples, state, latency_sec = browser.execute_script(LISTEN)
    places = {track["position"] for track in state["tracks"]}
    assert len(places) == 1 and abs(places.pop() - state["time"]) < MOST_APART_SEC
    return np.array(samples), state["time"] + latency_sec


def likeness(samples: np.ndarray, track: np.ndarray, end_sec: float) -> tuple[float, float]:
    """How much the samples resemble the best place of a track, up to 1; and how far that is from where they should end, s."""
    products = np.correlate(track, samples, "valid")
    energies = np.convolve(track**2, np.ones(len(samples)), "valid")
    found = products / np.sqrt(np.maximum(energies * np.sum(samples**2), 1e-12))
    best = int(np.argmax(found))
    return float(found[best]), (best + len(samples)) / RATE_HZ - end_sec


@pytest.fixture(scope="module")
def result(browser, page, two_faces) -> SimpleNamespace:
    """The page after a job, with what it said on the way and the files that it made."""
    visit(browser, page)
    assert "At most 1 minute and 500 MB" in browser.page_source
    upload(browser, two_faces)
    said = []

    toasts = set()

    def is_done() -> bool:
        said.append(shown(browser))
        toasts.update(element.text for element in browser.find_elements(By.CSS_SELECTOR, ".toast-body"))
        return bool(find(browser, ".player, .failure"))

    wait_until(is_done, 300)
    wait_until(lambda: browser.execute_script("return window.player && player.state().isLoaded"))
    browser.execute_script(BEGIN_TO_LISTEN)
    folder = next(page.root.glob("*/*/out/*/tracks.json")).parent
    tracks = {name: soundfile.read(folder / f"{name}.wav")[0] for name in ("face1", "face2", "rest")}
    return SimpleNamespace(said=said, toasts=toasts, folder=folder, video=folder.parents[1] / two_faces.name, tracks=tracks)


def test_a_video_is_uploaded_and_its_progress_shown(browser, result):
    percent = [int(found[1]) for text in result.said if (found := re.search(r"Step (\d) of 6", text))]
    assert percent and percent == sorted(percent)  # steps may be over between two looks
    assert result.toasts == set()
    rows = browser.execute_script("return player.state().tracks")
    assert [row["name"] for row in rows] == ["face1", "face2", "rest"]
    assert all(row["duration"] == pytest.approx(len(result.tracks["rest"]) / RATE_HZ, abs=1e-4) for row in rows)
    assert browser.execute_script("return [player.video.videoWidth, player.video.videoHeight]") == [720, 288]
    pictures = browser.find_elements(By.CSS_SELECTOR, ".track img")
    assert [browser.execute_script("return arguments[0].naturalWidth", picture) for picture in pictures] == [160, 160]


def test_all_tracks_together_are_heard_in_step_with_the_picture_also_after_a_seek_and_a_pause(browser, result):
    whole = sum(result.tracks.values())
    for start_sec in (0.0, 1.4):
        play_from(browser, start_sec)
        samples, end_sec = heard(browser)
        same, off_sec = likeness(samples, whole, end_sec)
        assert same > 0.99 and abs(off_sec) < MOST_APART_SEC
    browser.execute_script("player.video.pause()")
    wait_until(lambda: not browser.execute_script("return player.state().isPlaying"))
    time.sleep(HEARD_SAMPLES / RATE_HZ + 0.1)
    assert np.abs(browser.execute_script(LISTEN)[0]).max() == 0


def test_tracks_that_run_away_are_brought_back(browser, result):
    play_from(browser, 0.0)
    before = browser.execute_script("player.started.from -= 0.2; return player.restarts")
    wait_until(lambda: browser.execute_script("return player.restarts") > before, 2)
    samples, end_sec = heard(browser)
    same, off_sec = likeness(samples, sum(result.tracks.values()), end_sec)
    assert same > 0.99 and abs(off_sec) < MOST_APART_SEC


def test_solo_mute_level_and_blend_are_heard(browser, result):
    one, two, rest = (result.tracks[name] for name in ("face1", "face2", "rest"))

    def press(name: str, kind: str) -> None:
        find(browser, f'[data-name="{name}"] .{kind}').click()

    def slide(selector: str, value: int) -> None:
        slider = "const s = document.querySelector(arguments[0]); s.value = arguments[1]; s.dispatchEvent(new Event('input'))"
        browser.execute_script(slider, selector, value)

    def assert_heard(expected: np.ndarray) -> None:
        play_from(browser, 0.5)
        samples, end_sec = heard(browser, 0.6)
        same, off_sec = likeness(samples, expected, end_sec)
        assert same > 0.99 and abs(off_sec) < MOST_APART_SEC
        end = round((end_sec + off_sec) * RATE_HZ)
        wanted = expected[end - HEARD_SAMPLES : end]
        assert np.sqrt(np.mean(samples**2)) == pytest.approx(np.sqrt(np.mean(wanted**2)), rel=0.05)

    press("face2", "solo")
    assert_heard(two)
    press("face1", "solo")
    assert_heard(one + two)
    press("face2", "mute")
    assert_heard(one)
    for name, kind in (("face2", "mute"), ("face1", "solo"), ("face2", "solo")):
        press(name, kind)
    press("rest", "mute")
    slide('[data-name="face1"] .level', 50)
    assert_heard(0.5 * one + two)
    slide('[data-name="face1"] .level', 100)
    press("rest", "mute")
    slide(".blending", 0)
    assert_heard(one)
    find(browser, ".blend .faces label:nth-child(2)").click()
    assert_heard(two)
    slide(".blending", 100)
    assert_heard(one + rest)
    slide(".blending", 75)
    assert_heard(one + 0.5 * two + rest)
    slide(".blending", 50)
    assert_heard(one + two + rest)


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder, by the names under which the page gives them."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix().replace("/", "_"): path.read_bytes() for path in paths}


def test_downloads_are_the_files_of_separate_sh_to_the_byte(browser, result, tmp_path):
    files = {}
    for link in browser.find_elements(By.CSS_SELECTOR, "[download]"):
        with urllib.request.urlopen(link.get_attribute("href")) as answer:
            files[link.get_attribute("download")] = answer.read()
    command = [ROOT / "separate.sh", result.video, "--out_dir", tmp_path, *RESULT_WORDS]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True)
    expected = contents(tmp_path / result.video.stem)
    assert {"face1.wav", "face2.wav", "rest.wav", "face1.mp4", "stems_rest.wav", "tracks.mp4", "tracks.json"} <= expected.keys()
    for content in (files, expected):
        facts = json.loads(content["tracks.json"])
        assert facts.pop("stamp")  # it names the folder of the work files
        content["tracks.json"] = facts
    archive = files.pop(f"{result.video.stem}.zip")
    assert [name for name in files.keys() | expected.keys() if files.get(name) != expected.get(name)] == []
    (tmp_path / "all.zip").write_bytes(archive)
    shutil.unpack_archive(tmp_path / "all.zip", tmp_path / "unpacked")
    unpacked = contents(tmp_path / "unpacked" / result.video.stem)
    assert unpacked == expected | {"tracks.json": (result.folder / "tracks.json").read_bytes()}


def test_the_result_fits_a_phone(browser, result):
    phone = {"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    for element in browser.find_elements(By.CSS_SELECTOR, ".track button, .track input, .blending, [download], .player video"):
        box = element.rect
        assert box["width"] > 20 and box["x"] >= 0 and box["x"] + box["width"] <= 390
    find(browser, '[data-name="rest"] .solo').click()
    assert [track["level"] for track in browser.execute_script("return player.state().tracks")] == [0, 0, 1]
    find(browser, '[data-name="rest"] .solo').click()
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_broken_video_is_a_message_and_another_one_can_be_given(browser, page, tmp_path):
    visit(browser, page)
    (tmp_path / "kaputt.mp4").write_bytes(b"\0" * 5000)
    upload(browser, tmp_path / "kaputt.mp4")
    message = wait_until(lambda: find(browser, ".failure")).text
    assert re.fullmatch(r"kaputt\.mp4: not a video that can be decoded.*", message)
    wait_until(lambda: find(browser, "#source input[type=file]"))
    assert "Traceback" not in browser.page_source and "Traceback" not in page.log.read_text()


def test_two_visitors_at_once_one_waits_and_each_can_cancel(browser, page, two_faces):
    first = browser.current_window_handle
    visit(browser, page)
    upload(browser, two_faces)
    wait_until(lambda: "St" in shown(browser))
    browser.switch_to.new_window("tab")
    second = browser.current_window_handle
    visit(browser, page)
    upload(browser, two_faces)
    wait_until(lambda: "Waiting: One video is before yours" in shown(browser))
    browser.switch_to.window(first)
    running = _programs_of(page)
    assert running
    find(browser, "#cancel").click()
    wait_until(lambda: "Cancelled." in shown(browser))
    wait_until(lambda: not running & _programs_of(page))
    browser.switch_to.window(second)
    wait_until(lambda: re.search("Step|Starting", shown(browser)))
    wait_until(lambda: _programs_of(page))
    browser.close()  # nobody would see this one's result
    browser.switch_to.window(first)
    wait_until(lambda: not _programs_of(page), 60)


def test_a_recording_is_taken_like_an_upload(browser, page):
    visit(browser, page)
    find(browser, "#source [aria-label='Capture from camera']").click()
    wait_until(lambda: "Click to Access Webcam" in find(browser, "#source").text)
    find(browser, "#source button").click()
    wait_until(lambda: "Record" in find(browser, "#source").text)
    find(browser, "#source [aria-label='start recording']").click()
    wait_until(lambda: "Stop" in find(browser, "#source").text)
    time.sleep(1.0)
    find(browser, "#source [aria-label='start recording']").click()
    wait_until(lambda: "Starting" in shown(browser))
    (recorded,) = page.root.glob("*/*/*.webm")
    assert probe_video(recorded).duration_sec > 0.5 and sound_start(recorded) is not None
    find(browser, "#cancel").click()
    wait_until(lambda: "Cancelled." in shown(browser))


def test_no_other_host_was_asked_for_anything(browser, result):
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert len(urls) > 20
    assert [url for url in urls if not re.match(r"(http://127\.0\.0\.1:\d+/|data:|blob:|chrome:)", url)] == []
    messages = [entry["message"] for entry in browser.get_log("browser")]
    assert [text for text in messages if re.search(r"https?://(?!127\.0\.0\.1)", text)] == []


def _programs_of(page) -> set[int]:
    """The processes whose command names a file of the page's visitors."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:
            continue
        if os.fsencode(page.root) in command and b"stage" in command:
            found.add(int(path.parent.name))
    return found
