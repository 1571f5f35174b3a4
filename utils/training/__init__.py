"""Confs, training examples, losses, the Lightning module and trainer, and the files of an experiment."""
