"""Classifiers that were not trained here: loaded, checked, put into the same tables.

Imports runs and below. Read `evaluate.py` first.
"""
