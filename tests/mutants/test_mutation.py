"""The tests notice faults of the hardware: a few mutants of the list, which `make mutants` runs whole, and the list."""

from __future__ import annotations

from pathlib import Path

import pytest

from .mutation import LIST, Mutant, MutantError, Outcome, Results, Suite, check, load, run, verdict

QUICK = ("threefry: injections", "operand: an infinity", "descriptor: the largest K")


def test_every_block_has_mutants_that_fit_the_sources() -> None:
    suite = load()
    check(suite.mutants)
    assert len(suite.mutants) >= 45
    assert {mutant.file for mutant in suite.mutants} == set(suite.units)


def test_a_share_of_the_list_is_killed(tmp_path: Path) -> None:
    """Without the baseline, which is these very tests elsewhere in this run."""
    suite = load()
    chosen = [mutant for mutant in suite.mutants if mutant.name.startswith(QUICK)]
    assert len(chosen) == len(QUICK)
    outcomes = run(chosen, suite, work=tmp_path, baseline=False)
    assert [(outcome.state, outcome.by[:6]) for outcome in outcomes] == [("killed", "FAILED")] * len(QUICK), outcomes


def test_what_was_found_is_kept_for_the_same_sources(tmp_path: Path) -> None:
    source = tmp_path / "base/hw/pe.py"
    source.parent.mkdir(parents=True)
    source.write_text("x = 1")
    suite = Suite((), {"pe.py": ["tests/hw/test_pe.py"]}, {"default": []})
    mutant, other = Mutant("pe.py", "x", "1", "2"), Mutant("pe.py", "x", "1", "3")
    kept = tmp_path / "results.json"
    outcome = Outcome(mutant.name, "killed", "FAILED a_test", 1.0)
    results = Results(kept, tmp_path / "base")
    results.add(results.key(mutant, suite), outcome)
    again = Results(kept, tmp_path / "base")
    assert again.find(again.key(mutant, suite)) == outcome
    assert again.find(again.key(other, suite)) is None
    source.write_text("x = 1  # changed")
    changed = Results(kept, tmp_path / "base")
    assert changed.find(changed.key(mutant, suite)) is None


def test_survivors_and_faults_that_do_not_build_are_told(tmp_path: Path) -> None:
    units = {"threefry.py": ["tests/hw/test_threefry.py"]}
    suite = Suite((), units, {"default": []})
    survivor = Mutant("threefry.py", "nothing", "ROUNDS = 20", "ROUNDS = 10 + 10")
    broken = Mutant("threefry.py", "its own source", "ROUNDS = 20", "ROUNDS = twenty")
    outcomes = run([survivor, broken], suite, work=tmp_path, baseline=False, tell=lambda _: None)
    assert [outcome.state for outcome in outcomes] == ["survived", "not built"]
    assert verdict(survivor, outcomes[0]) == "no test notices"
    assert verdict(broken, outcomes[1]) == "does not build"


def test_an_equivalent_mutant_must_survive() -> None:
    mutant = Mutant("threefry.py", "nothing", "a", "b", equivalent="both are the same")
    assert verdict(mutant, Outcome(mutant.name, "survived", "", 1.0)) == ""
    assert verdict(mutant, Outcome(mutant.name, "killed", "FAILED a_test", 1.0)) == "argued equivalent, and killed"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("no such text", "", r"threefry: x: the old text stands 0 times in threefry.py, not once: 'no such text'"),
        ("m.d.sync", "m.d.comb", r"the old text stands \d+ times in threefry.py, not once"),
        ("ROUNDS = 20", "ROUNDS = 20", "the new text is the old one"),
    ],
)
def test_a_mutant_that_does_not_fit_is_refused(old: str, new: str, message: str) -> None:
    with pytest.raises(MutantError, match=message):
        check([Mutant("threefry.py", "x", old, new)])


def test_a_list_needs_tests_and_names(tmp_path: Path) -> None:
    entry = '[[mutant]]\nfile = "pe.py"\nbreaks = "x"\nold = "a"\nnew = "b"\n'
    path = tmp_path / "mutants.toml"
    path.write_text(f"[units]\n[cores]\n{entry}")
    with pytest.raises(MutantError, match=r"pe: x: pe.py has no tests in \[units\]"):
        load(path)
    path.write_text(f'[units]\n"pe.py" = []\n[cores]\n{entry}{entry}')
    with pytest.raises(MutantError, match="two mutants are called 'pe: x'"):
        load(path)
    assert LIST.exists()
