"""Enclosing the margin of every test point, and doubting the result.

Imports suites and what they name, never the methods. Read `sandwich.py` first, then `doubts.py`.
"""
