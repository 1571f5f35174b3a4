"""Who is on screen, and the visual embeddings of their mouths, picture by picture.

A person has a place, the first that was free, and gets it back after an absence if the face is known again. Embeddings are late
by what the visual frontend needs of what comes after.
"""

import threading
from collections.abc import Mapping

import numpy as np
import torch

from utils.data.mouths import FILL_FRAMES
from utils.embedding.embed import AnyFrontend
from utils.embedding.frontends import Frontend
from utils.embedding.kinds import lookahead_frames
from utils.embedding.landmarks import LipShapes
from utils.errors import UserError
from utils.video.alignment import StreamingAlignment
from utils.video.crops import cut_crop
from utils.video.descriptors import DescriberProcess
from utils.video.faces import Face, FaceFinder
from utils.video.people import SAME_PERSON
from utils.video.tracking import CutDetector, FaceFollower, Track

_KEPT_FRAMES = 1500  # embeddings of a minute
_TRACK_FRAMES = 50  # of a face that are kept


class Embeddings:
    """The visual embeddings of the last minute, written by one thread and read by others.

    Args:
        n_people: places.
        dim: numbers of an embedding.
    """

    def __init__(self, n_people: int, dim: int) -> None:
        self._vectors = np.zeros((n_people, _KEPT_FRAMES, dim), np.float32)
        self._changed = threading.Condition()
        self._is_over = False
        self.n_known = 0
        """Frames of which all is known that ever will be."""

    def set(self, frame: int, vectors: np.ndarray) -> None:
        """Write those of all places in the next frame, (n_people, dim); zeros where no mouth was seen."""
        with self._changed:
            self._vectors[:, frame % _KEPT_FRAMES] = vectors
            self.n_known = frame + 1
            self._changed.notify_all()

    def end(self) -> None:
        """There will be no more."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def get(self, first: int, count: int, wait: bool = False) -> torch.Tensor:
        """Those of a stretch, (n_people, count, dim), with zeros where nothing is known (yet, if `wait` is false)."""
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._is_over or self.n_known >= first + count)
            frames = np.arange(first, first + count)
            found = self._vectors[:, frames % _KEPT_FRAMES]
            oldest = max(self.n_known - _KEPT_FRAMES, 0)
            found[:, (frames < oldest) | (frames >= self.n_known)] = 0
        return torch.from_numpy(found)


class LiveFaces:
    """Follows the faces of pictures as they come; a context manager.

    Args:
        frontends: by what they see, in the order of the embeddings: `lips`, `shape`.
        n_people: places.
        view: of the crops.
        alignment: of mouths, that of the visual frontend.

    Attributes:
        embeddings: of the people.
        describer: a process beside this one.
        n_ignored: faces that found no place.
        n_on_screen: people who were seen in the last picture that was looked at.

    Raises:
        UserError: a frontend that cannot be streamed, or whole faces are looked at.
    """

    def __init__(self, frontends: Mapping[str, AnyFrontend], n_people: int, view: str, alignment: str) -> None:
        if unknown := set(frontends) - {"lips", "shape"}:
            raise UserError(f"live separation looks at lips and their shape, not at {', '.join(sorted(unknown))}")
        self._late_frames = max(map(lookahead_frames, frontends.values()))
        self._frontends = list(frontends.values())
        self._people = [_Person(frontends, view, alignment) for _ in range(n_people)]
        self.embeddings = Embeddings(n_people, sum(frontend.dim for frontend in frontends.values()))
        self.n_ignored = self.n_on_screen = 0
        self.describer = DescriberProcess()
        self._finder, self._follower, self._cuts = FaceFinder(self.describer), FaceFollower(), CutDetector()
        self._n_looked = 0

    def __enter__(self) -> "LiveFaces":
        return self

    def __exit__(self, *_: object) -> None:
        self.embeddings.end()
        self._finder.__exit__()
        self.describer.close()

    @torch.inference_mode()
    def add(self, frame: int, picture: np.ndarray | None, look: bool = True) -> None:
        """Take the next picture.

        Args:
            frame: of the grid, the one after the last.
            picture: uint8 (height, width, 3), RGB; None where there is none.
            look: find its faces; else they are taken to be where they were.
        """
        if look:
            self._find(frame, picture)
            self.n_on_screen = sum(person.is_seen for person in self._people)
        vectors = [person.add(frame, picture, frame - self._late_frames) for person in self._people]
        if frame >= self._late_frames:
            self.embeddings.set(frame - self._late_frames, np.stack(vectors))

    def _find(self, frame: int, picture: np.ndarray | None) -> None:
        """Give every face its person."""
        for person in self._people:
            person.face = None
        if picture is None:
            return
        is_cut = self._cuts.is_cut(picture)
        faces = self._finder.find(picture, self._n_looked, is_cut)  # which it takes for consecutive
        self._n_looked += 1
        for face, track in zip(faces, self._follower.follow(frame, faces, is_cut), strict=True):
            del track.frames[:-_TRACK_FRAMES], track.faces[:-_TRACK_FRAMES]
            person = self._person_of(track)
            if person is None:
                self.n_ignored += len(track.frames) == 1
            else:
                person.take(track, face)

    def _person_of(self, track: Track) -> "_Person | None":
        """The person whose face this is, by being followed, by looks, or a new one; None where there is no place."""
        for person in self._people:
            if person.track is track:
                return person
        free = [person for person in self._people if not person.is_seen]
        known = [person for person in free if person.track and person.unlike(track) < SAME_PERSON]
        if known:
            return min(known, key=lambda person: person.unlike(track))
        return next((person for person in free if person.track is None), None)


class _Person:
    """A place: the face that has it, and the state of its embeddings."""

    def __init__(self, frontends: Mapping[str, AnyFrontend], view: str, alignment: str) -> None:
        self._frontends, self._view = frontends, view
        self._alignment = StreamingAlignment(alignment)
        self.track: Track | None = None
        self.face: Face | None = None
        self._transform, self._points = np.full((2, 3), np.nan), np.zeros((68, 2))
        self._crop: np.ndarray | None = None
        self._state: list[torch.Tensor] = []
        self._n_unseen = FILL_FRAMES + 1
        self._shapes: dict[int, np.ndarray] = {}  # of frames in which a mouth was seen, until they are due
        self._descriptor = np.zeros(1)

    @property
    def is_seen(self) -> bool:
        return self.face is not None

    def take(self, track: Track, face: Face) -> None:
        """This face is this person's now."""
        self.track, self.face = track, face
        if track.n_described:
            self._descriptor = track.descriptor
        self._transform, self._points = self._alignment.add(face.points.astype(np.float64))

    def unlike(self, track: Track) -> float:
        """Distance of the looks; infinite where one of both is not known."""
        if not track.n_described or len(self._descriptor) == 1:
            return np.inf
        return float(np.linalg.norm(self._descriptor - track.descriptor))

    def add(self, frame: int, picture: np.ndarray | None, due: int) -> np.ndarray:
        """Take a frame; the embedding of frame `due`, (dim,)."""
        crop = None if picture is None or self.face is None else cut_crop(picture, self._transform)
        if crop is not None:
            self._crop, self._n_unseen = crop, 0
            self._shapes[frame] = self._points
        else:
            self._alignment.forget()
            self._n_unseen += 1
        points = self._shapes.pop(due, None)
        lips = self._lips()
        if points is None:
            return np.zeros(sum(frontend.dim for frontend in self._frontends.values()), np.float32)
        shape = [LipShapes().vectors(points[None])[0]] if "shape" in self._frontends else []
        return np.concatenate([*lips, *shape])

    def _lips(self) -> list[np.ndarray]:
        """What the frontend of the lips gives now: for the crop, or the last one while what came before it is still due."""
        frontend = self._frontends.get("lips")
        if not isinstance(frontend, Frontend):
            return []
        if self._n_unseen > FILL_FRAMES:
            self._state = []
            return [np.zeros(frontend.dim, np.float32)]
        vectors, self._state = frontend.network.stream(frontend.preprocess(self._crop[None], self._view)[None], self._state)
        return [vectors[0, -1].numpy()]
