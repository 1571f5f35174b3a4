"""Stage programs under logged.py: output, exit codes, terminals, and that nothing outlives a killed run."""

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from shell_helpers import ROOT, clean_environment, wait_until

LOGGED = [sys.executable, "-E", "-S", str(ROOT / "utils/stages/logged.py")]
CHATTY = r"import sys; print('out'); print('err', file=sys.stderr); sys.stderr.write('10%\r50%\r100%\n'); sys.exit(7)"
# A program with a worker, both of which wait for ever; their process ids go to a file.
FAMILY = """
import os, sys, time
from pathlib import Path
if os.fork() == 0:
    Path(sys.argv[1] + ".new").write_text(f"{os.getppid()} {os.getpid()}")
    os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(600)
"""


def start(log: Path, *command: str, **options) -> subprocess.Popen:
    environment = clean_environment(AVSEP_LOG_DIR=str(log.parent))
    return subprocess.Popen([*LOGGED, log.stem, *command], env=environment, **options)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_output_is_passed_on_and_logged_and_the_exit_code_kept(tmp_path: Path) -> None:
    log = tmp_path / "new/3_train.log"
    done = start(log, sys.executable, "-c", CHATTY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    stdout, stderr = done.communicate(timeout=30)
    assert (done.returncode, stdout) == (7, "out\n")
    assert stderr.startswith(f"log: {log}\nerr\n")
    assert stderr.endswith(f"3_train failed (exit code 7); log: {log}\n")
    lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert sorted(lines) == ["100%", "err", "out"], "of a progress bar only the last state is kept"


def test_a_program_killed_by_a_signal_is_a_failure(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "import os; os.kill(os.getpid(), 9)")
    assert start(tmp_path / "1.log", *command, stderr=subprocess.DEVNULL).wait(30) == 137


def test_a_program_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = start(tmp_path / "1.log", "no-such-program", stderr=subprocess.PIPE, text=True)
    _, stderr = done.communicate(timeout=30)
    assert done.returncode == 1 and "error: no-such-program: No such file or directory" in stderr
    assert "Traceback" not in stderr


def test_a_program_on_a_terminal_still_finds_one(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = (sys.executable, "-c", r"import os, sys; sys.stderr.write(f'5%\r{os.isatty(2)} {os.isatty(1)}\n')")
    process = start(tmp_path / "1.log", *command, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 1000)
        except OSError:
            break
    os.close(ours)
    assert process.wait(30) == 0
    assert b"5%\rTrue True\r\n" in shown
    assert "\nTrue True\n" in (tmp_path / "1.log").read_text(encoding="utf-8")


def test_a_reader_that_went_away_does_not_end_the_stage(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = (sys.executable, "-c", "print('still logged')")
    process = start(tmp_path / "1.log", *command, stdout=write_end, stderr=subprocess.DEVNULL)
    os.close(write_end)
    assert process.wait(30) == 0
    assert "still logged\n" in (tmp_path / "1.log").read_text(encoding="utf-8")


def test_what_the_program_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    process = start(tmp_path / "1.log", "bash", "-c", "sleep 600 & echo $!", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.wait(30) == 0
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    process.stdout.close()
    assert wait_until(lambda: not is_running(pid))


def family(tmp_path: Path, process: subprocess.Popen) -> list[int]:
    pids = tmp_path / "pids"
    assert wait_until(pids.exists), process.poll()
    return [int(word) for word in pids.read_text(encoding="utf-8").split()]


def run_sh(tmp_path: Path, program: str = FAMILY) -> subprocess.Popen:
    """Something that starts a stage as run.sh does."""
    script = 'export AVSEP_RUN_PID=$$; "$@"; echo unreachable'
    words = ["bash", "-c", script, "run.sh", *LOGGED, "1", sys.executable, "-c", program]
    return subprocess.Popen(
        [*words, str(tmp_path / "pids")], env=clean_environment(AVSEP_LOG_DIR=str(tmp_path)), stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_sh_takes_the_program_and_its_workers_along(tmp_path: Path, number: signal.Signals) -> None:
    process = run_sh(tmp_path)
    pids = family(tmp_path, process)
    assert all(is_running(pid) for pid in pids)
    process.send_signal(number)
    process.wait(30)
    assert wait_until(lambda: not any(is_running(pid) for pid in pids))


def test_an_interrupt_ends_everything(tmp_path: Path) -> None:
    process = run_sh(tmp_path)
    pids = family(tmp_path, process)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does at Ctrl-C
    process.wait(30)
    assert wait_until(lambda: not any(is_running(pid) for pid in pids))


def test_a_worker_that_ignores_the_interrupt_ends_with_the_program(tmp_path: Path) -> None:
    ignoring = FAMILY.replace("    Path(", "    signal.signal(2, signal.SIG_IGN)\n    Path(", 1)
    process = run_sh(tmp_path, "import signal" + ignoring)
    pids = family(tmp_path, process)
    os.killpg(process.pid, signal.SIGINT)
    process.wait(30)
    assert wait_until(lambda: not any(is_running(pid) for pid in pids))


def test_a_stage_that_was_started_alone_outlives_its_shell(tmp_path: Path) -> None:
    words = ["bash", "-c", '"$@" & wait', "shell", *LOGGED, "1", sys.executable, "-c", FAMILY]
    shell = subprocess.Popen(
        [*words, str(tmp_path / "pids")], env=clean_environment(AVSEP_LOG_DIR=str(tmp_path)), stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    pids = family(tmp_path, shell)
    shell.kill()
    shell.wait(30)
    died = wait_until(lambda: not any(is_running(pid) for pid in pids), timeout_sec=2)
    os.killpg(shell.pid, signal.SIGKILL)
    assert not died


def test_a_stop_request_reaches_the_program(tmp_path: Path) -> None:
    text = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(5)); print('ready', flush=True); time.sleep(600)"
    process = start(tmp_path / "1.log", sys.executable, "-c", text, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    process.terminate()
    assert process.wait(30) == 5
    process.stdout.close()
