"""`halfulp bench`: whole gemm calls, interleaved with the reference, as table and as JSON."""

from __future__ import annotations

import json

import pytest

from halfulp.cli.bench import THREAD_VARIABLES
from halfulp.host import benchmark, numerics_benchmark, peers
from halfulp.numerics.gemm import GemmSpec


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """One GEMM on the golden device; the real suites take minutes."""
    plan = (("golden", GemmSpec("e4m3", "e5m2", "e4m3", rounding="stochastic:4"), (4, 6, 2)),)
    monkeypatch.setattr(benchmark, "SUITES", {"rtl": plan, "emulator": plan})
    monkeypatch.setattr(benchmark, "SHORTEST_S", 1e-4)
    for variable in THREAD_VARIABLES:
        monkeypatch.setenv(variable, "1")


def test_json(halfulp):
    reference, figure = json.loads(halfulp("bench", "rtl", "--rounds", 2, "--json").out)
    assert reference["device"] == "torch"
    assert reference["ratio_to_torch_float32"] == 1
    assert (figure["device"], figure["m_k_n"], figure["cycles"]) == ("golden", [4, 6, 2], None)
    assert 0 < figure["mac_per_s_median"] <= figure["mac_per_s_best"]
    assert 0 < figure["ratio_to_torch_float32"] < 1


def test_table(halfulp):
    outcome = halfulp("bench", "--rounds", 1)
    assert outcome.code == 0
    assert outcome.out.count("float8_e4m3fn × float8_e5m2 → float8_e4m3fn, stochastic:4") == 2
    assert outcome.out.count("float32 matmul") == 1


def test_rates_and_ratios_are_consistent():
    reference, figure = benchmark.run_benchmark(["rtl"], rounds=3)
    assert len(reference.rates) == len(figure.rates) == len(figure.ratios) == 3
    for ratio, mine, theirs in zip(figure.ratios, figure.rates, reference.rates, strict=True):
        assert ratio == mine / theirs
    assert figure.best == max(figure.rates)
    assert figure.macs == 48


def test_bad_options(halfulp):
    assert halfulp("bench", "rtk").error == "unknown suite 'rtk'; nearest: 'rtl'"
    assert halfulp("bench", "rtl", "--rounds", 0).error == "rounds must be 1 or more, not 0"
    assert halfulp("bench", "rtl", "--threads", 0).error == "threads must be 1 or more, not 0"
    for option in (["--clock", 3], ["--latency", 2], ["--bandwidth", 0.5], ["--rtl"]):
        error = halfulp("bench", "rtl", *option).error
        assert error == "--clock, --latency, --bandwidth and --rtl are of the suite model, not of 'rtl'"


@pytest.fixture
def small_numerics(monkeypatch):
    """Small sizes and quick peers; the real ones take a minute."""
    monkeypatch.setattr(numerics_benchmark, "SHORTEST_S", 1e-4)
    monkeypatch.setattr(numerics_benchmark, "QUANTISED", (64, 70))
    monkeypatch.setattr(numerics_benchmark, "PEER_SHAPE", (4, 5, 6))
    monkeypatch.setattr(numerics_benchmark, "GOLDEN_SHAPE", (2, 3, 4))
    monkeypatch.setattr(peers, "PEERS", [peer for peer in peers.PEERS if peer.package in ("torch", "ml_dtypes")])
    run = numerics_benchmark.run_numerics_benchmark
    monkeypatch.setattr(
        numerics_benchmark, "run_numerics_benchmark", lambda **options: run(shapes=((8, 16, 8),), **options)
    )


def test_numerics(halfulp, small_numerics):
    """Every kind of figure beside its target; ratios are to the reference of the same size and round."""
    found = json.loads(halfulp("bench", "numerics", "--rounds", 2, "--json").out)
    assert found["rounds"] == 2
    assert found["load"] >= 0
    figures = {(f["by"], f["what"]): f for f in found["figures"]}
    mine = [f for f in found["figures"] if f["by"] == "halfulp"]
    blocks = len(numerics_benchmark.BLOCK_FORMATS)
    assert len(mine) == len(numerics_benchmark.GEMMS) + blocks + 2 * (1 + 2 * blocks) + 1
    for figure in mine:
        if figure["target"] is None:
            assert figure["reached"] is None
            continue
        measured = figure["ratio"] if figure["reference"] else figure["per_s_median"]
        assert figure["reached"] == (measured >= figure["target"])
        assert figure["spread"] >= 0
    assert figures["halfulp", "golden model, e6m5 stochastic:13"]["target"] == 1e6
    assert figures["halfulp", "float32 to e4m3, stochastic:8"]["reference"] == "copy of float32"
    assert figures["halfulp", "float32 to mxfp4_e2m1 along columns, nearest_even"]["target"] == 0.8
    assert figures["halfulp", "nvfp4 × nvfp4, e8m23 a block"]["reference"] == "torch float32 matmul"
    assert any(by.startswith("ml_dtypes") for by, _ in figures)
    assert found["broken_peers"] == {}
    for ratio, quoted in zip(found["over_nearest_peer"], (0.103e9, 0.047e9), strict=True):
        rate = figures["halfulp", ratio["what"]]["per_s_median"]
        assert (ratio["peer_per_s"], ratio["is_measured"], ratio["target"]) == (quoted, False, 20)
        assert ratio["ratio"] == rate / quoted
        assert ratio["reached"] == (rate >= 20 * quoted)


def test_peers_that_break_are_told_of_and_the_rest_is_measured(halfulp, small_numerics, monkeypatch):
    """One from the start, one in the second round; MPTorch is what the GEMMs that it can do are held against."""
    calls = iter([None] * 3)

    def installed(given, *, broken, tell):
        broken["qtorch 0.3.0"] = "ImportError: built for another torch"
        yield peers.PeerWork("pychop 0.6.2", "float32 to e4m3, nearest", lambda: next(calls))
        yield peers.PeerWork("mptorch 0.3.0", peers.NEAREST, lambda: given.a @ given.b, is_gemm=True)

    monkeypatch.setattr(numerics_benchmark, "installed_peers", installed)
    monkeypatch.setattr(numerics_benchmark, "SHORTEST_S", 0.0)
    nearest = numerics_benchmark.ROUNDED[peers.NEAREST]
    monkeypatch.setattr(numerics_benchmark, "GEMMS", {nearest: numerics_benchmark.GEMMS[nearest]})
    monkeypatch.setattr(numerics_benchmark, "BLOCK_FORMATS", ())
    found = json.loads(halfulp("bench", "numerics", "--rounds", 3, "--json").out)
    assert found["broken_peers"] == {
        "qtorch 0.3.0": "ImportError: built for another torch",
        "pychop 0.6.2": "StopIteration",
    }
    figures = {f["by"]: f for f in found["figures"]}
    assert "pychop 0.6.2" not in figures
    quoted, measured = found["over_nearest_peer"]
    assert (quoted["what"], quoted["is_measured"]) == (nearest, False)
    assert (measured["peer"], measured["is_measured"]) == ("mptorch 0.3.0", True)
    assert measured["peer_per_s"] == figures["mptorch 0.3.0"]["per_s_median"]
    outcome = halfulp("bench", "numerics", "--rounds", 1)
    assert outcome.code == 0
    assert "does not work: ImportError: built for another torch" in outcome.out
    assert "over the nearest peer" in outcome.out


def test_numerics_takes_one_thread(halfulp):
    assert halfulp("bench", "numerics", "--threads", 2).error == "numerics is measured on one thread, not 2"
    assert halfulp("bench", "numerics", "--rounds", 0).error == "rounds must be 1 or more, not 0"
