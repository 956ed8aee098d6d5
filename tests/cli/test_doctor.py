"""`halfulp doctor` and `halfulp devices`: they tell what is missing and how to get it."""

from __future__ import annotations

import json

import pytest

from halfulp.host.device import DEVICES


def test_all_is_well_here(halfulp, tmp_path, monkeypatch):
    monkeypatch.setenv("HALFULP_CACHE", str(tmp_path / "cache"))
    outcome = halfulp("doctor")
    assert outcome.code == 0, outcome.out
    findings = json.loads(halfulp("doctor", "--json").out)
    assert {"numpy", "torch", "verilator", "g++", "make"} <= {finding["what"] for finding in findings}
    assert all(finding["found"] for finding in findings if not finding["is_optional"])


def test_missing_things_are_named_with_a_remedy(halfulp, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "clang++-99 -stdlib=libc++")
    monkeypatch.setenv("HALFULP_CACHE", "/proc/nowhere")
    monkeypatch.setattr("halfulp.cli.doctor.PACKAGES", (("nothere", "not.here", "this test", "halfulp[nothing]"),))
    outcome = halfulp("doctor", "--json")
    assert outcome.code == 1
    findings = {finding["what"]: finding for finding in json.loads(outcome.out)}
    assert findings["clang++-99"]["state"] == "missing"
    assert findings["make"]["remedy"] == "apt install make"
    assert findings["nothere"]["remedy"] == "pip install 'halfulp[nothing]'"
    assert findings["cache /proc/nowhere"]["remedy"].startswith("set HALFULP_CACHE to a folder that can be written: ")
    assert findings["iverilog"]["state"] == "not there"


@pytest.mark.parametrize("name", [kind.spelling for kind in DEVICES.members()])
def test_devices_are_listed(halfulp, name):
    assert name in halfulp("devices").out
    assert name in [each["device"] for each in json.loads(halfulp("devices", "--json").out)]
