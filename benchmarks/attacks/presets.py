"""What a suite may name in the place of a table of attacks, as in `attacks = "quick"`.

quick: FMN from several starts, which for its passes came nearest on standard, adversarially and certifiably trained
networks (python -m marginbench.benchmarks.speed.strength), and checks on it. autoattack: the standard version of
AutoAttack (Croce and Hein, ICML 2020, arXiv 2003.01690), with its settings; nothing else may be called by that name.
exhaustive: all attacks, with more steps and restarts.
"""

from typing import Any

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "quick": {"fmn": {}, "apgd": {}, "square": {}, "blend": {}, "noise": {}},
    "autoattack": {
        "apgd_ce": {"steps": 100, "restarts": 1, "original": True},
        "apgd_t": {"steps": 100, "restarts": 1, "targets": 9},
        "fab_t": {"steps": 100, "restarts": 1, "targets": 9},
        "square": {"n_queries": 5000, "restarts": 1, "original": True},
    },
    "exhaustive": {
        "deepfool": {"steps": 30},
        "fmn": {"steps": 200, "targets": 9, "starts": 9, "kept": 18},
        "pdpgd": {"steps": 200, "starts": 9},
        "alma": {"steps": 200, "starts": 9},
        "pgd": {"targets": 9},
        "ddn": {"steps": 200},
        "cw": {"steps": 200, "searches": 9},
        "apgd": {"steps": 100, "restarts": 5},
        "apgd_ce": {"steps": 100, "restarts": 5, "original": True},
        "apgd_t": {"steps": 100, "restarts": 3, "targets": 9},
        "fab_t": {"steps": 100, "restarts": 3, "targets": 9},
        "square": {"n_queries": 5000, "restarts": 3, "original": True},
        "blend": {},
        "noise": {"directions": 32},
    },
}
