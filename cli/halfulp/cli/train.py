"""`halfulp train`: trains a network with every GEMM on a device."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from halfulp.cli.console import note, print_json, working
from halfulp.host.device import Device, open_device
from halfulp.host.recipe import get_recipe, requirements

if TYPE_CHECKING:
    from halfulp.models.training import Progress, TrainingResult
    from halfulp.models.training_config import TrainingConfig

__all__ = ["train"]

EXAMPLE = """
  halfulp train mlp mnist5k --recipe fp8-hybrid --device rtl:8x8 --check emulator --epochs 1
  halfulp train mlp digits --recipe int8 --epochs 10 --hidden 64,32 --seed 3
  halfulp train --resume results/mlp-mnist5k-fp8-hybrid-rtl_8x8-seed0
"""


def train(
    network: Annotated[str, typer.Argument(metavar="NETWORK", help="mlp.")] = "",
    data: Annotated[str, typer.Argument(metavar="DATA", help="digits (8×8) or mnist5k (28×28).")] = "",
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", metavar="RECIPE", help="Numbers to train with; fp8-hybrid by default."),
    ] = None,
    device: Annotated[
        str, typer.Option("--device", metavar="DEVICE", help="Where GEMMs run: `halfulp devices` lists what there is.")
    ] = "emulator",
    check: Annotated[
        str, typer.Option("--check", metavar="DEVICE", help="Compute the same run on this device too, and compare.")
    ] = "",
    epochs: Annotated[int | None, typer.Option("--epochs", help="Passes over the images; 1 by default.")] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Of weights, order and random bits; 64 bits; 0 by default.")
    ] = None,
    hidden: Annotated[
        str | None,
        typer.Option("--hidden", metavar="SIZES", help="Hidden layers, as in 1000,1000; 128 by default."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Images a step; 64 by default.")] = None,
    learning_rate: Annotated[float | None, typer.Option("--lr", help="Learning rate of SGD; 0.05 by default.")] = None,
    momentum: Annotated[float | None, typer.Option("--momentum", help="Of SGD; 0.9 by default.")] = None,
    results: Annotated[
        Path, typer.Option("--results", metavar="DIR", help="Each run makes a folder of its own in this one.")
    ] = Path("results"),
    resume: Annotated[
        Path | None,
        typer.Option("--resume", metavar="DIR", help="Go on with the run in this folder, on any device."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, no summary.")] = False,
) -> None:
    """Train a network; every GEMM of forward, backward and test runs on the device.

    The run's folder holds metrics.jsonl, training.png, the weights, and a checkpoint an epoch: an interrupted run
    resumes from it and ends with the same weights, bit for bit. So does the same run on another device, which --check
    proves: it compares each GEMM's codes, and all weights at the end. The recipe fp32 needs no device.
    """
    given = {
        "network": network or None,
        "data": data or None,
        "recipe": recipe,
        "hidden": None if hidden is None else _sizes(hidden),
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "momentum": momentum,
        "seed": seed,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if resume is None and not (network and data):
        raise ValueError("name a network and data, as in 'halfulp train mlp mnist5k', or a run to --resume")
    get_recipe(recipe or "fp8-hybrid")  # a misspelt one is told before torch is loaded, which takes seconds
    with working("loading PyTorch"):
        from halfulp.models import training
        from halfulp.models.training_config import TrainingConfig

    config = training.stored_config(resume, **given) if resume is not None else TrainingConfig.from_dict(given)
    with ExitStack() as stack:
        devices = [stack.enter_context(_opened(name, config)) for name in (device, check) if name]
        tell, stop = stack.enter_context(_progress_bar(config, quiet)), stack.enter_context(_stop_on_interrupt())
        result = training.train(
            config,
            device=devices[0],
            check=devices[1] if check else None,
            results=results if resume is None else None,
            resume=resume,
            tell=tell,
            should_stop=stop,
        )
    if json:
        print_json(result.to_dict())
    elif not quiet:
        print(_summary(result))
    if result.interrupted:
        note(f"go on with: halfulp train --resume {result.folder}")
        raise KeyboardInterrupt


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in text.split(",")) if text.strip() else ()
    except ValueError:
        raise ValueError(f"--hidden takes layer sizes such as 1000,1000, not {text!r}") from None


def _opened(name: str, config: TrainingConfig) -> Device:
    """A device that is ready for the recipe: a simulated core is built now, not at the first GEMM."""
    specs = requirements(config.recipe)
    with working(f"{name}: opening") as progress:
        device = open_device(name, requirements=specs, progress=progress)
        try:
            device.prepare(*specs)
        except BaseException:
            device.close()
            raise
    return device


@contextmanager
def _progress_bar(config: TrainingConfig, quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """A bar on stderr over the whole run; nothing where that is no terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda progress: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[state]}"),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(f"epoch 1/{config.epochs}", total=None, state="")

        def tell(progress: Progress) -> None:
            state = f"loss {progress.loss:.3f}"
            if progress.accuracy is not None:
                state += f", accuracy {progress.accuracy:.1%}"
            bar.update(
                task,
                description=f"epoch {progress.epoch}/{config.epochs}, {progress.phase}",
                completed=progress.done,
                total=progress.total,
                state=state,
            )

        yield tell


@contextmanager
def _stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C asks the run to end after the present step, with a checkpoint; the second ends it at once."""
    if threading.current_thread() is not threading.main_thread():  # only there Python takes signals
        yield lambda: False
        return
    asked = threading.Event()

    def interrupt(*_: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        yield asked.is_set
    finally:
        with contextlib.suppress(TypeError):  # a handler that Python did not install
            signal.signal(signal.SIGINT, previous)


def _summary(result: TrainingResult) -> str:
    config = result.config
    what = f"{config.network} on {config.data}, {config.recipe}, seed {config.seed}, on {result.device}"
    lines = [f"{what}: {result.epochs} of {config.epochs} epochs, {result.steps} steps"]
    if result.accuracy is not None and result.loss is not None:
        lines.append(f"  test images  {result.accuracy:.2%} recognised, loss {result.loss:.4f}")
    if result.gemms:
        lines.append(f"  GEMMs        {result.gemms:,}, {result.macs:,} MACs")
    if result.cycles:
        lines.append(f"  cycles       {result.cycles:,}, {result.macs / result.cycles:.2f} MACs a cycle")
    lines.append(f"  time         {result.seconds:.1f} s")
    if result.check and not result.interrupted:
        equal = f"{result.compared:,} GEMMs and all weights" if result.gemms else "all weights"
        lines.append(f"  check        {result.device} and {result.check}: equal, bit for bit ({equal})")
    if result.folder is not None:
        lines.append(f"  results      {result.folder}")
    return "\n".join(lines)
