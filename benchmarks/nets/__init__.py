"""The networks of the suites.

Imports the registry and methods. Read `make.py` first: how a network is put together; `network.py` to add one.
"""
