"""Layouts of corpora, and their preparation: what `egs/*/prepare.py` call."""
