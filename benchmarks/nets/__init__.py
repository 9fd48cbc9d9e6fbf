"""The networks of the suites.

Imports the registry and methods. Read `networks.py` first: how a network is put together; `architecture.py` to add
one.
"""
