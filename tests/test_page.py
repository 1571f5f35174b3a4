"""The page without a browser: jobs, the line, visitors' files, what is open and what is not."""

import asyncio
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

gradio = pytest.importorskip("gradio", reason="needs requirements-demo.txt")

from starlette.testclient import TestClient  # noqa: E402
from video_helpers import Video, speech_like  # noqa: E402

from utils.data.files import write_json  # noqa: E402
from utils.errors import UserError  # noqa: E402
from utils.page.jobs import CANCELLED, DONE, FAILED, RUNNING, WAITING, Job, Line, PageOptions  # noqa: E402
from utils.page.layout import _take  # noqa: E402
from utils.page.player import failure, player, status  # noqa: E402
from utils.page.server import make_app  # noqa: E402
from utils.page.visitors import Visitors  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
FACTS = {
    "tracks": [
        {"name": "face1", "wav": "face1.wav", "thumbnail": "face1.png", "on_screen_sec": [[0.0, 75.0]], "voice_certainty": 0.6},
        {"name": "face2", "wav": "face2.wav", "thumbnail": "face2.png", "on_screen_sec": [[1.0, 3.0]], "voice_certainty": 0.9},
    ],
    "rest": {"wav": "rest.wav"},
    "warnings": ["face1: whether this is the voice of this face is doubtful", "two channels <cancel>"],
}


def wait_until(is_so: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


def scripted(folder: Path, *scripts: str) -> Job:
    """A job whose programs are shell scripts."""
    folder.mkdir(parents=True, exist_ok=True)
    job = Job(folder / "talk.mp4", PageOptions())
    job._commands = lambda: [["bash", "-c", script] for script in scripts]
    return job


def finished(folder: Path) -> Job:
    """A job that is done, with results."""
    job = scripted(folder, "true")
    job.tracks_dir.mkdir(parents=True)
    write_json(job.tracks_dir / "tracks.json", FACTS)
    for name in ("face1.wav", "face2.wav", "rest.wav", "face1.png", "face2.png", ".hidden"):
        (job.tracks_dir / name).write_bytes(name.encode() * 100)
    job.preview.write_bytes(bytes(range(200)))
    job.run()
    assert job.state == DONE
    return job


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    yield line
    line.close()


@pytest.fixture
def visitors(line, tmp_path, monkeypatch) -> Iterator[Visitors]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    visitors = Visitors(line)
    yield visitors
    visitors.close()


# ---- jobs


def test_what_the_programs_print_is_the_progress_of_the_job(tmp_path):
    go = tmp_path / "go"
    bars = ("faces of x: 3%.mp4:  25% 2/8 [00:01<00:04]", "videos: 100% 1/1 [00:03<00:00]", "INFO separating nothing: really")
    echo = "; ".join(f"echo '{bar}' >&2" for bar in bars)
    hold = f"while [ ! -e {go} ]; do sleep 0.02; done"
    job = scripted(tmp_path, f"{echo}; {hold}", "echo 'separating x:  80% 8/10 [0]' >&2; exit 3")
    assert "Starting" in status(job, 0) and "2 videos are before" in status(job, 2)
    with_line = Line()
    with_line.submit(job)
    wait_until(lambda: job.phase != "")
    assert (job.state, job.phase, job.percent) == (RUNNING, "finding faces", 25)
    assert "Step 1 of 6: finding faces, 25 %" in status(job, 0) and 'aria-valuenow="4"' in status(job, 0)
    go.touch()
    wait_until(lambda: job.is_over)
    assert (job.phase, job.percent, job.state) == ("separating voices", 80, FAILED)
    with_line.close()


def test_a_cancelled_job_ends_with_all_that_it_started(tmp_path, line, monkeypatch):
    monkeypatch.setattr("utils.page.jobs._KILLED_AFTER_SEC", 0.5)
    pids = tmp_path / "pids"
    stubborn = f"sleep 300 & echo $! > {pids}; trap '' TERM; echo $$ >> {pids}; sleep 300; sleep 300"
    job = scripted(tmp_path, stubborn, f"touch {tmp_path}/second")
    line.submit(job)
    wait_until(lambda: pids.is_file() and len(pids.read_text().split()) == 2)
    started = time.monotonic()
    line.cancel(job)
    assert job.state == CANCELLED
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids.read_text().split()))
    wait_until(lambda: not line._jobs)
    assert time.monotonic() - started < 5 and not (tmp_path / "second").exists()


