"""The lip-reading TCN family: its state dicts fit the public ones, trained on the words of LRW, key by key."""

from local_models.lipreading.model import Lipreading

__all__ = ["Lipreading"]
