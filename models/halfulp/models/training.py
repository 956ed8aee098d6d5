"""The training loop: reproducible from one seed, restartable at any moment, checked by a second device at will."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from halfulp.host.comparison import GemmComparison, compare_states
from halfulp.host.convert import convert
from halfulp.host.device import Device
from halfulp.host.recipe import get_recipe
from halfulp.host.runner import GemmCounts, GemmRunner
from halfulp.host.seeds import derive_seed
from halfulp.models.data import Dataset, Split, load_data, permutation
from halfulp.models.networks import build_network
from halfulp.models.results import ResultsError, ResultsFolder
from halfulp.models.training_config import TrainingConfig

__all__ = ["DivergedError", "Progress", "TrainingResult", "stored_config", "train"]

EVALUATION_BATCH = 250
"""Test images a GEMM."""


class DivergedError(RuntimeError):
    """The loss is no number any more."""


class Progress(NamedTuple):
    """Where a run is: told after each batch, in training and in evaluation.

    epoch and batch count from 1; done and total count batches over the whole run, evaluation included.
    """

    phase: str
    epoch: int
    batch: int
    done: int
    total: int
    loss: float
    accuracy: float | None


@dataclass
class TrainingResult:
    """How a run ended.

    accuracy, loss: on the test images after the last whole epoch (None before the first); cycles: None where the
    device counts none; seconds: spent training, resumed parts included; compared: GEMMs found equal on the second
    device in this part of the run, None where there was none; interrupted: `should_stop` said so.
    """

    config: TrainingConfig
    device: str
    folder: Path | None
    accuracy: float | None = None
    loss: float | None = None
    epochs: int = 0
    steps: int = 0
    gemms: int = 0
    macs: int = 0
    cycles: int | None = None
    seconds: float = 0.0
    check: str | None = None
    compared: int | None = None
    interrupted: bool = False
    history: list[dict[str, Any]] = field(default_factory=list, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data, without the history."""
        data = {name: value for name, value in vars(self).items() if name != "history"}
        data |= {"config": self.config.to_dict(), "folder": str(self.folder) if self.folder else None}
        return data | {"equal": True if self.check and not self.interrupted else None}


class _Replica:
    """One network in training on one device: weights, optimiser, runner."""

    def __init__(self, config: TrainingConfig, data: Dataset, device: Device) -> None:
        self.device = device
        self.model = build_network(
            config.network,
            data.features,
            data.classes,
            hidden=config.hidden,
            seed=derive_seed(config.seed, "init"),
        )
        self.runner = GemmRunner(device, seed=config.seed)
        convert(self.model, config.recipe, device=self.runner)
        self.optimiser = torch.optim.SGD(self.model.parameters(), lr=config.learning_rate, momentum=config.momentum)

    def train_batch(self, images: torch.Tensor, labels: torch.Tensor, step: int) -> float:
        """One step; the batch's mean loss before it."""
        self.runner.step = step
        self.model.train()
        self.optimiser.zero_grad()
        loss = nn.functional.cross_entropy(self.model(images), labels)
        loss.backward()
        self.optimiser.step()
        return loss.item()

    @torch.no_grad()
    def test_batch(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, int]:
        """Sum of the losses, and how many images are recognised."""
        self.model.eval()
        scores = self.model(images)
        loss = nn.functional.cross_entropy(scores, labels, reduction="sum")
        return loss.item(), int((scores.argmax(dim=1) == labels).sum())


