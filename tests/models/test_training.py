"""Training: it learns, repeats bit for bit, survives interruption, and two devices give one network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from halfulp.host.comparison import DifferenceError
from halfulp.host.device import Device, GoldenDevice, open_device
from halfulp.models.networks import mlp
from halfulp.models.results import ResultsError, ResultsFolder
from halfulp.models.training import DivergedError, Progress, stored_config, train
from halfulp.models.training_config import TrainingConfig
from halfulp.numerics.gemm import GemmResult

SMALL = {"data": "digits", "hidden": (16,), "batch_size": 128, "learning_rate": 0.1}
STEPS = 12  # 1,437 images in batches of 128


class Faulty(GoldenDevice):
    """One wrong bit in the result of GEMM number `at`."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def _run(self, a, b, spec, seed) -> GemmResult:
        result = super()._run(a, b, spec, seed)
        if self.stats.gemms == self.at:
            result.codes[2, 1] ^= 1
        return result


def config(**changes) -> TrainingConfig:
    return TrainingConfig.from_dict({**SMALL, **changes})


def stop_after(steps: int) -> Callable[[], bool]:
    """Says stop before step number `steps` + 1 of this part of the run."""
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > steps

    return should_stop


def weights(folder: Path | None, name: str = "weights.pt") -> dict:
    assert folder is not None
    return torch.load(folder / name, weights_only=True)


def equal(one: dict, other: dict) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("recipe", ["fp32", "fp8-hybrid", "fp8-e4m3", "int8"])
def test_each_recipe_learns(recipe: str):
    result = train(config(recipe=recipe, epochs=2, batch_size=64), device=GoldenDevice())
    assert result.accuracy is not None
    assert result.accuracy > 0.85
    losses = [record["loss"] for record in result.history if record["event"] == "step"]
    assert losses[0] > 2
    assert sum(losses[-5:]) / 5 < 0.5
    # Two layers: five GEMMs a step, two a batch of test images (360 in batches of 250).
    assert result.gemms == (0 if recipe == "fp32" else 2 * (23 * 5 + 2 * 2))


def test_a_run_repeats_bit_for_bit_and_its_seed_matters(tmp_path: Path):
    runs = [
        train(config(recipe="int8", seed=seed), device=GoldenDevice(), results=tmp_path).folder for seed in (7, 7, 8)
    ]
    names = ["mlp-digits-int8-golden-seed7", "mlp-digits-int8-golden-seed7-2", "mlp-digits-int8-golden-seed8"]
    assert [folder.name for folder in runs if folder] == names
    assert equal(weights(runs[0]), weights(runs[1]))
    assert not equal(weights(runs[0]), weights(runs[2]))


@pytest.mark.parametrize("steps", [0, 5, STEPS, STEPS + 3])
def test_an_interrupted_run_ends_with_the_same_weights(steps: int, tmp_path: Path):
    settings = config(recipe="int8", epochs=2)  # gradients rounded stochastically: seeds must come again
    whole = train(settings, device=GoldenDevice(), results=tmp_path)
    part = train(settings, device=GoldenDevice(), results=tmp_path, should_stop=stop_after(steps))
    assert part.interrupted
    assert part.steps == steps
    assert part.folder is not None
    assert not (part.folder / "weights.pt").exists()
    again = train(settings, device=GoldenDevice(), resume=part.folder)
    assert not again.interrupted
    assert (again.steps, again.gemms, again.macs) == (whole.steps, whole.gemms, whole.macs)
    assert equal(weights(again.folder), weights(whole.folder))
    assert without_times(again.folder) == without_times(whole.folder)


def without_times(folder: Path | None) -> list[dict]:
    assert folder is not None
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name != "seconds"} for record in records]


def test_a_run_killed_between_checkpoints_resumes_from_the_last(tmp_path: Path):
    def kill(progress: Progress) -> None:
        if progress.epoch == 2 and progress.batch == 4:
            raise SystemExit  # nothing is saved after it

    settings = config(epochs=2)
    whole = train(settings, device=GoldenDevice(), results=tmp_path / "whole")
    with pytest.raises(SystemExit):
        train(settings, device=GoldenDevice(), results=tmp_path / "killed", tell=kill)
    (folder,) = (tmp_path / "killed").iterdir()
    assert len(without_times(folder)) == STEPS + 1 + 4  # metrics beyond the checkpoint …
    again = train(settings, device=GoldenDevice(), resume=folder)
    assert without_times(folder) == without_times(whole.folder)  # … are not there twice
    assert equal(weights(again.folder), weights(whole.folder))


def test_a_finished_run_can_be_given_more_epochs_on_another_device(tmp_path: Path):
    whole = train(config(epochs=2), device=GoldenDevice(), results=tmp_path)
    first = train(config(epochs=1), device=GoldenDevice(), results=tmp_path)
    assert first.folder is not None
    assert stored_config(first.folder) == config(epochs=1)
    more = train(stored_config(first.folder, epochs=2), device=GoldenDevice(), resume=first.folder)
    assert equal(weights(more.folder), weights(whole.folder))


def test_results_go_into_a_folder(tmp_path: Path):
    file = tmp_path / "results"
    file.touch()
    with pytest.raises(ResultsError, match=r"results is a file, not a folder for results$"):
        ResultsFolder.create(file, "run")


