"""The settings of attacks and certificates: which values a suite may give them."""

from typing import TYPE_CHECKING, Any, Literal

import pytest
from pydantic import PositiveInt

from marginbench.benchmarks.attacks import attack as attack_module
from marginbench.benchmarks.attacks.presets import PRESETS
from marginbench.benchmarks.attacks.scan import configured_attacks
from marginbench.benchmarks.certificates import certificate as certificate_module
from marginbench.benchmarks.certificates.scan import configured_certificates
from marginbench.benchmarks.estimator import Estimator, Query
from marginbench.benchmarks.registry import Registry
from marginbench.methods import MarginbenchError

if TYPE_CHECKING:
    from fractions import Fraction


def probed(q: Query | None, *, steps: PositiveInt = 3, way: Literal["up", "down"] = "up", rate: float = 0.5) -> Any:
    return steps, way, rate


def bare(q, *, radii=(1.0,), deep=False, limit=None):  # type: ignore[no-untyped-def]
    return radii, deep, limit


def deferred(q: Any, *, share: "Fraction | int" = 2) -> Any:
    return share


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 0}, "probed.steps=0: input should be greater than 0; default: 3"),
        ({"steps": True}, "probed.steps=True: input should be a valid integer"),
        ({"steps": 2.0}, "probed.steps=2.0: input should be a valid integer"),
        ({"way": "left"}, "probed.way='left': input should be 'up' or 'down'"),
        ({"rate": float("inf")}, "probed.rate=inf: input should be a finite number"),
        ({"step": 1}, "probed.step: unknown setting: did you mean 'steps'"),
    ],
)
def test_annotations_say_what_is_allowed(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(MarginbenchError) as error:
        Estimator("probed", probed).configured(settings)
    assert words in str(error.value)


def test_settings_reach_the_function() -> None:
    made = Estimator("probed", probed).configured({"steps": 5, "rate": 1}).configured({"way": "down"})
    assert made.function(None) == (5, "down", 1) and made.settings == {"steps": 5, "way": "down", "rate": 1}
    with pytest.raises(MarginbenchError, match="greater than 0"):
        made.configured({"steps": -1})


def test_without_annotations_the_defaults_say_what_is_allowed() -> None:
    made = Estimator("bare", bare).configured({"radii": [1.0, 2.0], "limit": "any"})
    assert made.function(None) == ((1.0, 2.0), False, "any")
    with pytest.raises(MarginbenchError, match=r"bare\.deep=1: input should be a valid boolean"):
        made.configured({"deep": 1})
    with pytest.raises(MarginbenchError, match=r"deferred\.share='x': input should be a valid integer"):
        Estimator("deferred", deferred).configured({"share": "x"})


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("fmn", {"steps": -5}),
        ("deepfool", {"overshoot": -0.1}),
        ("ddn", {"gamma": 1.0}),
        ("cw", {"kappa": -1.0}),
        ("apgd_t", {"targets": 0}),
        ("square", {"n_queries": 0}),
        ("noise", {"radii": [1.0, -1.0]}),
        ("noise", {"radii": "12"}),
    ],
)
def test_settings_of_attacks_have_ranges(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(MarginbenchError, match=rf"{name}\.{next(iter(settings))}="):
        configured_attacks({name: settings})


@pytest.mark.parametrize(
    ("name", "settings"),
    [("crown", {"conv_mode": "nope"}), ("alpha_crown", {"iterations": 0}), ("milp", {"time_limit": -1.0})],
)
def test_settings_of_certificates_have_ranges(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(MarginbenchError, match=rf"{name}\.{next(iter(settings))}="):
        configured_certificates({name: settings})


def test_a_list_of_toml_is_a_tuple() -> None:
    assert configured_attacks({"noise": {"radii": [0.5, 1]}})["noise"].settings["radii"] == (0.5, 1)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_keep_to_it(name: str) -> None:
    assert configured_attacks(PRESETS[name]).keys() == PRESETS[name].keys()


def test_the_decorators_need_no_parentheses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attack_module, "ATTACKS", Registry())
    monkeypatch.setattr(certificate_module, "CERTIFICATES", Registry())
    for decorator in (attack_module.attack, certificate_module.certificate):
        plain, called = decorator(probed), decorator()(probed)  # a second time, as when a cell is run again
        assert plain == called and plain.name == "probed" and plain.function is probed
    assert attack_module.ATTACKS.keys() == certificate_module.CERTIFICATES.keys() == {"probed"}
    assert not attack_module.attack(gradient=False)(probed).gradient
