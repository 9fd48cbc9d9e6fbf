"""Equal budgets of tuning: for every row the same number of trials, on validation images alone.

Imports runs and below. Read `tune.py` first.
"""