def test_the_folder_holds_what_it_should(tmp_path: Path):
    result = train(config(), device=GoldenDevice(), results=tmp_path)
    assert result.folder is not None
    names = sorted(path.name for path in result.folder.iterdir())
    assert names == ["checkpoint.pt", "metrics.jsonl", "run.json", "summary.json", "training.png", "weights.pt"]
    records = without_times(result.folder)
    assert [record["event"] for record in records] == ["step"] * STEPS + ["epoch"]
    assert records[-1]["test_accuracy"] == result.accuracy
    assert (result.folder / "training.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((result.folder / "summary.json").read_text())
    assert summary["accuracy"] == result.accuracy
    assert TrainingConfig.from_dict(summary["config"]) == config()
    mlp(64, 10, hidden=(16,)).load_state_dict(weights(result.folder))  # the unconverted network takes them


def test_progress_ends_at_its_total():
    told: list[Progress] = []
    train(config(epochs=2), device=GoldenDevice(), tell=told.append)
    assert [p.done for p in told] == list(range(1, told[-1].total + 1))
    assert {p.phase for p in told} == {"training", "testing"}
    assert told[0].accuracy is None
    assert told[-1].accuracy is not None


@pytest.mark.parametrize("name", ["emulator", "rtl:2x3"])
def test_two_epochs_on_two_devices_leave_equal_weights(name: str, tmp_path: Path):
    settings = config(epochs=2, hidden=(8,), batch_size=256, recipe="fp8-hybrid")
    with open_device(name) as device:
        result = train(settings, device=device, check=GoldenDevice(), results=tmp_path)
    alone = train(settings, device=GoldenDevice(), results=tmp_path)
    assert result.compared == result.gemms > 0
    assert result.to_dict()["equal"] is True
    assert equal(weights(result.folder), weights(alone.folder))
    assert (result.cycles is not None) == name.startswith("rtl")


@pytest.mark.parametrize(
    ("at", "place"),
    [
        (0, r"layer 'fc1', output, step 1, call 0, C\[2, 1\]"),
        (2, r"layer 'fc2', grad_input, step 1, call 1, C\[2, 1\]"),
        (5 + 4, r"layer 'fc1', grad_weight, step 2, call 0, C\[2, 1\]"),
        (STEPS * 5, r"layer 'fc1', output, step -1, call 0, C\[2, 1\]"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_one_wrong_bit_on_either_device_is_named(at: int, place: str, first: bool):
    faulty, golden = Faulty(at), GoldenDevice()
    ours, theirs = (faulty, golden) if first else (golden, faulty)
    with pytest.raises(DifferenceError, match=rf"golden and golden \(check\) differ: {place}: 0x\w+ \(.*\) against 0x"):
        train(config(), device=ours, check=theirs)


def test_divergence_is_told_and_the_checkpoint_stays(tmp_path: Path):
    with pytest.raises(DivergedError, match=r"the loss is (nan|inf) at step \d+ .*learning rate below 1e\+30"):
        train(config(learning_rate=1e30), device=GoldenDevice(), results=tmp_path)
    (folder,) = tmp_path.iterdir()
    assert stored_config(folder).learning_rate == 1e30


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"network": "mpl"}, ValueError, "unknown network 'mpl'; nearest: 'mlp'"),
        ({"data": "mnist"}, ValueError, "unknown data 'mnist'; nearest: 'mnist5k'"),
        ({"recipe": "fp8"}, ValueError, "unknown recipe 'fp8'"),
        ({"epochs": 0}, ValueError, "epochs must be at least 1, not 0"),
        ({"batch_size": 2.5}, TypeError, r"batch_size must be an integer, not 2\.5"),
        ({"hidden": (8, 0)}, ValueError, "hidden sizes must be integers of at least 1, not 0"),
        ({"learning_rate": 0.0}, ValueError, r"learning_rate must be positive, not 0\.0"),
        ({"momentum": 1.0}, ValueError, r"momentum must be at least 0 and below 1, not 1\.0"),
        ({"seed": -1}, ValueError, "seed must be 0 to"),
    ],
)
def test_wrong_settings_are_named(changes: dict, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        config(**changes)


def test_what_cannot_be_resumed_is_told(tmp_path: Path):
    settings = config(epochs=2)
    folder = train(settings, device=GoldenDevice(), results=tmp_path).folder
    assert folder is not None

    def resume(path: Path, **changes) -> None:
        train(config(**{"epochs": 2, **changes}), device=GoldenDevice(), resume=path)

    with pytest.raises(ResultsError, match=r"the run to resume has seed 0, not 1"):
        resume(folder, seed=1)
    with pytest.raises(ResultsError, match=r"the run to resume has hidden \[16\], not \[8\]"):
        resume(folder, hidden=(8,))
    with pytest.raises(ResultsError, match="has done 2 epochs already, 1 are asked for"):
        resume(folder, epochs=1)
    with pytest.raises(ResultsError, match=r"no results folder '.*nowhere' to resume"):
        resume(tmp_path / "nowhere")
    with pytest.raises(ResultsError, match=r"has no checkpoint.pt to resume from"):
        resume(tmp_path)
    checkpoint = folder / "checkpoint.pt"
    good = checkpoint.read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    for bad in (b"", b"nonsense", good[: len(good) // 2], bytes(flipped)):
        checkpoint.write_bytes(bad)
        with pytest.raises(ResultsError, match=r"checkpoint '.*checkpoint.pt' is damaged: ") as error:
            resume(folder)
        assert "\n" not in str(error.value)


def test_a_full_disk_leaves_the_file_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = ResultsFolder(tmp_path)
    folder.write_json("run.json", {"seed": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*run.json'"):
        folder.write_json("run.json", {"seed": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    assert json.loads((tmp_path / "run.json").read_text()) == {"seed": 1}


def test_the_device_must_run_the_recipe():
    class None_(GoldenDevice):
        def check(self, spec, k=None):
            raise ValueError(f"no {spec.a}")

    device: Device = None_()
    with pytest.raises(ValueError, match="no int8"):
        train(config(recipe="int8"), device=device)
