"""Networks on a model hub: `hf://USER/NAME[@REVISION]` becomes an experiment's folder here, and such a folder is pushed.

Reads   the hub through huggingface_hub, whose own variables hold (HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE); what was
        fetched once is in its cache, and is used from there where the hub cannot be reached
Writes  exp/hub/USER/NAME[@REVISION]/: the files of `utils.tools.publish`, and hub.json, which names their commit
"""

import logging
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from utils.data.experiments import HUB_FILE, NETWORK_FILES
from utils.data.files import atomic_path, exclusive_lock, read_json, write_json
from utils.errors import UserError

logger = logging.getLogger(__name__)

PREFIX = "hf://"
HUB_DIR = Path("exp/hub")
FILES = (
    NETWORK_FILES[1],
    "conf.yml",
    "*frontend.json",
    "*frontend.safetensors",
    "README.md",
    "LICENSE*",
)  # none of them is code
_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_REVISION = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*")


def experiment_folder(text: str, hub_dir: Path = HUB_DIR) -> Path:
    """The folder of an experiment: the path itself, or what was fetched of `hf://USER/NAME[@REVISION]`.

    For `OptionParser.add_argument("--exp_dir", type=experiment_folder)`.

    Args:
        text: the value of the option.
        hub_dir: fetched ones lie below.

    Raises:
        UserError: no such address, or neither the hub nor the cache has it.
    """
    if not text.startswith(PREFIX):
        return Path(text)
    name, _, revision = text.removeprefix(PREFIX).partition("@")
    if not _NAME.fullmatch(name) or (revision and not _REVISION.fullmatch(revision)):
        raise UserError(f"{text}: an experiment on a hub is {PREFIX}USER/NAME or {PREFIX}USER/NAME@REVISION")
    from huggingface_hub import snapshot_download

    with _in_one_line(text):
        snapshot = Path(snapshot_download(name, revision=revision or None, allow_patterns=list(FILES)))
    if not (snapshot / FILES[0]).is_file():
        raise UserError(f"{text}: holds no {FILES[0]}; it is none of this recipe's networks (utils.tools.publish makes one)")
    folder = hub_dir / text.removeprefix(PREFIX)
    _take_over(snapshot, folder, {"address": f"{PREFIX}{name}", "commit": snapshot.name})
    logger.info("%s: commit %s, in %s", text, snapshot.name, folder)
    return folder


def _take_over(snapshot: Path, folder: Path, facts: dict[str, str]) -> None:
    """Copy a snapshot; what another commit left there goes. The cache may be emptied, and outputs lie beside the network."""
    with exclusive_lock(folder, "this network", wait=True):
        record = folder / HUB_FILE
        if record.is_file() and read_json(record) == facts and all((folder / path.name).exists() for path in _known(snapshot)):
            return
        record.unlink(missing_ok=True)
        for path in _known(folder):
            path.unlink()
        for path in _known(snapshot):
            with atomic_path(folder / path.name) as temporary:
                shutil.copyfile(path, temporary)
        write_json(record, facts)


def _known(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if any(fnmatch(path.name, pattern) for pattern in FILES)]


def push(folder: Path, name: str, private: bool) -> str:
    """Make a repository of a hub hold the files of a published network, and those of them only; gives its address.

    Args:
        folder: of `utils.tools.publish`.
        name: USER/NAME.
        private: make a new repository private; one that exists stays as it is.

    Raises:
        UserError: no such name, no login, no network, or the hub refuses.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"--push {name}: a repository's name is USER/NAME")
    from huggingface_hub import HfApi, get_token

    if not get_token():
        raise UserError(f"--push {name}: not logged in to the hub; log in with `hf auth login`, or set HF_TOKEN")
    patterns = list(FILES)
    with _in_one_line(f"--push {name}"):
        api = HfApi()
        url = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, allow_patterns=patterns, delete_patterns=patterns,
                          commit_message="Network published by utils.tools.publish")  # fmt: skip
    return str(url)


@contextmanager
def _in_one_line(what: str) -> Iterator[None]:
    """Say in one line why the hub did not do it, and nothing else; bars are for terminals."""
    from httpx2 import HTTPError
    from huggingface_hub import errors
    from huggingface_hub.utils import disable_progress_bars
    from huggingface_hub.utils import logging as hub_logging

    hub_logging.set_verbosity_error()
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # a line for each request
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        yield
    except errors.GatedRepoError:
        raise UserError(
            f"{what}: its owner gives access on request: ask on its page, then log in with `hf auth login`"
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"{what}: no such repository, or a private one; mind the name, or log in with `hf auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{what}: the repository has no such revision; give a branch, a tag or a commit") from None
    except errors.LocalEntryNotFoundError:
        raise UserError(
            f"{what}: the hub cannot be reached (no network, or HF_HUB_OFFLINE), and its cache (HF_HOME) does not hold it; "
            "fetch it once with a network"
        ) from None
    except errors.HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            raise UserError(f"{what}: the login has no right to do that; take a token that may write there") from None
        raise UserError(f"{what}: the hub answers {error.response.status_code}; try again later") from None
    except (HTTPError, errors.OfflineModeIsEnabled) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{what}: the hub cannot be reached ({reason}); look at the network, or HF_ENDPOINT") from None
