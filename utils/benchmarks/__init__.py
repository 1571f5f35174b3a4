"""Measurements of the recipe's own speed, each a program that prints a table."""
