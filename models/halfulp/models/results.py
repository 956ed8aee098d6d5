"""The folder of a training run: settings, metrics, checkpoint, plot. Each file is whole, or the one before it."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import torch

__all__ = ["ResultsError", "ResultsFolder", "write_whole"]

CHECKPOINT_FORMAT = 1


class ResultsError(ValueError):
    """A results folder is missing, damaged, or not the one that the run needs."""


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under another name, then rename it: at no moment is there half a file called `path`."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        # A full disk names no file by itself.
        raise OSError(error.errno, error.strerror, str(path)) from error


class ResultsFolder:
    """One run's folder.

    ``run.json``
        Settings, devices, versions.
    ``metrics.jsonl``
        A JSON object a line: ``{"event": "step", …}`` and ``{"event": "epoch", …}``.
    ``checkpoint.pt``
        All that `resume` needs.
    ``weights.pt``
        The state dict at the end, which the unconverted network loads.
    ``training.png``
        Loss and accuracy.

    Parameters
    ----------
    path
        An existing folder; `create` makes one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._metrics: IO[str] | None = None

    @classmethod
    def create(cls, parent: Path, *name: str) -> ResultsFolder:
        """Make a new folder below `parent`, named by the parts of `name`, with ``-2``, ``-3``… if it is there."""
        stem = "-".join(re.sub(r"[^\w.-]+", "_", part).strip("_-") for part in name)
        if parent.exists() and not parent.is_dir():
            raise ResultsError(f"{parent} is a file, not a folder for results")
        parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            path = parent / (stem if number == 1 else f"{stem}-{number}")
            try:
                path.mkdir()
            except FileExistsError:
                number += 1
            else:
                return cls(path)

    @classmethod
    def open(cls, path: Path) -> ResultsFolder:
        """The folder of an earlier run; raise where there is none."""
        if not path.is_dir():
            raise ResultsError(f"no results folder {str(path)!r} to resume")
        if not (path / "checkpoint.pt").exists():
            raise ResultsError(f"results folder {str(path)!r} has no checkpoint.pt to resume from")
        return cls(path)

    def write_json(self, name: str, data: Any) -> None:
        """Write one JSON file."""
        write_whole(self.path / name, f"{json.dumps(data, indent=2, ensure_ascii=False)}\n".encode())

    def start_metrics(self, records: Iterable[dict[str, Any]] = ()) -> None:
        """Begin the metrics, with the `records` up to the checkpoint where a run is resumed: later ones come again."""
        self.close()
        text = "".join(json.dumps(record) + "\n" for record in records)
        path = self.path / "metrics.jsonl"
        write_whole(path, text.encode())
        self._metrics = path.open("a", encoding="utf-8")

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Add one record; `start_metrics` comes first."""
        if self._metrics is None:
            raise RuntimeError("metrics were not started")
        self._metrics.write(json.dumps(record) + "\n")
        self._metrics.flush()

    def save_state(self, state: dict[str, Any]) -> None:
        """Write the checkpoint: tensors, numbers, strings, and lists and dicts of them."""
        write_whole(self.path / "checkpoint.pt", _saved({"format": CHECKPOINT_FORMAT, **state}))

    def load_state(self) -> dict[str, Any]:
        """Read the checkpoint; nothing in it is executed."""
        path = self.path / "checkpoint.pt"
        file = io.BytesIO(path.read_bytes())
        try:
            if broken := zipfile.ZipFile(file).testzip():  # torch does not look at the checksums
                raise zipfile.BadZipFile(f"wrong checksum of {broken}")
            file.seek(0)
            state = torch.load(file, weights_only=True)
            version = state["format"]
        except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, ValueError, KeyError, TypeError) as error:
            raise ResultsError(f"checkpoint {str(path)!r} is damaged: {str(error).partition(chr(10))[0]}") from None
        if version != CHECKPOINT_FORMAT:
            raise ResultsError(f"checkpoint {str(path)!r} has format {version!r}, not {CHECKPOINT_FORMAT}")
        return state

    def save_weights(self, weights: dict[str, torch.Tensor]) -> None:
        """Write the state dict."""
        write_whole(self.path / "weights.pt", _saved(weights))

    def plot(self, title: str, records: Iterable[dict[str, Any]]) -> None:
        """Draw loss and accuracy against the step, as ``training.png``."""
        # Drawn without pyplot: no window system, no global state, and a faster import.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        rows = list(records)
        steps = [row for row in rows if row["event"] == "step"]
        epochs = [row for row in rows if row["event"] == "epoch"]
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        canvas = FigureCanvasAgg(figure)
        figure.suptitle(title, fontsize="medium")
        loss, accuracy = figure.subplots(1, 2)
        loss.plot([r["step"] for r in steps], [r["loss"] for r in steps], lw=0.7, alpha=0.6, label="training batch")
        loss.plot([r["step"] for r in epochs], [r["test_loss"] for r in epochs], "o-", ms=3, label="test images")
        loss.set(xlabel="step", ylabel="cross-entropy in nats", ylim=(0, None))
        loss.legend(fontsize="small")
        percent = [100 * r["test_accuracy"] for r in epochs]
        accuracy.plot([r["epoch"] for r in epochs], percent, "o-", ms=3)
        accuracy.set(xlabel="epoch", ylabel="test images recognised in %")
        accuracy.xaxis.get_major_locator().set_params(integer=True)
        for axes in (loss, accuracy):
            axes.grid(alpha=0.3)
        image = io.BytesIO()
        canvas.print_png(image)
        write_whole(self.path / "training.png", image.getvalue())

    def close(self) -> None:
        """Close the metrics."""
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None


def _saved(data: dict[str, Any]) -> bytes:
    """What `torch.save` writes; in memory first, for its own file writer hides why it failed."""
    buffer = io.BytesIO()
    torch.save(data, buffer)
    return buffer.getvalue()
