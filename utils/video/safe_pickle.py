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


class PickledArray:
    """Stands in for a numpy array while a pickle is read; `plain` makes one of it."""

    def __init__(self, *_: object) -> None:  # subtype, shape and dtype of an empty array: the state brings the true ones
        self.state = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran_order, content = state
        self.state = (dtype, content, shape, "F" if fortran_order else "C")

    def array(self) -> np.ndarray:
        dtype, content, shape, order = self.state
        if dtype.dtype.hasobject:
            flat = np.empty(len(content), dtype=object)
            for k, item in enumerate(content):
                flat[k] = item
        else:  # Python 2 wrote bytes as text
            flat = np.frombuffer(content.encode("latin1") if isinstance(content, str) else content, dtype.dtype)
        return flat.reshape(shape, order=order)


class _ArrayFromBuffer(PickledArray):
    """As protocol 5 writes arrays."""

    def __init__(self, content: bytes, dtype: _Dtype, shape: tuple, order: str) -> None:
        self.state = (dtype, content, shape, "F" if order == "F" else "C")


class _Scalar(PickledArray):
    """A number of numpy's: an array without axes."""

    def __init__(self, dtype: _Dtype, content: bytes | str) -> None:
        self.state = (dtype, content, (), "C")


class _Latin1:
    """Stands in for the encoder with which Python 3 writes bytes into old protocols."""

    def __new__(cls, text: str, *_: object) -> bytes:
        return text.encode("latin1")

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a state for bytes")


class _NoBytes(_Latin1):
    """Old protocols write empty bytes as a call of their type."""

    def __new__(cls) -> bytes:
        return b""


_KNOWN = {("_codecs", "encode"): _Latin1, ("builtins", "bytes"): _NoBytes, ("__builtin__", "bytes"): _NoBytes,
          ("numpy", "ndarray"): PickledArray, ("numpy", "dtype"): _Dtype}  # fmt: skip
for _core in ("numpy.core", "numpy._core"):
    _KNOWN[_core + ".multiarray", "_reconstruct"] = PickledArray
    _KNOWN[_core + ".multiarray", "scalar"] = _Scalar
    _KNOWN[_core + ".numeric", "_frombuffer"] = _ArrayFromBuffer


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"the name {module}.{name}") from None


def read_pickle(content: bytes, path: Path | str) -> Any:
    """Read a pickle: None, numbers, text, lists, tuples, dicts and `PickledArray` (see `plain`).

    Raises:
        UserError: damaged, or it names anything but numpy arrays.
    """
    try:
        return _Unpickler(io.BytesIO(content), encoding="latin1").load()
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


def plain(value: Any, path: Path | str) -> Any:
    """A `PickledArray` as a numpy array of numbers, or as nested lists where it holds objects; all else as it is.

    Raises:
        UserError: the array's shape and content do not fit.
    """
    if not isinstance(value, PickledArray):
        return value
    try:
        array = value.array()
    except (ValueError, TypeError, AttributeError, MemoryError) as error:
        raise UserError(f"damaged array in the pickle ({str(error):.80}); save the landmarks again", path) from None
    return array.tolist() if array.dtype.hasobject else array
