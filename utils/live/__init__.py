"""Separation while sound and pictures come in: sources, faces, voices, files."""
