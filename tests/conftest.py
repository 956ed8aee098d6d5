"""What every test shares: the seed of its random choices, and what this machine can run.

One number, ``--seed``, decides every random choice of a run. It is printed at the top of the run and with
every failure; ``--seed fresh`` draws a new one.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
from typing import Any

import hypothesis
import numpy as np
import pytest

DEFAULT_SEED = 20240229

# A test that compiles or simulates takes as long as the machine needs: no deadline for a single example.
# Without --fuzz the examples are the same in every run: a red test is red because of the change at hand.
hypothesis.settings.register_profile("fixed", deadline=None, derandomize=True, database=None, print_blob=True)
hypothesis.settings.register_profile("fuzz", deadline=None, max_examples=1000, database=None, print_blob=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("halfulp")
    group.addoption(
        "--seed",
        default=str(DEFAULT_SEED),
        help=f"seed of all random choices: an integer, or `fresh` to draw one (default {DEFAULT_SEED})",
    )
    group.addoption(
        "--fuzz",
        action="store_true",
        help="run only the tests that make random choices, with more examples of each property",
    )
    group.addoption("--proofs", action="store_true", help="run the longer proofs too")


@pytest.hookimpl(tryfirst=True)  # before the hypothesis plugin reads its seed
def pytest_configure(config: pytest.Config) -> None:
    started_by = getattr(config, "workerinput", None)  # in a process of pytest-xdist, which draws no seed of its own
    if started_by is not None:
        config.option.seed = started_by["seed"]
    elif config.option.seed == "fresh":
        config.option.seed = str(secrets.randbits(32))
    try:
        int(config.option.seed)
    except ValueError:
        raise pytest.UsageError(f"--seed must be an integer or 'fresh', not {config.option.seed!r}") from None
    if config.option.fuzz:
        config.option.hypothesis_seed = config.option.seed
    hypothesis.settings.load_profile("fuzz" if config.option.fuzz else "fixed")

    # Plots are drawn into files; several test processes share the cores that one would use all of.
    os.environ.setdefault("MPLBACKEND", "Agg")
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))


@pytest.hookimpl(optionalhook=True)  # there is no such hook without pytest-xdist
def pytest_configure_node(node: Any) -> None:
    node.workerinput["seed"] = node.config.option.seed


def pytest_report_header(config: pytest.Config) -> str:
    return f"seed: {config.option.seed} (repeat with --seed {config.option.seed})"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [item for item in items if not config.option.proofs and item.get_closest_marker("proof")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
    if config.option.fuzz:
        chosen = [item for item in items if _is_random(item)]
        config.hook.pytest_deselected(items=[item for item in items if not _is_random(item)])
        items[:] = chosen
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if on_gpu and not _cuda_is_available():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    report = yield
    if report.failed and _is_random(item):
        options = f"--seed {item.config.option.seed}" + (" --fuzz" if item.config.option.fuzz else "")
        report.sections.append(("seed", f"repeat with: pytest {options} {item.nodeid!r}"))
    return report


def _is_random(item: pytest.Item) -> bool:
    return "seed" in getattr(item, "fixturenames", ()) or getattr(
        getattr(item, "obj", None), "is_hypothesis_test", False
    )


def _cuda_is_available() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """This test's own 63-bit seed: from ``--seed`` and the test's name, so that no two share a stream."""
    return _seed_of(request)


@pytest.fixture(autouse=True)
def _torch_is_seeded(request: pytest.FixtureRequest) -> None:
    """What PyTorch draws by itself, such as the weights of a new layer, is each test's own too."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(_seed_of(request))


def _seed_of(request: pytest.FixtureRequest) -> int:
    text = f"{request.config.option.seed} {request.node.nodeid}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    """A NumPy generator of this test's own seed."""
    return np.random.default_rng(seed)
