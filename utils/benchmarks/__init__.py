"""Measurements of networks and of the recipe's own speed, each a program that prints a table and can fill RESULTS.md."""
