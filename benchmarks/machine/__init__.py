"""The computer: devices, memory, files, seeds, clocks and deadlines; nothing about margins.

Imports `methods.errors` and `methods.net` alone. Read `device.py` and `files.py` first.
"""
