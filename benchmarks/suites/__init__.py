"""What is compared: data, network, budget, radii, estimators. A TOML file each.

Imports all that suites name: attacks, certificates, probes, data, nets. Read `digits.toml` first, then `schema.py`, and
`derive.py` to change some keys.
"""
