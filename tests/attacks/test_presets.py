"""What a suite may say about attacks: a table, or a preset."""

import copy
from pathlib import Path
from typing import Any

import pytest
from attack_support import with_attacks

from marginbench.benchmarks.attacks.presets import PRESETS
from marginbench.benchmarks.attacks.scan import ATTACKS
from marginbench.benchmarks.suites.schema import load_suite
from marginbench.methods import MarginbenchError

DIGITS = {"fmn": {}, "apgd": {}, "square": {}, "blend": {}, "noise": {}}


def as_table(preset: dict[str, dict[str, Any]]) -> str:
    def text(value: Any) -> str:
        return str(value).lower() if isinstance(value, bool) else repr(value)

    rows = (
        f"{name} = {{ {', '.join(f'{key} = {text(value)}' for key, value in settings.items())} }}"
        for name, settings in preset.items()
    )
    return "\n".join(["[evaluation.attacks]", *rows, ""])


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_its_table(tiny: Path, name: str) -> None:
    before = copy.deepcopy(PRESETS)
    short = load_suite(str(with_attacks(tiny, f'attacks = "{name}"', "short.toml")))
    listed = load_suite(str(with_attacks(tiny, as_table(PRESETS[name]), "listed.toml")))
    assert short.evaluation.attacks == PRESETS[name]
    assert short.fingerprint == listed.fingerprint != load_suite(str(tiny)).fingerprint
    short.evaluation.attacks["apgd_t"] = {}
    assert before == PRESETS, "a suite has its own copy"


@pytest.mark.parametrize("name", PRESETS)
def test_presets_name_settings_that_exist(name: str) -> None:
    for attack, settings in PRESETS[name].items():
        assert attack in ATTACKS
        defaults = ATTACKS[attack].settings
        for key, value in settings.items():
            assert type(value) is type(defaults[key]), (attack, key)


def test_quick_is_what_the_digits_are_measured_with() -> None:
    assert PRESETS["quick"] == DIGITS
    attacks = load_suite("digits").evaluation.attacks
    assert attacks == DIGITS


def test_autoattack_has_the_settings_of_the_original() -> None:
    """APGD-CE, targeted APGD-DLR, targeted FAB, each 100 steps and 1 restart, 9 targets; Square with 5,000 queries."""
    preset = PRESETS["autoattack"]
    assert list(preset) == ["apgd_ce", "apgd_t", "fab_t", "square"]
    assert all(settings["restarts"] == 1 for settings in preset.values())
    assert all(preset[name]["steps"] == 100 for name in ("apgd_ce", "apgd_t", "fab_t"))
    assert all(preset[name]["targets"] == 9 for name in ("apgd_t", "fab_t"))
    assert preset["square"]["n_queries"] == 5000
    assert preset["square"]["original"] and preset["apgd_ce"]["original"]


def test_exhaustive_holds_the_others_with_at_least_their_effort() -> None:
    full = PRESETS["exhaustive"]
    assert set(full) == set(ATTACKS)
    for name in ("quick", "autoattack"):
        for attack, settings in PRESETS[name].items():
            defaults = ATTACKS[attack].settings
            for key in {**settings, **full[attack]}:
                most, less = (table.get(key, defaults[key]) for table in (full[attack], settings))
                assert most >= less, (attack, key)


def test_an_unknown_preset_says_what_is_known(tiny: Path) -> None:
    with pytest.raises(MarginbenchError, match=r"attacks='autoatack'.*did you mean 'autoattack'.*quick"):
        load_suite(str(with_attacks(tiny, 'attacks = "autoatack"')))