def test_one_job_runs_the_others_wait_in_the_order_in_which_they_came(tmp_path, line):
    order = tmp_path / "order"
    hold = f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; echo"
    jobs = [scripted(tmp_path / str(k), f"{hold} {k} >> {order}; mkdir -p {tmp_path}/{k}/out/talk") for k in range(4)]
    for job in jobs:
        line.submit(job)
    wait_until(lambda: jobs[0].state == RUNNING)
    assert [line.place(job) for job in jobs] == [0, 1, 2, 3] and [job.state for job in jobs[1:]] == [WAITING] * 3
    line.cancel(jobs[1])
    assert [line.place(job) for job in jobs[2:]] == [1, 2]
    (tmp_path / "go").touch()
    wait_until(lambda: all(job.is_over for job in jobs))
    assert [job.state for job in jobs] == [DONE, CANCELLED, DONE, DONE] and order.read_text().split() == ["0", "2", "3"]


def test_a_line_that_is_too_long_takes_no_more_and_a_server_that_ends_cancels_all(tmp_path):
    line = Line()
    jobs = [scripted(tmp_path / str(k), "sleep 300") for k in range(22)]
    for job in jobs[:-1]:
        line.submit(job)
    with pytest.raises(UserError, match="20 videos are waiting already"):
        line.submit(jobs[-1])
    line.close()
    assert {job.state for job in jobs[:-1]} == {CANCELLED} and not line._worker.is_alive()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'error: {0}/talk.mp4: breaks off' >&2; exit 1", "talk.mp4: breaks off"),
        (
            "mkdir out; echo 'id,reason\na,\"nobody is on screen, so\"' > out/failed.csv; echo 'error: 1 of 1' >&2; exit 1",
            "talk.mp4: nobody is on screen, so",
        ),
        (
            "echo 'separating x:  3% 1/3' >&2; kill -SEGV $$",
            "talk.mp4: it failed unexpectedly while separating voices",
        ),
        ("python3 -c 'raise KeyError(1)'", "talk.mp4: it failed unexpectedly while starting; the log of the server says more"),
    ],
)
def test_the_reason_of_a_failure_is_one_line_without_a_trace(tmp_path, caplog, script, message):
    job = scripted(tmp_path, f"cd {tmp_path}; {script.format(tmp_path)}", f"touch {tmp_path}/second")
    job.run()
    assert job.state == FAILED and job.message.startswith(message) and "\n" not in job.message
    assert not (tmp_path / "second").exists()
    assert "Traceback" not in job.message and ("KeyError" in script) == ("Traceback" in caplog.text)


