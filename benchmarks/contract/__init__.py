"""What every method must satisfy, built in or plug-in, and the file that a new one starts from.

Imports training, evaluation and below. Read `check.py` first.
"""
