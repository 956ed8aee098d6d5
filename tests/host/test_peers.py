"""Peers in the benchmark: each asked as its own functions are declared; a broken one stops nothing."""

from __future__ import annotations

import logging
import sys
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from halfulp.host import peers
from halfulp.host.peers import MPTORCH, PeerInput, PeerWork, installed_peers, quietly

DOUBLES = {
    # Declared as the packages do, without what is not used here: what they are asked has to fit.
    "mptorch": """
        def float_mm(a, b, man_add=23, exp_add=8, man_mul=23, exp_mul=8, rounding="nearest", fma=True, subnormals=True,
                     saturate=True, compensated=False, rbits_add=0, rbits_mul=0):
            assert (man_add, exp_add, fma) == (5, 6, True) and rounding in ("nearest", "stochastic")
            return a @ b

        def float_quantize(x, exp, man, rounding="stochastic", subnormals=True, saturate=True, prng=0):
            assert (exp, man) == (4, 3) and rounding in ("nearest", "stochastic")
            return x.clone()
        """,
    "qtorch": """
        import os
        from pathlib import Path

        assert Path(os.environ["TORCH_EXTENSIONS_DIR"]).name == "qtorch"  # not where the other one is built

        def float_quantize(x, exp, man, rounding="stochastic"):
            assert (exp, man) == (4, 3) and rounding in ("nearest", "stochastic")
            return x.clone()
        """,
    "mx": """
        def finalize_mx_specs(specs, early_exit=True):
            return specs

        def matmul(in1, in2, bias=None, mx_specs=None, name=None, mode_config="aa"):
            assert mx_specs["a_elem_format"] == mx_specs["w_elem_format"] == "fp8_e4m3"
            return in1 @ in2
        """,
    "pychop": """
        class Chop:
            def __init__(self, exp_bits, sig_bits, rmode=1, subnormal=True, chunk_size=800, random_state=42, verbose=0):
                assert (exp_bits, sig_bits) == (4, 3) and rmode in (1, 5)

            def __call__(self, x):
                return x.clone()
        """,
    "apytypes": """
        from contextlib import contextmanager
        from enum import Enum

        QuantizationMode = Enum("QuantizationMode", ["TIES_EVEN", "STOCH_WEIGHTED"])
        threads = []
        reset_thread_pool = threads.append

        class APyFloatArray:
            @classmethod
            def from_float(cls, value, exp_bits, man_bits, bias=None, shape=None):
                assert (exp_bits, man_bits) == (4, 3)
                return value

        @contextmanager
        def APyFloatAccumulatorContext(exp_bits=None, man_bits=None, bias=None, quantization=None):
            assert (exp_bits, man_bits) == (6, 5) and isinstance(quantization, QuantizationMode) and threads == [1]
            yield
        """,
}

MX_OPS = """
    def quantize_mx_op(A, mx_specs, elem_format=None, block_size=None, axes=None, round="nearest",
                       expand_and_reshape=False):
        assert elem_format in ("fp8_e4m3", "fp4_e2m1") and (block_size, axes, round) == (32, [-1], "even")
        return A.clone()
    """

GIVEN = PeerInput(
    a=np.ones((4, 5), np.float32),
    b=np.ones((5, 6), np.float32),
    numbers=np.linspace(-2, 2, 64 * 96, dtype=np.float32).reshape(64, 96),
)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Writes a package where it is found before any other; gone after the test, from `sys.modules` as well."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [*DOUBLES, "mptorch.quant", "qtorch.quant", "mx.mx_ops"]:
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setitem(sys.modules, name, None)  # so that monkeypatch takes away what the test imports
        del sys.modules[name]

    def write(name: str, source: str) -> None:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        files = {"__init__": source}
        if name in ("mptorch", "qtorch"):
            files = {"__init__": "", "quant": source}
        if name == "mx":
            files["mx_ops"] = MX_OPS
        for file, text in files.items():
            (folder / f"{file}.py").write_text(textwrap.dedent(text), encoding="utf-8")

    return write