def test_a_disk_that_is_full_fails_the_job_and_the_line_goes_on(tmp_path, line, monkeypatch):
    jobs = [scripted(tmp_path / str(k), f"mkdir -p {tmp_path}/{k}/out/talk") for k in range(2)]
    monkeypatch.setattr(jobs[0], "_pack", lambda: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    for job in jobs:
        line.submit(job)
    wait_until(lambda: jobs[1].is_over)
    assert (jobs[0].state, jobs[1].state) == (FAILED, DONE) and "No space" not in jobs[0].message


def test_what_is_no_video_or_too_long_is_refused_before_it_waits(tmp_path):
    def reason(path: Path, minutes: int = 1) -> str:
        with pytest.raises(UserError) as error:
            Job(path, PageOptions(max_minutes=minutes)).check()
        assert str(tmp_path) not in str(error.value)
        return str(error.value)

    long = tmp_path / "two hours.mkv"
    Video(stamps_sec=[0.0, 7199.0, 7199.96], n_pictures=3, sound=speech_like(16_000, 48_000)).write(long)
    broken = tmp_path / "kaputt – 壊れた.mp4"
    broken.write_bytes(b"no video" * 100)
    assert "kaputt – 壊れた.mp4: not a video that can be decoded" in reason(broken)
    assert "not a video by its name" in reason(tmp_path / "table.csv")
    assert "120.0 minutes long where 1 are taken" in reason(long)
    data = long.read_bytes()
    at = data.index(b"\x44\x89\x88") + 3  # Duration of Matroska, a double in ms
    long.write_bytes(data[:at] + struct.pack(">d", 3000.0) + data[at + 8 :])
    assert "120.0 minutes long" in reason(long), "a header that says 3 s was believed"
    Job(long, PageOptions(max_minutes=121)).check()


# ---- what is shown


def test_the_result_shows_each_track_with_its_warnings_and_every_file(tmp_path):
    html = player(finished(tmp_path), "KEY")
    assert re.findall(r'data-name="(\w+)" data-src="([^"]+)"', html) == [
        (name, f"files/KEY/{name}.wav") for name in ("face1", "face2", "rest")
    ]
    assert re.findall(r'download="([^"]+)"', html) == [
        "talk.zip", "face1.png", "face1.wav", "face2.png", "face2.wav", "rest.wav", "tracks.json"
    ]  # fmt: skip
    first = html[html.index('data-name="face1"') : html.index('data-name="face2"')]
    assert 'class="unsure">voice 60% sure' in first and "0:00–1:15" in first
    assert '<p class="warning">whether this is the voice of this face is doubtful</p>' in first
    assert '<p class="warning">two channels &lt;cancel&gt;</p>' in html[: html.index('data-name="face1"')]


def test_names_are_text_and_nothing_else(tmp_path):
    job = Job(tmp_path / "<img src=x onerror=alert(1)>.mp4", PageOptions())
    assert "<img" not in status(job, 0) and "<b>" not in failure("<b>")


# ---- visitors


def test_every_visitor_has_a_folder_of_its_own_and_only_files_of_the_table_are_found(visitors):
    one, other = visitors.of_session("a"), visitors.of_session("b")
    assert visitors.of_session("a") is one and one.folder != other.folder and one.key not in str(one.folder)
    assert visitors.root.stat().st_mode & 0o777 == 0o700
    for visitor in (one, other):
        visitor.job = finished(visitor.new_job_folder())
    assert visitors.file(one.key, "face1.wav") == one.job.tracks_dir / "face1.wav"
    for name in ("talk.mp4", ".hidden", f"../../{other.folder.name}", str(other.job.preview), "../talk.mp4", ""):
        assert visitors.file(one.key, name) is None
    assert visitors.file("", "face1.wav") is None and visitors.file(one.key[:-1], "face1.wav") is None
    before = one.job.video.parent
    assert one.new_job_folder() != before and not before.exists() and one.files() == {}


def test_files_go_after_their_time_but_not_while_their_job_runs(visitors, line, tmp_path):
    visitors._kept_sec = 0.0
    idle, busy = visitors.of_session("idle"), visitors.of_session("busy")
    idle.job = finished(idle.new_job_folder())
    busy.job = scripted(busy.new_job_folder(), "sleep 300")
    line.submit(busy.job)
    (visitors.uploads / "broken off").write_bytes(b"x")
    (visitors.uploads / "hash").mkdir()
    visitors.sweep()
    assert not idle.folder.exists() and visitors.file(idle.key, "rest.wav") is None
    assert busy.folder.exists() and list(visitors.uploads.iterdir()) == []
    visitors.left("busy")  # the tab was closed
    assert busy.job.state == CANCELLED
    visitors.sweep()
    assert not busy.folder.exists()


def test_what_a_killed_server_left_goes_with_the_next_one_but_not_what_another_one_uses(visitors, line):
    left = visitors.root.parent / "avsep-page-left"
    left.mkdir()
    (left / ".lock").touch()
    code = f"import tempfile, time; tempfile.tempdir = {str(visitors.root.parent)!r}\n" \
        "from utils.page.visitors import Visitors; print(Visitors(None).root)"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).is_dir() and visitors.root.is_dir() and not left.exists()


def test_an_upload_is_moved_into_the_folder_of_its_visitor_and_no_other_file_is(visitors, tmp_path):
    upload, foreign = visitors.uploads / "hash" / "a b.mp4", tmp_path / "foreign.mp4"
    upload.parent.mkdir()
    for path in (upload, foreign):
        path.write_bytes(b"x")
    visitor = visitors.of_session("a")
    taken = _take(upload, visitors, visitor)
    assert taken.is_relative_to(visitor.folder) and taken.name == "a b.mp4" and not upload.exists()
    for path in (foreign, visitors.uploads / ".." / ".." / "foreign.mp4", upload, taken):
        with pytest.raises(UserError, match="the upload is gone"):
            _take(path, visitors, visitor)
    assert foreign.exists() and taken.exists()
    visitor.job = Job(taken, PageOptions())
    upload.write_bytes(b"y")
    with pytest.raises(UserError, match="another video of yours"):
        _take(upload, visitors, visitor)


# ---- the server


@pytest.fixture
def client(line, visitors, monkeypatch) -> Iterator[TestClient]:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(visitors.uploads))
    app = make_app(line, visitors, PageOptions(max_minutes=7, max_mb=1), "", is_local=True)
    with TestClient(app, base_url="http://127.0.0.1:7860") as client:
        yield client


def test_the_page_says_its_limits_and_names_no_other_host(client):
    answer = client.get("/")
    assert answer.status_code == 200 and "At most 7 minutes and 1 MB" in answer.text
    loaded = re.findall(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="([^"]+)"', answer.text)
    assert loaded and [url for url in loaded if re.match(r"(\w+:)?//", url)] == []
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy
    theme = client.get("/theme.css").text
    assert "http" not in re.sub(r"http://www\.w3\.org/\S+", "", theme)


