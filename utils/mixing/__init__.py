"""Levels and ratios, rooms and noise, lists of mixtures and the mixtures made from them."""