class _Run:
    """A run in progress: one replica, or two in lockstep, each GEMM of the second held against the first's."""

    def __init__(
        self,
        config: TrainingConfig,
        device: Device,
        check: Device | None,
        tell: Callable[[Progress], object],
    ) -> None:
        self.config = config
        self.folder: ResultsFolder | None = None
        self.tell = tell
        self.data = load_data(config.data)
        self.replicas = [_Replica(config, self.data, each) for each in (device, check) if each is not None]
        self.comparison: GemmComparison | None = None
        if check is not None:
            self.comparison = GemmComparison(device.name, f"{check.name} (check)")
            self.replicas[0].runner.observer = self.comparison.record
            self.replicas[1].runner.observer = self.comparison.compare
        self.batches = -(-len(self.data.train) // config.batch_size)
        self.test_batches = -(-len(self.data.test) // EVALUATION_BATCH)
        self.epoch = self.batch = self.step = 0
        self.history: list[dict[str, Any]] = []
        self.earlier = GemmCounts()
        self.earlier_seconds = 0.0
        self.started = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.earlier_seconds + time.perf_counter() - self.started

    @property
    def counts(self) -> GemmCounts:
        """Of the first replica, in all parts of the run."""
        return self.earlier + self.replicas[0].runner.counts

    def train_epoch(self, should_stop: Callable[[], bool]) -> bool:
        """Train the rest of the present epoch; False where it was stopped between two steps."""
        order = permutation(derive_seed(self.config.seed, "shuffle", self.epoch), len(self.data.train))
        while self.batch < self.batches:
            if should_stop():
                return False
            start = self.batch * self.config.batch_size
            images, labels = _tensors(self.data.train, order[start : start + self.config.batch_size])
            self.step += 1
            loss, *_ = [replica.train_batch(images, labels, self.step) for replica in self.replicas]
            self.batch += 1
            if not math.isfinite(loss):
                raise DivergedError(
                    f"the loss is {loss} at step {self.step} (epoch {self.epoch + 1}): the training has diverged; "
                    f"take a learning rate below {self.config.learning_rate:g}, or a recipe with more range"
                )
            self.record({"event": "step", "step": self.step, "epoch": self.epoch + 1, "loss": loss})
            self.report("training", self.batch)
        return True

    def evaluate(self) -> None:
        """Test images through the device, at the end of an epoch."""
        # A step of its own, below 0: the random bits of an evaluation depend on the epoch alone.
        for replica in self.replicas:
            replica.runner.step = -(self.epoch + 1)
        total, right = 0.0, 0
        for batch in range(self.test_batches):
            chosen = np.arange(batch * EVALUATION_BATCH, min((batch + 1) * EVALUATION_BATCH, len(self.data.test)))
            images, labels = _tensors(self.data.test, chosen)
            (loss, recognised), *_ = [replica.test_batch(images, labels) for replica in self.replicas]
            total, right = total + loss, right + recognised
            if batch + 1 < self.test_batches:
                self.report("testing", batch + 1)
        losses = [r["loss"] for r in self.history if r["event"] == "step" and r["epoch"] == self.epoch + 1]
        self.record(
            {
                "event": "epoch",
                "step": self.step,
                "epoch": self.epoch + 1,
                "train_loss": sum(losses) / len(losses),
                "test_loss": total / len(self.data.test),
                "test_accuracy": right / len(self.data.test),
                **asdict(self.counts),
                "seconds": round(self.seconds, 3),
            }
        )
        self.report("testing", self.test_batches)  # with the new accuracy

    def record(self, record: dict[str, Any]) -> None:
        self.history.append(record)
        if self.folder is not None:
            self.folder.append_metrics(record)

    def report(self, phase: str, batch: int) -> None:
        done = self.epoch * (self.batches + self.test_batches) + batch
        done += self.batches if phase == "testing" else 0
        total = self.config.epochs * (self.batches + self.test_batches)
        loss = self._last("step", "loss")
        self.tell(Progress(phase, self.epoch + 1, batch, done, total, loss, self.accuracy))

    @property
    def accuracy(self) -> float | None:
        return self._last("epoch", "test_accuracy")

    @property
    def test_loss(self) -> float | None:
        return self._last("epoch", "test_loss")

    def _last(self, event: str, name: str) -> Any:
        return next((r[name] for r in reversed(self.history) if r["event"] == event), None)

    def compare(self) -> None:
        """Raise where the replicas' weights differ, or one ran a GEMM that the other did not."""
        if self.comparison is not None:
            self.comparison.finish()
            first, second = (replica.model.state_dict() for replica in self.replicas)
            compare_states(first, second, names=(self.comparison.first, self.comparison.second))

    def save(self) -> None:
        """Write the checkpoint, replicas compared first."""
        self.compare()
        if self.folder is None:
            return
        self.folder.save_state(
            {
                "config": self.config.to_dict(),
                "epoch": self.epoch,
                "batch": self.batch,
                "step": self.step,
                "model": self.replicas[0].model.state_dict(),
                "optimiser": self.replicas[0].optimiser.state_dict(),
                "history": self.history,
                "counts": asdict(self.counts),
                "seconds": self.seconds,
            }
        )

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        for replica in self.replicas:
            replica.model.load_state_dict(state["model"])
            replica.optimiser.load_state_dict(state["optimiser"])
        self.epoch, self.batch, self.step = state["epoch"], state["batch"], state["step"]
        self.history = state["history"]
        self.earlier = GemmCounts(**state["counts"])
        self.earlier_seconds = state["seconds"]

    def draw(self) -> None:
        """Write the plot."""
        if self.folder is not None and self.history:
            device = self.replicas[0].device.name
            c = self.config
            self.folder.plot(f"{c.network} on {c.data}, {c.recipe}, {device}, seed {c.seed}", self.history)


def stored_config(folder: Path, **given: Any) -> TrainingConfig:
    """The settings of the run in a results folder, from its checkpoint, with some of them replaced."""
    stored = ResultsFolder.open(folder).load_state()["config"]
    return TrainingConfig.from_dict({**stored, **given})


def train(
    config: TrainingConfig,
    *,
    device: Device,
    check: Device | None = None,
    results: Path | None = None,
    resume: Path | None = None,
    tell: Callable[[Progress], object] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainingResult:
    """Train a network, every GEMM of forward, backward and evaluation on `device`.

    Parameters
    ----------
    config
        The run's settings. For a resumed run they must be the stored ones; more epochs may be asked for.
    device
        An opened device that runs the recipe's GEMMs. The weights do not depend on it: a run may go on elsewhere.
    check
        A second device that computes the same run, from the same seed, with weights of its own. Each GEMM's codes and
        flags are compared as they come, all weights at every checkpoint and at the end.
    results
        Folder below which the run's own folder is made; None keeps nothing.
    resume
        The folder of an interrupted or finished run, to go on from its checkpoint.
    tell
        Called with the `Progress` after each batch.
    should_stop
        Asked before each step; True ends the run with a checkpoint to resume from.

    Raises
    ------
    DifferenceError
        At the first GEMM, or weight, that differs between the two devices: layer, role, step, index, both values.
    DivergedError
        Where the loss is no number any more.
    ResultsError
        Where there is nothing to resume, or something else.
    """
    if results is not None and resume is not None:
        raise ValueError("give a folder for new results or one to resume, not both")
    folder, state = None, None
    if resume is not None:
        folder = ResultsFolder.open(resume)
        state = folder.load_state()
        _check_same_run(config, TrainingConfig.from_dict(state["config"]), state["epoch"])
    run = _Run(config, device, check, tell)
    if state is not None:
        run.restore(state)
    elif results is not None:
        c = config
        folder = ResultsFolder.create(results, c.network, c.data, c.recipe, device.name, f"seed{c.seed}")
    run.folder = folder
    # One thread for what the host computes: its sums in float32 then do not depend on the number of cores, and
    # networks of this size are trained faster so.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        interrupted = _train(run, should_stop)
    finally:
        torch.set_num_threads(threads)
        if folder is not None:
            folder.close()
    counts = run.counts
    result = TrainingResult(
        config=config,
        device=device.name,
        folder=folder.path if folder else None,
        accuracy=run.accuracy,
        loss=run.test_loss,
        epochs=run.epoch,
        steps=run.step,
        gemms=counts.gemms,
        macs=counts.macs,
        cycles=counts.cycles,
        seconds=run.seconds,
        check=check.name if check else None,
        compared=run.comparison.compared if run.comparison else None,
        interrupted=interrupted,
        history=run.history,
    )
    if folder is not None and not interrupted:
        folder.save_weights(run.replicas[0].model.state_dict())
        folder.write_json("summary.json", result.to_dict())
    return result


def _train(run: _Run, should_stop: Callable[[], bool]) -> bool:
    """Train to the last epoch; True where it was stopped before."""
    if run.folder is not None:
        run.folder.write_json("run.json", _description(run))
        run.folder.start_metrics(run.history)
        run.save()  # so that a run that is killed in its first epoch can be resumed too
    while run.epoch < run.config.epochs:
        if not run.train_epoch(should_stop):
            run.save()
            run.draw()
            return True
        run.evaluate()
        run.epoch, run.batch = run.epoch + 1, 0
        run.save()
        run.draw()
    run.compare()
    return False


def _description(run: _Run) -> dict[str, Any]:
    recipe = get_recipe(run.config.recipe)
    return {
        "config": run.config.to_dict(),
        "recipe": recipe.short_str(),
        "device": run.replicas[0].device.name,
        "check": run.replicas[1].device.name if len(run.replicas) > 1 else None,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    }


def _check_same_run(given: TrainingConfig, stored: TrainingConfig, epochs_done: int) -> None:
    for name, value in given.to_dict().items():
        then = stored.to_dict()[name]
        if name != "epochs" and value != then:
            raise ResultsError(f"the run to resume has {name} {json.dumps(then)}, not {json.dumps(value)}")
    if given.epochs < epochs_done:
        raise ResultsError(f"the run to resume has done {epochs_done} epochs already, {given.epochs} are asked for")


def _tensors(split: Split, chosen: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(split.images[chosen]), torch.from_numpy(split.labels[chosen])
