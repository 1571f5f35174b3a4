"""Fixtures that all tests share."""

import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Where the tests run as a background job, Ctrl-C is ignored, and so it would be by all they start; some of them press it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real clips, speech and weights beside the checkout; tests that want them are skipped where they are absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real test data (../shared/data) is not on this machine")
    return folder


@pytest.fixture
def limited() -> Iterator[Callable[[int], None]]:
    """Limits the size of files, as `ulimit -f` does; it holds for processes that are started meanwhile, too."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda n_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, old[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, old)
