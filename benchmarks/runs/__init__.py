"""Doing what a suite asks for: plan, resume, share out over processes and machines, record.

Imports training, evaluation, suites, tables, records and below. Read `run_all.py` first.
"""
