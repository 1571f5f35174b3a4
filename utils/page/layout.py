"""What is on the page, and what happens when a video comes."""

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gradio

from utils.data.constants import VIDEO_SUFFIXES
from utils.errors import UserError
from utils.page.jobs import CANCELLED, DONE, ROOT, Job, Line, PageOptions
from utils.page.player import failure, player, status
from utils.page.visitors import Visitor, Visitors

log = logging.getLogger(__name__)
CSS = ROOT / "utils/page/page.css"
HEAD = '<script src="player.js" defer></script>'
THEME = gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])  # none to be fetched
_CAMERA = {"video": {"width": {"ideal": 1280}, "height": {"ideal": 720}, "frameRate": {"ideal": 25}}}
"""What is asked of a camera: of its largest pictures, a browser on a small machine would record a few each second."""
_POLL_SEC = 0.4


async def _no_download(url: str, cache_dir: str) -> str:
    raise gradio.Error("give a file, not an address")


gradio.processing_utils.async_ssrf_protected_download = _no_download  # gradio fetches an address in place of a file


def build(line: Line, visitors: Visitors, options: PageOptions) -> gradio.Blocks:
    """The page.

    Args:
        line: of the jobs.
        visitors: with their files.
        options: of all jobs.
    """
    with gradio.Blocks(title="Who says what", analytics_enabled=False) as page:
        gradio.HTML(_header(options), padding=False)
        camera = gradio.WebcamOptions(mirror=False, constraints=_CAMERA)
        source = gradio.Video(
            sources=["upload", "webcam"], label="Video", include_audio=True, webcam_options=camera, elem_id="source"
        )
        shown = gradio.HTML(elem_id="shown", padding=False)
        cancel = gradio.Button("Cancel", visible=False, elem_id="cancel", size="md")
        again = gradio.Button("Another video", visible=False, elem_id="again", size="md")

        def view(html: str, *, asks: bool = False, works: bool = False, done: bool = False) -> dict:
            return {
                source: gradio.update(value=None, visible=asks),
                shown: html,
                cancel: gradio.update(visible=works),
                again: gradio.update(visible=done),
            }

        async def separate(upload: dict[str, Any] | None, request: gradio.Request) -> AsyncIterator[dict]:
            if upload is None:
                return
            visitor = visitors.of_session(request.session_hash)
            try:
                job = visitor.job = Job(_take(Path(upload["path"]), visitors, visitor), options)
                yield view(status(job, 0), works=True)
                try:
                    await asyncio.to_thread(job.check)
                    line.submit(job)  # where it was cancelled meanwhile, it is passed over
                except UserError as error:
                    job.fail(str(error))
                while not job.is_over:
                    yield view(status(job, line.place(job)), works=True)
                    await asyncio.sleep(_POLL_SEC)
                if job.state == DONE:
                    yield view(player(job, visitor.key), done=True)
                else:
                    yield view(failure("Cancelled." if job.state == CANCELLED else job.message), asks=True)
            except UserError as error:
                yield view(failure(str(error)), asks=True)
            except Exception:
                log.exception("the page")
                yield view(failure("It failed unexpectedly; the log of the server says more."), asks=True)

        def stop(request: gradio.Request) -> None:
            visitors.left(request.session_hash)

        gradio.on(
            [source.upload, source.stop_recording], separate, source, [source, shown, cancel, again], preprocess=False,
            show_progress="hidden", concurrency_limit=None, api_visibility="private",
        )  # fmt: skip
        cancel.click(stop, show_progress="hidden", concurrency_limit=None, api_visibility="private")
        again.click(None, js="() => location.reload()")
        page.unload(stop)
    return page


def _header(options: PageOptions) -> str:
    minutes = f"{options.max_minutes} minute{'s' * (options.max_minutes != 1)}"
    kinds = ", ".join(suffix[1:] for suffix in VIDEO_SUFFIXES[:7])
    return f"""
<header><h1>Hear each face by itself</h1>
<p>Drop or record a video of people who talk: you get the voice of each face, to hear, mix and download.</p>
<p class="limits">At most {minutes} and {options.max_mb} MB; {kinds} and others. One video is worked on at a time. Your files
are yours alone and are removed an hour after their last use.</p></header>"""


def _take(upload: Path, visitors: Visitors, visitor: Visitor) -> Path:
    """Move what was uploaded into a folder of the visitor's own.

    Raises:
        UserError: it is gone, or the visitor has another job.
    """
    upload = upload.resolve()
    if not upload.is_relative_to(visitors.uploads) or not upload.is_file():
        raise UserError(f"{upload.name}: the upload is gone; upload it again")
    if visitor.job is not None and not visitor.job.is_over:
        raise UserError("another video of yours is being worked on; wait, or cancel it")
    taken = visitor.new_job_folder() / upload.name
    shutil.move(upload, taken)
    return taken