def run(monkeypatch: pytest.MonkeyPatch, *modules: str) -> tuple[list[PeerWork], dict[str, str], list[str]]:
    """What these peers do, what is wrong with them, and what was told."""
    chosen = [peer for peer in peers.PEERS if peer.module.partition(".")[0] in modules]
    monkeypatch.setattr(peers, "PEERS", chosen)
    broken: dict[str, str] = {}
    told: list[str] = []
    return list(installed_peers(GIVEN, broken=broken, tell=told.append)), broken, told


def test_all_peers_are_asked_as_they_are_declared(install, monkeypatch):
    for name, source in DOUBLES.items():
        install(name, source)
    found, broken, told = run(monkeypatch, *DOUBLES)
    assert broken == {}
    gemms = [(work.by, work.what) for work in found if work.is_gemm]
    assert [by for by, _ in gemms] == ["microxcaling", *["mptorch"] * 2, *["apytypes"] * 2]
    assert {what for by, what in gemms if by == "mptorch"} == set(MPTORCH)
    quantising = [work.by for work in found if not work.is_gemm]
    assert quantising == ["microxcaling"] * 2 + ["pychop"] * 2 + ["qtorch"] * 2 + ["mptorch"] * 2
    for work in found:
        work.call()
    assert "mptorch: importing; the first time it is compiled" in told


def test_the_peers_that_are_dependencies_work(monkeypatch):
    found, broken, _ = run(monkeypatch, "torch", "ml_dtypes", "gfloat", "torchao")
    assert broken == {}
    assert {work.by.split()[0] for work in found} == {"torch", "ml_dtypes", "gfloat", "torchao"}
    assert all(work.by.split()[1][0].isdigit() for work in found)  # a version
    assert any("nvfp4" in work.what for work in found)


def test_what_is_not_installed_is_no_peer(install, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert run(monkeypatch, *DOUBLES) == ([], {}, [])


@pytest.mark.parametrize(
    ("name", "source", "problem"),
    [
        ("pychop", "import no_such_thing", "ModuleNotFoundError: No module named 'no_such_thing'"),
        ("pychop", "raise RuntimeError('of two\\nlines')", "RuntimeError: of two"),
        ("pychop", "raise RuntimeError", "RuntimeError"),
        ("pychop", "", "AttributeError: module 'pychop' has no attribute 'Chop'"),
        (
            "qtorch",
            "import sys; print('a compiler', 'error', file=sys.stderr); raise OSError('undefined symbol')",
            "ImportError: importing qtorch.quant failed: OSError: undefined symbol",
        ),
        (
            "mptorch",
            "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
            "ImportError: importing mptorch.quant ended the process by signal 11",
        ),
        ("mptorch", "import time; time.sleep(60)", "TimeoutError: importing mptorch.quant takes more than 0.3 s"),
        ("mptorch", "def float_mm(a, b): ...", "TypeError: float_mm() got an unexpected keyword argument 'man_add'"),
    ],
)
def test_a_broken_peer_is_told_of_in_one_line_and_stops_nothing(install, monkeypatch, name, source, problem):
    install(name, source)
    install("apytypes", DOUBLES["apytypes"])
    if "sleep" in source:
        monkeypatch.setattr(peers, "BUILD_S", 0.3)
    found, broken, _ = run(monkeypatch, name, "apytypes")
    assert broken == {name: problem}
    assert {work.by for work in found} == {"apytypes"}


def test_quietly_keeps_warnings_in_and_only_while_it_lasts(caplog):
    with quietly():
        logging.getLogger("a peer").warning("not heard")
        warnings.warn("nor this", stacklevel=1)
    logging.getLogger("a peer").warning("heard")
    assert caplog.messages == ["heard"]
    with pytest.raises(UserWarning):
        warnings.warn("an error again", stacklevel=1)
