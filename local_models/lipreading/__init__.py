"""The lip-reading TCN family: networks whose state dicts fit the public word lip readers trained on LRW, key by key."""

from local_models.lipreading.model import Lipreading

__all__ = ["Lipreading"]
