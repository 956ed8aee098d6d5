"""A Tcl interpreter in which Vivado's commands are stubs that know their options, names and rules, and build nothing.

`python -c "from tests.boards.vivado_stub import main; main()" -mode batch -source build.tcl …` stands in for Vivado.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from halfulp.hw.config_file import load_config
from halfulp.hw.handoff import handoff_xml

from .vivado_design import BlockDesign, VivadoError
from .vivado_packaging import Packager

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["NAMES", "VivadoStub", "main"]

NAMES: dict[str, Any] = tomllib.loads(Path(__file__).with_name("vivado_names.toml").read_text(encoding="utf-8"))

INSTALLED_BOARDS = (
    "www.digilentinc.com:pynq-z1:part0:1.0",
    "tul.com.tw:pynq-z2:part0:1.0",
    "avnet.com:ultra96v2:part0:1.3",
    "xilinx.com:zcu104:part0:1.1",
    "xilinx.com:kv260_som:part0:1.4",
)
"""The Ultra96-V2's are newer than what its board file asks for."""

Arguments = tuple[dict[str, str], list[str]]


class VivadoStub:
    """One run of Vivado in the folder of a project."""

    def __init__(self, folder: Path, *, release: str = "2022.1", slack_ns: float = 0.1) -> None:
        import tkinter

        self.folder = folder
        self.release = release
        self.slack_ns = slack_ns
        self.output: list[str] = []
        self.exit_code: int | None = None
        self.project: dict[str, Any] = {}
        self.objects: dict[str, tuple[str, dict[str, str]]] = {}
        self.packager = Packager(self)
        self.design = BlockDesign()
        self.wrapper = False
        self.finished_runs: list[str] = []
        self._tcl = tkinter.Tcl()
        self._install()

    def source(self, script: str = "build.tcl", *, jobs: int = 2) -> int:
        """Run a script to its exit; the exit code, 0 also at its end."""
        import tkinter

        self._tcl.setvar("argc", "1")
        self._tcl.setvar("argv", str(jobs))
        path = self._tcl.call("list", str(self.folder / script))
        try:
            self._tcl.eval(f"source {path}" if isinstance(path, str) else f"source {{{self.folder / script}}}")
        except tkinter.TclError as error:
            if self.exit_code is None:
                raise VivadoError(str(error)) from None
        return self.exit_code or 0

    def objects_of(self, kind: str) -> dict[str, dict[str, str]]:
        return {handle: properties for handle, (k, properties) in self.objects.items() if k == kind}

    def _install(self) -> None:
        """Make the stubs: each is a Tcl procedure, so that an error reaches `catch` with its message."""
        self._tcl.createcommand("_vivado", self._call)
        self._tcl.eval("namespace eval ipx {}")
        for name in NAMES["commands"]:
            self._tcl.eval(
                f"proc {name} args {{ lassign [_vivado {name} {{*}}$args] failed result; "
                "if {$failed} { error $result }; return $result }"
            )
        # Whatever a script does, it must not end this process.
        self._tcl.eval("catch {rename exit {}}; rename puts _puts; rename proc _proc")
        self._tcl.createcommand("_exit", self._exit)
        self._tcl.createcommand("_line", self.output.append)
        self._tcl.eval("_proc exit {{code 0}} { _exit $code; error {vivado has ended} }")
        self._tcl.eval("_proc puts {args} { _line [lindex $args end] }")
        taken = " ".join([*NAMES["commands"], *NAMES["reserved"]["names"]])
        self._tcl.eval(
            f'_proc proc {{name arguments body}} {{ if {{$name in {{{taken}}}}} {{ error "$name is Vivado\'s own" }}; '
            "uplevel 1 [list _proc $name $arguments $body] }"
        )

    def _exit(self, code: str) -> None:
        if self.exit_code is None:
            self.exit_code = int(code)

    def _call(self, name: str, *arguments: str) -> tuple[int, str]:
        if self.exit_code is not None:
            return 1, "vivado has ended"
        try:
            options, rest = self._parse(name, list(map(str, arguments)))
            prefix, _, plain = name.rpartition("::")
            method: Callable[[dict[str, str], list[str]], Any]
            method = getattr(self.packager, plain) if prefix else getattr(self, f"_{plain}")
            result = method(options, rest)
            return 0, result if isinstance(result, str) else self._list(result or [])
        except VivadoError as error:
            return 1, str(error)

    def _list(self, items: list[str]) -> str:
        return self._tcl.eval("list " + " ".join(f"{{{item}}}" for item in items))

    def _parse(self, name: str, arguments: list[str]) -> Arguments:
        """Options and the rest; an option that the command lacks, or the wrong number of the rest, is an error."""
        known = NAMES["commands"][name]
        options: dict[str, str] = {}
        rest: list[str] = []
        while arguments:
            argument = arguments.pop(0)
            if not re.fullmatch(r"-[a-z]\w*", argument):
                rest.append(argument)
                continue
            kind = known["options"].get(argument[1:])
            if kind is None:
                raise VivadoError(f"{name} has no option {argument}")
            if kind == "value" and not arguments:
                raise VivadoError(f"{name} {argument} needs a value")
            options[argument[1:]] = arguments.pop(0) if kind == "value" else "1"
        least, most = known["arguments"]
        if not least <= len(rest) <= most:
            raise VivadoError(f"{name} takes {least} to {most} arguments, not {rest}")
        return options, rest

    # Projects and files

    def _create_project(self, options: dict[str, str], rest: list[str]) -> str:
        if self.project:
            raise VivadoError("a project is open already")
        if not re.fullmatch(r"xc7z020clg400-1|xczu\d+e[gv]-\w+-\d-[ei]|xck26-\w+-2LV-c", options.get("part", "")):
            raise VivadoError(f"there is no part {options.get('part')!r}")
        name, folder = rest
        self.project = {"name": name, "folder": Path(folder), "part": options["part"], "files": []}
        Path(folder).mkdir(parents=True)
        return self.new("project", "project")

    def _close_project(self, options: dict[str, str], rest: list[str]) -> None:
        self.current()
        self.project = {}
        del self.objects["project"]

    def current(self) -> dict[str, Any]:
        if not self.project:
            raise VivadoError("no project is open")
        return self.project

    def _current_project(self, options: dict[str, str], rest: list[str]) -> str:
        self.current()
        return "project"

    def _current_fileset(self, options: dict[str, str], rest: list[str]) -> str:
        self.current()
        return self.new("fileset", "sources_1")

    def _add_files(self, options: dict[str, str], rest: list[str]) -> None:
        if not Path(rest[0]).is_file():
            raise VivadoError(f"there is no file {rest[0]}")
        self.current()["files"].append(Path(rest[0]))

    def _update_compile_order(self, options: dict[str, str], rest: list[str]) -> None:
        if options.get("fileset") != "sources_1":
            raise VivadoError("update_compile_order is for -fileset sources_1")

    def _update_ip_catalog(self, options: dict[str, str], rest: list[str]) -> None:
        folder = Path(self.objects["project"][1]["ip_repo_paths"])
        if self.packager.core.get("saved") != folder:
            raise VivadoError(f"there is no IP in {folder}")
        core = self.objects["core"][1]
        self.packager.core["vlnv"] = ":".join(
            [self.packager.core["vendor"], self.packager.core["library"], core["name"], core["version"]]
        )

    def _get_board_parts(self, options: dict[str, str], rest: list[str]) -> list[str]:
        pattern = re.escape(rest[0]).replace(r"\*", ".*")
        return [board for board in INSTALLED_BOARDS if re.fullmatch(pattern, board)]

    def _get_files(self, options: dict[str, str], rest: list[str]) -> list[str]:
        name = self.current()["name"]
        return [rest[0]] if rest[0] == f"{name}.bd" and self.design.is_saved else []

    def _version(self, options: dict[str, str], rest: list[str]) -> str:
        return self.release if "short" in options else f"Vivado v{self.release}"

    # Objects and properties

    def new(self, kind: str, handle: str) -> str:
        self.objects.setdefault(handle, (kind, {}))
        return handle

    def _set_property(self, options: dict[str, str], rest: list[str]) -> None:
        if "dict" in options:
            words = self._tcl.splitlist(options["dict"])
            if len(words) % 2:
                raise VivadoError("set_property -dict wants names and values in turn")
            values = list(zip(words[::2], words[1::2], strict=True))
            (handle,) = rest
        else:
            name, value, handle = rest
            values = [(name, value)]
        for name, value in values:
            if handle in self.design.cells:
                self.design.cells[handle].set(str(name), str(value))
                continue
            if handle not in self.objects:
                raise VivadoError(f"set_property {name}: there is no object {handle!r}")
            kind, properties = self.objects[handle]
            rule = NAMES["objects"][kind].get(str(name))
            if rule is None:
                raise VivadoError(f"a {kind} has no property {name}")
            if not re.fullmatch(rule, str(value), re.DOTALL):
                raise VivadoError(f"{name} of a {kind} cannot be {value!r}")
            properties[str(name)] = str(value)

    def _get_property(self, options: dict[str, str], rest: list[str]) -> str:
        name, run = rest
        values = {
            "PROGRESS": "100%" if run in self.finished_runs else "0%",
            "STATUS": "Not started",
            "DIRECTORY": str(self._run_folder(run)),
            "STATS.WNS": f"{self.slack_ns:.3f}",
            "STATS.WHS": "0.050",
        }
        if name not in values:
            raise VivadoError(f"a run has no property {name}")
        return values[name]

    # Block design

    def _create_bd_design(self, options: dict[str, str], rest: list[str]) -> str:
        if "board_part" not in self.objects["project"][1]:
            raise VivadoError("no board is chosen")
        return rest[0]

    def _create_bd_cell(self, options: dict[str, str], rest: list[str]) -> str:
        vlnv = options.get("vlnv", "")
        if vlnv == self.packager.core.get("vlnv"):
            return self.design.add(rest[0], self.packager.ip())
        for ip in NAMES["ips"].values():
            if options.get("type") == "ip" and vlnv in (ip["vlnv"], ip["vlnv"].rpartition(":")[0]):
                return self.design.add(rest[0], ip)
        raise VivadoError(f"there is no IP {vlnv}")

    def _apply_bd_automation(self, options: dict[str, str], rest: list[str]) -> None:
        cell = self.design.cells[rest[0]]
        if options["rule"] != f"xilinx.com:bd_rule:{cell.ip['vlnv'].split(':')[2]}":
            raise VivadoError(f"there is no rule {options['rule']} for {rest[0]}")
        words = list(map(str, self._tcl.splitlist(options["config"])))
        config = dict(zip(words[::2], words[1::2], strict=True))
        for name, value in config.items():
            if not re.fullmatch(cell.ip["automation"].get(name, r"(?!)"), value):
                raise VivadoError(f"the rule for {rest[0]} has no {name} {value!r}")
        if config.get("apply_board_preset") == "1":
            cell.properties |= cell.ip["preset"]

    def _get_bd_pins(self, options: dict[str, str], rest: list[str]) -> list[str]:
        return [rest[0]] if self.design.pin(rest[0]) is not None else []

    def _get_bd_intf_pins(self, options: dict[str, str], rest: list[str]) -> list[str]:
        return [rest[0]] if self.design.bus(rest[0]) is not None else []

    def _get_bd_addr_segs(self, options: dict[str, str], rest: list[str]) -> list[str]:
        if "of_objects" in options:
            return self.design.segments(options["of_objects"])
        return [segment for segment in self.design.all_segments() if segment == rest[0]]

    def _get_bd_addr_spaces(self, options: dict[str, str], rest: list[str]) -> list[str]:
        if "of_objects" in options:
            return [self.design.space(options["of_objects"])]
        return [space for space in self.design.spaces() if space == rest[0]]

    def _connect_bd_net(self, options: dict[str, str], rest: list[str]) -> None:
        self.design.connect(*rest)

    def _connect_bd_intf_net(self, options: dict[str, str], rest: list[str]) -> None:
        self.design.link(*rest)

    def _assign_bd_address(self, options: dict[str, str], rest: list[str]) -> None:
        place = (int(options["offset"], 0), int(options["range"], 0)) if "offset" in options else (-1, -1)
        self.design.assign(options["target_address_space"], rest[0], place)

    def _exclude_bd_addr_seg(self, options: dict[str, str], rest: list[str]) -> None:
        self.design.assign(options["target_address_space"], rest[0], None)

    def _validate_bd_design(self, options: dict[str, str], rest: list[str]) -> None:
        self.design.validate()

    def _save_bd_design(self, options: dict[str, str], rest: list[str]) -> None:
        if not self.design.is_validated:
            raise VivadoError("the block design is saved before it is validated")
        self.design.is_saved = True

    # Implementation

    def _make_wrapper(self, options: dict[str, str], rest: list[str]) -> str:
        if not options.get("files") or "top" not in options:
            raise VivadoError("make_wrapper wants -files of a saved block design, and -top")
        path = self.current()["folder"] / f"{self.project['name']}_wrapper.v"
        path.write_text("", encoding="utf-8")
        self.wrapper = True
        return str(path)

    def _run_folder(self, run: str) -> Path:
        return self.current()["folder"] / f"{self.project['name']}.runs" / run

    def _launch_runs(self, options: dict[str, str], rest: list[str]) -> None:
        (run,) = rest
        name = self.current()["name"]
        if run not in ("synth_1", "impl_1") or (run == "impl_1") is not (options.get("to_step") == "write_bitstream"):
            raise VivadoError(f"there is no run {run} to {options.get('to_step')}")
        if self.objects["sources_1"][1].get("top") != f"{name}_wrapper" or not self.wrapper:
            raise VivadoError(f"the top is not {name}_wrapper")
        if run == "impl_1":
            if "synth_1" not in self.finished_runs:
                raise VivadoError("place and route before synthesis")
            self._run_folder(run).mkdir(parents=True)
            (self._run_folder(run) / f"{name}_wrapper.bit").write_bytes(b"bitstream")
        handoff = self.current()["folder"] / f"{name}.gen/sources_1/bd/{name}/hw_handoff/{name}.hwh"
        handoff.parent.mkdir(parents=True, exist_ok=True)
        ps = next(ip for ip in self.design.cells.values() if "space" in ip.ip).ip["vlnv"].split(":")[2]
        kind = {"processing_system7": "zynq-7000", "zynq_ultra_ps_e": "zynqmp"}[ps]
        config = load_config(self.folder / "config.toml")
        handoff.write_text(handoff_xml(config, processing_system=kind), encoding="utf-8")

    def _wait_on_run(self, options: dict[str, str], rest: list[str]) -> None:
        self.finished_runs.append(rest[0])

    def _get_runs(self, options: dict[str, str], rest: list[str]) -> str:
        if rest[0] not in ("synth_1", "impl_1"):
            raise VivadoError(f"there is no run {rest[0]}")
        return rest[0]

    def _open_run(self, options: dict[str, str], rest: list[str]) -> None:
        if rest[0] not in self.finished_runs:
            raise VivadoError(f"the run {rest[0]} has not been done")

    def _report_utilization(self, options: dict[str, str], rest: list[str]) -> None:
        Path(options["file"]).write_text("utilization\n", encoding="utf-8")

    def _report_timing_summary(self, options: dict[str, str], rest: list[str]) -> None:
        Path(options["file"]).write_text("timing\n", encoding="utf-8")


def main() -> None:
    """Stand in for the program: `vivado -version`, or `vivado -mode batch … -source build.tcl -tclargs JOBS`."""
    arguments = sys.argv[1:]
    if arguments == ["-version"]:
        print("Vivado v2022.1 (64-bit)\nSW Build 3526262")
        return
    source = arguments[arguments.index("-source") + 1]
    vivado = VivadoStub(Path.cwd())
    code = vivado.source(source, jobs=int(arguments[-1]))
    print("\n".join(["****** Vivado v2022.1 (64-bit)", *vivado.output]))
    sys.exit(code)
