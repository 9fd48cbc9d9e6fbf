"""The networks of the suites.

Imports methods alone. Read `networks.py` first: the list, and how a network is put together.
"""
