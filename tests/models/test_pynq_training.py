"""Training on the virtual board, and on one over the network, gives the emulator's weights bit for bit."""

from __future__ import annotations

import pytest

from halfulp.host.device import open_device
from halfulp.host.pynq_device import PynqDevice
from halfulp.host.recipe import get_recipe, requirements
from halfulp.models.training import train
from halfulp.models.training_config import TrainingConfig

pytestmark = pytest.mark.timeout(600)  # a core may have to be compiled

CONFIG = TrainingConfig(data="digits", hidden=(16,), batch_size=240, learning_rate=0.1)


def stop_after(steps: int):
    asked = iter(range(steps))
    return lambda: next(asked, None) is None


def test_the_virtual_board_trains_as_the_emulator_does():
    needed = requirements(get_recipe(CONFIG.recipe))
    with open_device("pynq-sim:4x4", requirements=needed) as board, open_device("emulator") as emulator:
        result = train(CONFIG, device=board, check=emulator)
    assert result.steps == 6
    assert result.compared == result.gemms > 30
    assert result.cycles is not None


def test_a_board_over_the_network_trains_as_the_emulator_does():
    from halfulp.sim.virtual_board_server import VirtualBoardServer

    needed = requirements(get_recipe(CONFIG.recipe))
    with open_device("pynq-sim:4x4", requirements=needed) as near, open_device("emulator") as emulator:
        near.prepare(*needed)
        overlay = near.overlay  # pyright: ignore[reportAttributeAccessIssue]  (of a virtual board)
        with (
            VirtualBoardServer(overlay.device) as server,
            open_device(f"pynq:{overlay.bitfile_name}@127.0.0.1:{server.port}", requirements=needed) as far,
        ):
            assert isinstance(far, PynqDevice)
            result = train(CONFIG, device=far, check=emulator, should_stop=stop_after(2))
    assert result.compared == result.gemms == 10
