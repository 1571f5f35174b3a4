"""utils/download_weights.sh against a server on this machine, and without any network."""

import hashlib
import subprocess
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

NAME = "lrw_snv05x_tcn1x"
CONTENT = b"PK" + bytes(range(256)) * 400
UNREACHABLE = "http://127.0.0.1:1"


class RangeHandler(BaseHTTPRequestHandler):
    """Serves `CONTENT` from any byte on and notes what was asked for."""

    asked: list[str | None]

    def do_GET(self):  # noqa: N802
        wanted = self.headers.get("Range")
        self.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start:])

    def log_message(self, *args):
        pass


class QuietHandler(SimpleHTTPRequestHandler):
    """The files of a folder; cannot resume."""

    def log_message(self, *args):
        pass


@pytest.fixture
def serve():
    """Start a server for a handler and give its URL."""
    servers = []

    def start(handler) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def download(repo_root):
    def call(*args) -> subprocess.CompletedProcess:
        command = [repo_root / "utils" / "download_weights.sh", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    return call


@pytest.fixture
def folder_url(serve, tmp_path):
    """A server of tmp_path/served, where the file is."""
    served = tmp_path / "served"
    served.mkdir()
    (served / f"{NAME}.pth.tar").write_bytes(CONTENT)
    return serve(partial(QuietHandler, directory=str(served)))


def test_a_file_is_fetched_whole_and_a_second_call_fetches_nothing(download, folder_url, tmp_path):
    out = tmp_path / "out dir"
    first = download("--base_url", folder_url, NAME, out)
    assert first.returncode == 0, first.stderr
    assert (out / f"{NAME}.pth.tar").read_bytes() == CONTENT
    assert [file.name for file in out.iterdir()] == [f"{NAME}.pth.tar"]
    assert hashlib.sha256(CONTENT).hexdigest() in first.stdout
    assert "not for commercial use" in first.stderr
    again = download("--base_url", UNREACHABLE, NAME, out)
    assert (again.returncode, again.stdout, again.stderr) == (0, first.stdout, "")


@pytest.mark.parametrize("got", [1000, len(CONTENT)])
def test_a_broken_download_continues(download, serve, tmp_path, got):
    handler = type("Handler", (RangeHandler,), {"asked": []})
    (tmp_path / f".tmp-{NAME}.pth.tar").write_bytes(CONTENT[:got])
    result = download("--base_url", serve(handler), NAME, tmp_path)
    assert result.returncode == 0, result.stderr
    assert handler.asked[0] == f"bytes={got}-"
    assert (tmp_path / f"{NAME}.pth.tar").read_bytes() == CONTENT


def test_a_server_that_cannot_resume_sends_it_anew(download, folder_url, tmp_path):
    (tmp_path / f".tmp-{NAME}.pth.tar").write_bytes(CONTENT[:1000])
    assert download("--base_url", folder_url, NAME, tmp_path).returncode == 0
    assert (tmp_path / f"{NAME}.pth.tar").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b" <!DOCTYPE html><html>Quota exceeded</html>", "a web page"), (b"hello", "no torch checkpoint")],
)
def test_what_is_no_checkpoint_is_not_kept(download, folder_url, tmp_path, content, reason):
    (tmp_path / "served" / f"{NAME}.pth.tar").write_bytes(content)
    result = download("--base_url", folder_url, NAME, tmp_path / "out")
    assert result.returncode == 1
    assert reason in result.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_another_sha256_is_refused(download, folder_url, tmp_path):
    result = download("--base_url", folder_url, "--sha256", "00ff", NAME, tmp_path / "out")
    assert result.returncode == 1
    assert "not 00ff" in result.stderr
    assert not (tmp_path / "out" / f"{NAME}.pth.tar").exists()
    good = download("--base_url", folder_url, "--sha256", hashlib.sha256(CONTENT).hexdigest(), NAME, tmp_path / "out")
    assert good.returncode == 0


def test_no_network_and_no_file_are_one_line_each(download, folder_url, tmp_path):
    for url, reason in ((UNREACHABLE, "127.0.0.1:1 cannot be reached"), (f"{folder_url}/nowhere", "HTTP 404")):
        result = download("--base_url", url, NAME, tmp_path)
        assert result.returncode == 1
        errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and reason in errors[0]
        assert result.stderr.splitlines()[-1] == errors[0]


def test_a_file_whose_address_is_not_known_says_how_to_get_it(download, tmp_path):
    result = download(NAME, tmp_path)
    assert result.returncode == 1
    for hint in ("not known here", "--drive_id", "github.com/mpc001", "--frontend_weights"):
        assert hint in result.stderr


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ([], "no NAME"),
        (["nope"], "'nope' is no known network; known: lrw_resnet18_mstcn"),
        (["lrw_.*"], "no known network"),
        ([NAME, "a", "b"], "stray word 'b'"),
        (["--speed", "3", NAME], "unknown option --speed"),
        ([NAME, "--sha256"], "--sha256 needs a value"),
    ],
)
def test_a_wrong_call_is_one_line_and_exit_2(download, args, reason):
    result = download(*args)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1 and reason in result.stderr


def test_help_lists_every_public_network(download, repo_root):
    text = download("--help").stdout
    zoo = {file.stem for file in (repo_root / "conf" / "lipreading").glob("lrw_*.json")} - {"lrw_resnet18_mstcn_prelu"}
    assert all(name in text for name in zoo)


def test_lr_asd_is_known_by_address_and_by_content(download, folder_url, tmp_path):
    assert "lr_asd_talkset (not known" not in download("--help").stdout and "lr_asd_talkset" in download("--help").stdout
    (tmp_path / "served" / "lr_asd_talkset.pth.tar").write_bytes(CONTENT)
    done = download("--base_url", folder_url, "lr_asd_talkset", tmp_path)
    assert done.returncode == 1 and "its sha256 is" in done.stderr and "MIT" in done.stderr
    assert not (tmp_path / "lr_asd_talkset.pth.tar").exists()
