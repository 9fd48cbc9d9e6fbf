"""Tables of records: leaderboard, claims, comparisons; functions of the records alone.

Imports records and `methods.facts`; never torch. Read `leaderboard.py` first.
"""