def test_files_are_found_by_key_and_name_and_nothing_else_is(client, visitors):
    one, other = visitors.of_session("a"), visitors.of_session("b")
    for visitor in (one, other):
        visitor.job = finished(visitor.new_job_folder())
    answer = client.get(f"/files/{one.key}/preview.mp4", headers={"Range": "bytes=10-19"})
    assert (answer.status_code, answer.content) == (206, bytes(range(10, 20)))
    assert client.get(f"/files/{one.key}/face1.wav").content == b"face1.wav" * 100
    secret = other.job.tracks_dir / "face1.wav"
    mine, page = f"/files/{one.key}", "/gradio_api"
    for path in (
        f"{mine}/talk.mp4", f"{mine}/..%2f..%2ftalk.mp4", f"{mine}/{secret}", f"{mine}/%2e%2e/{other.key}/nothing",
        "/files/x/face1.wav", f"{page}/file={secret}", f"{page}/file/{secret}", f"/file={secret}",
        f"{page}/file={ROOT / 'README.md'}", f"{page}/file=http://127.0.0.1:7860/", f"{page}/proxy=http://example.com/",
        f"{page}/vibe-code", f"{page}/call/separate", "/monitoring", "/docs", "/openapi.json",
    ):  # fmt: skip
        assert client.get(path).status_code == 404, path
    assert client.get(f"/static/..%2f..%2f..%2f{str(secret)[1:]}").status_code in (403, 404)


def test_the_size_is_limited_while_the_upload_comes(client, visitors):
    small, large = (client.post("/gradio_api/upload", files={"files": ("a.mp4", b"x" * n)}) for n in (1000, 1_100_000))
    assert (small.status_code, large.status_code) == (200, 413) and "maximum allowed size" in large.text
    path = Path(small.json()[0])
    assert path.is_relative_to(visitors.uploads) and client.get(f"/gradio_api/file={path}").status_code == 404
    assert [item.stat().st_size for item in visitors.uploads.rglob("*") if item.is_file()] == [1000]


def test_a_page_elsewhere_whose_name_points_here_gets_nothing(client):
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400


def test_no_address_is_taken_in_place_of_a_file():
    with pytest.raises(gradio.Error, match="give a file"):
        asyncio.run(gradio.Video().async_move_resource_to_block_cache("http://example.com/a.mp4"))


def test_with_a_password_nothing_is_served_before_it_was_given(line, visitors):
    app = make_app(line, visitors, PageOptions(), "secret words", is_local=False)
    visitor = visitors.of_session("a")
    visitor.job = finished(visitor.new_job_folder())
    url = f"/files/{visitor.key}/face1.wav"
    with TestClient(app, base_url="https://page.example") as client:
        assert client.get(url).status_code == 401
        assert client.post("/gradio_api/upload", files={"files": ("a.mp4", b"x")}).status_code == 401
        assert client.post("/gradio_api/queue/join", json={"data": [], "fn_index": 0, "session_hash": "a"}).status_code == 401
        assert client.post("/login", data={"username": "me", "password": "wrong words"}).status_code == 400
        client.cookies.set("access-token-x", "y")
        assert client.get(url).status_code == 401
        assert client.post("/login", data={"username": "me", "password": "secret words"}).status_code == 200
        assert client.get(url).status_code == 200


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0 can be reached from other machines: give --password, too"),
        (["--host", "0.0.0.0", "--password", "short"], "--password: at least 8 characters"),
        (["--exp_dir", "no/such"], "no such file"),
        (["--max_minutes", "ten"], "option --max_minutes takes a whole number"),
    ],
)
def test_calls_that_cannot_work_are_one_line(words, message):
    done = subprocess.run([ROOT / "demo.sh", *words], capture_output=True, text=True, check=False, timeout=60)
    lines = [text for text in done.stderr.splitlines() if not text.startswith("path.sh: ")]
    assert done.returncode in (1, 2) and len(lines) == 1 and message in lines[0]


def test_a_server_that_is_ended_leaves_nothing_and_a_port_in_use_is_said(tmp_path):
    def call(port: int) -> subprocess.Popen:
        command = [sys.executable, "-m", "utils.page.server", "--exp_dir", "egs/own_video/pretrained", "--port", str(port)]
        return subprocess.Popen(
            command, cwd=ROOT, env=os.environ | {"TMPDIR": str(tmp_path)}, stderr=subprocess.PIPE, text=True
        )

    server = call(0)
    found = next(match for text in server.stderr if (match := re.search(r"http://127\.0\.0\.1:(\d+)/", text)))
    other = call(int(found[1]))
    assert other.wait(30) == 1 and re.fullmatch(r"error: .*in use; choose another address or port\n", other.stderr.read())
    assert [path.name[:11] for path in tmp_path.iterdir()] == ["avsep-page-"]
    server.send_signal(signal.SIGTERM)
    server.wait(20)
    assert list(tmp_path.iterdir()) == [] and "Traceback" not in server.stderr.read()
    for process in (server, other):
        process.stderr.close()
