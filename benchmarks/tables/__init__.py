"""Tables of records: leaderboard, claims, comparisons, and plots of records; functions of the records alone.

Imports records and `methods.facts`; never torch. Every column that all tables have is declared once, in `columns.py`.
Read `leaderboard.py` first.

A new column of all tables: declare it in `columns.py`, compute it in `records/metrics.py`, under the same name. What
only some suites measure is a probe, which brings its own columns. A plot of records gets a module here, and imports
its plotting library inside the function that draws: tables must not wait for it.
"""
