"""Tables of records: leaderboard, claims, comparisons; functions of the records alone.

Imports records and `methods.facts`; never torch. Every column that all tables have is declared once, in `columns.py`.
Read `leaderboard.py` first: its rows become a `board`, a board `cells`, and `render` and `terminal` write these.

A new column of all tables: declare it in `columns.py`, compute it in `records/metrics.py`, under the same name.
What only some suites measure is a probe, which brings its own columns. Pictures are in `figures`.
"""
