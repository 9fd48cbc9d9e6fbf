"""Tables of records: leaderboard, claims, comparisons; functions of the records alone.

Imports records and `methods.facts`; never torch. Every column that all tables have stands in `columns.py`, once. Read
`leaderboard.py` first.
"""
