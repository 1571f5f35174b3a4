"""The result of a job as HTML: the video, a row for each track, downloads. player.js brings it to life."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from utils.data.constants import FACE_COLOURS
from utils.data.files import read_json, readable_bytes
from utils.page.jobs import PHASES, WAITING, Job

_SURE = 0.75  # `voice_certainty` below this is shown as unsure, as tracks.json warns of it


def player(job: Job, key: str) -> str:
    """The result of a job that is done.

    Args:
        job: the job.
        key: of the visitor whose it is.
    """
    facts = read_json(job.tracks_dir / "tracks.json")
    url = f"files/{quote(key)}/"
    warnings: dict[str, list[str]] = {track["name"]: [] for track in facts["tracks"]}
    general = []
    for warning in facts["warnings"]:
        name, _, text = warning.partition(": ")
        warnings.get(name, general).append(text if name in warnings else warning)
    rows = [_face(track, number, url, warnings[track["name"]]) for number, track in enumerate(facts["tracks"])]
    rest = _row(
        "rest", "Rest", "voices off screen, noise, music", url + facts["rest"]["wav"], "#9aa4b2", '<span class="face"></span>'
    )
    return f"""
<section class="player" aria-label="Result">
  <video controls playsinline preload="auto" src="{url}{quote(job.preview.name)}"></video>
  <div class="mixer">
    <p class="loading" role="status">Loading the tracks …</p>
    {"".join(_warning(text) for text in general)}
    {_blend(facts["tracks"])}
    <ul class="tracks">{"".join(rows)}{rest}</ul>
    {_downloads(job, url)}
  </div>
</section>"""


def _face(track: Mapping[str, Any], number: int, url: str, warnings: list[str]) -> str:
    seen = ", ".join(f"{_clock(first)}–{_clock(last)}" for first, last in track["on_screen_sec"][:4])
    more = " …" if len(track["on_screen_sec"]) > 4 else ""
    about = f"on screen {seen}{more}"
    if "voice_certainty" in track:
        sure = track["voice_certainty"]
        about += f' · <span class="{"sure" if sure >= _SURE else "unsure"}">voice {sure:.0%} sure</span>'
    picture = f'<img class="face" src="{url}{quote(track["thumbnail"])}" alt="">'
    notes = "".join(map(_warning, warnings))
    return _row(track["name"], f"Face {number + 1}", about, url + quote(track["wav"]), _colour(number), picture, notes)


def _row(name: str, title: str, about: str, src: str, colour: str, picture: str, notes: str = "") -> str:
    return f"""
<li class="track" data-name="{escape(name)}" data-src="{src}" style="--colour: {colour}">
  {picture}
  <div class="about"><b>{title}</b><small>{about}</small></div>
  <div class="controls">
    <button type="button" class="solo" aria-pressed="false" title="Hear only this">Solo</button>
    <button type="button" class="mute" aria-pressed="false" title="Leave this out">Mute</button>
    <label>Level <input type="range" class="level" min="0" max="100" value="100" aria-label="Level of {title}"></label>
  </div>
  {notes}
</li>"""


def _blend(tracks: list[Mapping[str, Any]]) -> str:
    faces = "".join(
        f'<label style="--colour: {_colour(k)}"><input type="radio" name="blended" value="{escape(track["name"])}"'
        f"{' checked' * (k == 0)}>{k + 1}</label>"
        for k, track in enumerate(tracks)
    )
    return f"""
<fieldset class="blend"><legend>Blend a face with the rest</legend>
  <div class="faces" role="radiogroup" aria-label="Face to blend">{faces}</div>
  <input type="range" class="blending" min="0" max="100" value="50" aria-label="From only this face to all but this face">
  <div class="ends"><span>only this face</span><span>as recorded</span><span>all but this face</span></div>
</fieldset>"""


def _downloads(job: Job, url: str) -> str:
    archive = _download(job.archive.name, job.archive, url, "All files (zip)", "all")
    links = "".join(f"<li>{_download(name, path, url, name)}</li>" for name, path in job.results().items())
    return f'<details class="downloads" open><summary>Downloads</summary><p>{archive}</p><ul>{links}</ul></details>'


def _download(name: str, path: Path, url: str, text: str, kind: str = "") -> str:
    size = readable_bytes(path.stat().st_size)
    return f'<a class="{kind}" href="{url}{quote(name)}" download="{escape(name)}">{escape(text)}</a> <small>{size}</small>'


def _colour(number: int) -> str:
    """That of the frame around a face in the preview; the first is number 0."""
    return "#" + bytes(FACE_COLOURS[number % len(FACE_COLOURS)]).hex()


def _warning(text: str) -> str:
    return f'<p class="warning">{escape(text)}</p>'


def _clock(seconds: float) -> str:
    """75.4 -> 1:15."""
    return f"{round(seconds) // 60}:{round(seconds) % 60:02d}"


def status(job: Job, place: int) -> str:
    """How far a job is: its place in the line, or the phase and the share of it that is done."""
    if job.state == WAITING and place:
        before = "One video is" if place == 1 else f"{place} videos are"
        return _progress(job.name, f"Waiting: {before} before yours", 0)
    phases = list(PHASES.values())
    step = phases.index(job.phase) if job.phase else 0
    text = f"Step {step + 1} of {len(phases)}: {job.phase}, {job.percent} %" if job.phase else "Starting: the network is loaded"
    return _progress(job.name, text, round((100 * step + job.percent) / len(phases)) if job.phase else 0)


def _progress(name: str, text: str, percent: int) -> str:
    return f"""
<div class="status" role="status"><b>{escape(name)}</b><span>{escape(text)}</span>
  <div class="bar" role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{percent}" aria-label="Progress">
    <div style="width: {percent}%"></div></div></div>"""


def failure(text: str) -> str:
    """A message in place of a result."""
    return f'<div class="failure" role="alert">{escape(text)}</div>'
