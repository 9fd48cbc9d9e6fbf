"""Lower bounds of the margin: radii within which no image has another class.

Imports estimator, registry, attacks, machine and methods. Read `certificate.py` and `lipschitz.py` first, then
`crown.py`; names with _ are its parts. Any file may add a certificate: see `certificate.certificate`.
"""
