"""Pickles of landmarks, read without running anything that they name.

A pickle is a program: it may name any function and call it. Here it gets stand-ins of our own for the few names that
numpy arrays need, in the spelling of Python 2 and 3 and of numpy 1 and 2, and nothing else. Even numpy's own rebuilding
is not trusted with what a stranger wrote: arrays are put together from their bytes.
"""

import io
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import UserError

_PLAIN_TYPE = re.compile(r"[biuf](1|2|4|8|16)|O8?")  # numbers and objects; no records, text or dates


class _Dtype:
    """Stands in for numpy.dtype."""

    def __init__(self, name: str, *_: object) -> None:
        if not _PLAIN_TYPE.fullmatch(name):
            raise pickle.UnpicklingError(f"an array of the type {name!r:.40}")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands in for numpy.ndarray: what it holds, an array of numbers or nested lists of objects, comes as its state."""

    def __init__(self, *_: object) -> None:  # subtype, shape and dtype of an empty array
        self.value: np.ndarray | list | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran_order, content = state
        if dtype.dtype.hasobject:
            flat = np.fromiter(content, object, len(content))
        else:  # Python 2 wrote bytes as text
            flat = np.frombuffer(content.encode("latin1") if isinstance(content, str) else content, dtype.dtype)
        array = flat.reshape(shape, order="F" if fortran_order else "C")
        self.value = array.tolist() if dtype.dtype.hasobject else array


class _ArrayFromBuffer(_Array):
    """As protocol 5 writes arrays."""

    def __init__(self, content: bytes, dtype: _Dtype, shape: tuple, order: str) -> None:
        self.__setstate__((1, shape, dtype, order == "F", content))


class _Scalar(_Array):
    """A number of numpy's: an array without axes."""

    def __init__(self, dtype: _Dtype, content: bytes | str) -> None:
        self.__setstate__((1, (), dtype, False, content))


class _Bytes:
    """Stands in for what makes bytes in old protocols: an encoder of text, and the type itself where they are empty."""

    def __new__(cls, text: str = "", *_: object) -> bytes:
        return text.encode("latin1")

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a state for bytes")


_KNOWN = {("_codecs", "encode"): _Bytes, ("builtins", "bytes"): _Bytes, ("__builtin__", "bytes"): _Bytes,
          ("numpy", "ndarray"): _Array, ("numpy", "dtype"): _Dtype}  # fmt: skip
for _core in ("numpy.core", "numpy._core"):
    _KNOWN[_core + ".multiarray", "_reconstruct"] = _Array
    _KNOWN[_core + ".multiarray", "scalar"] = _Scalar
    _KNOWN[_core + ".numeric", "_frombuffer"] = _ArrayFromBuffer


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"the name {module}.{name}") from None


def read_pickle(content: bytes, path: Path | str) -> Any:
    """Read a pickle: None, numbers, text, lists (tuples too come as such), dicts and numpy arrays of numbers.

    Arrays of objects come as nested lists.

    Raises:
        UserError: damaged, or it names anything but numpy arrays.
    """
    try:
        return _plain(_Unpickler(io.BytesIO(content), encoding="latin1").load(), {})
    except pickle.UnpicklingError as error:
        reason = f"the pickle holds {error}" if str(error).startswith(("the name", "an array")) else f"damaged pickle ({error})"
    except MemoryError:
        reason = "damaged pickle (it asks for more memory than there is)"
    except Exception as error:  # anything may be wrong in what a stranger wrote
        reason = f"damaged pickle ({type(error).__name__}: {str(error):.80})"
    reason = " ".join(reason.split())
    raise UserError(
        f"{path}: {reason}; only lists, dicts and numpy arrays of numbers are read, save the landmarks as a plain npz"
    )


def _plain(value: Any, done: dict[int, Any]) -> Any:
    """A value without stand-ins; `done` has what became of others, by their ids: some are named again and again."""
    if id(value) in done:
        return done[id(value)]
    done[id(value)] = None  # a list that holds itself holds None
    found = value.value if isinstance(value, _Array) else value
    if isinstance(found, list | tuple):
        found = [_plain(item, done) for item in found]
    elif isinstance(found, dict):
        found = {key: _plain(item, done) for key, item in found.items()}
    done[id(value)] = found
    return found
