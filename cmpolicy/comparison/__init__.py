"""Comparison of finished and unfinished runs: scores over seeds, a page and a table."""
