"""Plain Python functions on integers and arrays of them, compiled: what follows events one by one, in nanoseconds each.

A function takes integers and arrays and gives an integer or nothing; its body assigns, branches, loops over ascending
ranges and while something holds, and calls others of its kind. Integers have 64 bits and wrap; divisors are above 0;
indices are not checked; what is true is 1. All else means what it does in Python, so that a function can be run as it
is as well, with lists for arrays: where llvmlite is missing, or to see what it does.

The object code is kept in the cache, for it takes a processor longer to make than most questions to answer.
"""

from __future__ import annotations

import ast
import ctypes
import inspect
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from halfulp.hw.cache import CacheError, cached, digest
from halfulp.sim.llvm import binding as llvm
from halfulp.sim.llvm import ir

__all__ = ["compile_functions"]

_I1, _I64 = ir.IntType(1), ir.IntType(64)
_POINTER = ir.PointerType(_I64)

_ENGINES: list[Any] = []
"""What owns the code, which may be called as long as the process lasts."""

_COMPARED: dict[type[ast.cmpop], str] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
}


def compile_functions(functions: Sequence[Callable[..., Any]]) -> list[Callable[..., int]]:
    """Compile functions and those that they call.

    Parameters
    ----------
    functions
        Each with annotations ``int`` or ``Cells`` of its parameters.

    Returns
    -------
    list
        Functions of addresses, for arrays, and integers; what gives nothing gives 0. They release the interpreter lock.

    Raises
    ------
    TypeError
        Where a body has what is not compiled, with the function's name and the line.
    """
    machine = _target_machine()
    files = sorted({str(inspect.getsourcefile(function)) for function in _called(functions)} | {__file__})
    names = " ".join(function.__name__ for function in functions)
    parts = [Path(file).read_bytes() for file in files]
    constants = str(sorted(_constants(functions)))
    processor = machine.triple + llvm.get_host_cpu_name() + _features() + str(llvm.llvm_version_info)
    key = digest(*parts, names, constants, processor)

    def build(folder: Path) -> None:
        (folder / "code.o").write_bytes(_object_code(functions, machine))

    try:
        code = (cached("scalar", key, build) / "code.o").read_bytes()
    except CacheError:  # nothing can be kept: it is made anew for each process
        code = _object_code(functions, machine)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _ENGINES.append(engine)
    compiled: list[Callable[..., int]] = []
    for function in functions:
        count = len(inspect.signature(function).parameters)
        prototype = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * count)
        compiled.append(prototype(engine.get_function_address(function.__name__)))
    return compiled


def _called(functions: Sequence[Callable[..., Any]]) -> list[Any]:
    """These functions and all that they call, and those call."""
    found: list[Any] = []
    left: list[Any] = list(functions)
    while left:
        function = left.pop()
        if function in found:
            continue
        found.append(function)
        known = function.__globals__
        left += [known[name] for name in function.__code__.co_names if inspect.isfunction(known.get(name))]
    return found


def _constants(functions: Sequence[Callable[..., Any]]) -> Iterator[tuple[str, int]]:
    """The integers beyond their files that functions may use, with names."""
    for function in _called(functions):
        names, known = function.__code__.co_names, function.__globals__
        for name in names:
            if isinstance(known.get(name), int):
                yield name, int(known[name])
            elif isinstance(known.get(name), type):
                for attribute in names:
                    if isinstance(value := getattr(known[name], attribute, None), int):
                        yield f"{name}.{attribute}", int(value)


def _features() -> str:
    return llvm.get_host_cpu_features().flatten()


def _target_machine() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=_features(), opt=2, jit=True)


def _object_code(functions: Sequence[Callable[..., Any]], machine: Any) -> bytes:
    module = ir.Module("scalar")
    module.triple = llvm.get_process_triple()
    called = _called(functions)
    trees = {function: _tree(function) for function in called}
    made = {function: _declare(module, function, trees[function], function in functions) for function in called}
    for function, tree in trees.items():
        _Writer(made, function, tree).write()
    parsed = llvm.parse_assembly(str(module))
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = options.slp_vectorization = options.loop_unrolling = False
    passes = llvm.create_pass_builder(machine, options)
    passes.getModulePassManager().run(parsed, passes)
    return machine.emit_object(parsed)


def _tree(function: Callable[..., Any]) -> ast.FunctionDef:
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(tree, ast.FunctionDef)
    return tree


def _declare(module: ir.Module, function: Callable[..., Any], tree: ast.FunctionDef, outer: bool) -> ir.Function:
    kinds = [_POINTER if ast.unparse(a.annotation) == "Cells" else _I64 for a in tree.args.args if a.annotation]
    made = ir.Function(module, ir.FunctionType(_I64, kinds), function.__name__)
    if not outer:
        made.linkage = "internal"
    for argument, described in zip(made.args, tree.args.args, strict=True):
        argument.name = described.arg
        if argument.type is _POINTER:
            argument.add_attribute("noalias")
    return made


class _Writer:
    """Writes one function's code."""

    def __init__(self, made: dict[Any, ir.Function], function: Any, tree: ast.FunctionDef) -> None:
        self._made, self._function, self._tree = made, function, tree
        self._known: dict[str, Any] = function.__globals__
        self._places: dict[str, Any] = {}
        self._loops: list[tuple[Any, Any]] = []
        self._entry = made[function].append_basic_block("entry")
        self._builder = ir.IRBuilder(made[function].append_basic_block("body"))

    def write(self) -> None:
        """Write the body."""
        first = self._builder.block
        self._arrays = {a.name: a for a in self._made[self._function].args if a.type is _POINTER}
        for argument in self._made[self._function].args:
            if argument.type is not _POINTER:
                self._builder.store(argument, self._place(argument.name))
        self._block(self._tree.body[1:] if ast.get_docstring(self._tree) else self._tree.body)
        if not self._is_ended:
            self._builder.ret(_I64(0))
        ir.IRBuilder(self._entry).branch(first)

    @property
    def _is_ended(self) -> bool:
        block: Any = self._builder.block
        return block.is_terminated

    def _refuse(self, node: ast.AST) -> TypeError:
        line = self._function.__code__.co_firstlineno + getattr(node, "lineno", 1) - 1
        return TypeError(f"{self._function.__name__}, line {line}: {ast.unparse(node)!r} cannot be compiled")

    def _place(self, name: str) -> Any:
        """Where a variable lies."""
        if name not in self._places:
            self._places[name] = ir.IRBuilder(self._entry).alloca(_I64, name=name)
        return self._places[name]

    def _block(self, statements: Sequence[ast.stmt]) -> None:
        for statement in statements:
            if self._is_ended:
                break
            self._statement(statement)

    def _statement(self, node: ast.stmt) -> None:
        builder = self._builder
        match node:
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=elements)):
                values = [self._value(element) for element in elements]
                for target, value in zip(targets, values, strict=True):
                    self._store(target, value)
            case ast.Assign(targets=[target], value=value):
                self._store(target, self._value(value))
            case ast.AugAssign(target=target, op=op, value=value):
                self._store(target, self._operate(node, op, self._value(target), self._value(value)))
            case ast.If(test=test, body=body, orelse=orelse):
                self._branch(self._truth(test), lambda: self._block(body), lambda: self._block(orelse))
            case ast.While(test=test, body=body, orelse=[]):
                self._loop(lambda: self._truth(test), body, lambda: None)
            case ast.For(
                target=ast.Name(id=name), iter=ast.Call(func=ast.Name(id="range"), args=args), body=body, orelse=[]
            ) if not any(isinstance(arg, ast.UnaryOp) for arg in args[2:]):
                bounds = [self._value(arg) for arg in args]
                start, stop, step = [_I64(0), *bounds, _I64(1)] if len(bounds) == 1 else [*bounds, _I64(1)][:3]
                # Counted apart from the variable, which the body may assign to as in Python.
                counter, place = ir.IRBuilder(self._entry).alloca(_I64), self._place(name)
                builder.store(start, counter)

                def more() -> Any:
                    now = self._builder.load(counter)
                    self._builder.store(now, place)
                    return self._builder.icmp_signed("<", now, stop)

                def count() -> None:
                    self._builder.store(self._builder.add(self._builder.load(counter), step), counter)

                self._loop(more, body, count)
            case ast.Return(value=value):
                builder.ret(self._value(value) if value else _I64(0))
            case ast.Expr(value=ast.Call() as value):
                self._value(value)
            case ast.Break():
                builder.branch(self._loops[-1][1])
            case ast.Continue():
                builder.branch(self._loops[-1][0])
            case _:
                raise self._refuse(node)

    def _store(self, target: ast.expr, value: Any) -> None:
        match target:
            case ast.Name(id=name):
                self._builder.store(value, self._place(name))
            case ast.Subscript():
                self._builder.store(value, self._element(target))
            case _:
                raise self._refuse(target)

    def _element(self, node: ast.Subscript) -> Any:
        if not isinstance(node.value, ast.Name) or node.value.id not in self._arrays:
            raise self._refuse(node)
        return self._builder.gep(self._arrays[node.value.id], [self._value(node.slice)], inbounds=True)

    def _branch(self, truth: Any, yes: Callable[[], Any], no: Callable[[], Any]) -> None:
        builder = self._builder
        then, other, after = (builder.append_basic_block() for _ in range(3))
        builder.cbranch(truth, then, other)
        for block, write in ((then, yes), (other, no)):
            builder.position_at_end(block)
            write()
            if not self._is_ended:
                builder.branch(after)
        builder.position_at_end(after)

    def _loop(self, more: Callable[[], Any], body: Sequence[ast.stmt], count: Callable[[], None]) -> None:
        builder = self._builder
        head, inside, following, after = (builder.append_basic_block() for _ in range(4))
        builder.branch(head)
        builder.position_at_end(head)
        builder.cbranch(more(), inside, after)
        builder.position_at_end(inside)
        self._loops.append((following, after))
        self._block(body)
        self._loops.pop()
        if not self._is_ended:
            builder.branch(following)
        builder.position_at_end(following)
        count()
        builder.branch(head)
        builder.position_at_end(after)

    def _truth(self, node: ast.expr) -> Any:
        return self._builder.icmp_signed("!=", self._value(node), _I64(0))

    def _value(self, node: ast.expr) -> Any:
        builder = self._builder
        match node:
            case ast.Constant(value=int() as number):
                return _I64(int(number))
            case ast.Name(id=name) if name in self._places:
                return builder.load(self._places[name])
            case ast.Name(id=name) if isinstance(self._known.get(name), int):
                return _I64(int(self._known[name]))
            case ast.Attribute(value=ast.Name(id=name), attr=attr) if isinstance(
                getattr(self._known.get(name), attr, None), int
            ):
                return _I64(int(getattr(self._known[name], attr)))
            case ast.Subscript():
                return builder.load(self._element(node))
            case ast.BinOp(left=left, op=op, right=right):
                return self._operate(node, op, self._value(left), self._value(right))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return builder.neg(self._value(operand))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return builder.zext(builder.not_(self._truth(operand)), _I64)
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARED:
                sign = _COMPARED[type(op)]
                return builder.zext(builder.icmp_signed(sign, self._value(left), self._value(right)), _I64)
            case ast.BoolOp(op=op, values=values):
                return self._chosen(isinstance(op, ast.And), values)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                result = ir.IRBuilder(self._entry).alloca(_I64)
                self._branch(
                    self._truth(test),
                    lambda: builder.store(self._value(body), result),
                    lambda: builder.store(self._value(orelse), result),
                )
                return builder.load(result)
            case ast.Call(func=ast.Name(id="min" | "max" as name), args=args):
                best, *others = [self._value(arg) for arg in args]
                for other in others:
                    is_better = builder.icmp_signed("<" if name == "min" else ">", best, other)
                    best = builder.select(is_better, best, other)
                return best
            case ast.Call(func=ast.Name(id=name), args=args) if self._known.get(name) in self._made:
                made = self._made[self._known[name]]
                return builder.call(made, [self._argument(arg) for arg in args])
            case _:
                raise self._refuse(node)

    def _argument(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Name) and node.id in self._arrays:
            return self._arrays[node.id]
        return self._value(node)

    def _chosen(self, is_and: bool, values: Sequence[ast.expr]) -> Any:
        """`and` or `or`, as 0 or 1: of the values no more than are needed are asked for."""
        builder = self._builder
        result = ir.IRBuilder(self._entry).alloca(_I64)
        after = builder.append_basic_block()
        for number, value in enumerate(values):
            truth = self._truth(value)
            builder.store(builder.zext(truth, _I64), result)
            if number < len(values) - 1:
                following = builder.append_basic_block()
                builder.cbranch(truth, *((following, after) if is_and else (after, following)))
                builder.position_at_end(following)
        builder.branch(after)
        builder.position_at_end(after)
        return builder.load(result)

    def _operate(self, node: ast.AST, op: ast.operator, left: Any, right: Any) -> Any:
        builder = self._builder
        match op:
            case ast.Add():
                return builder.add(left, right)
            case ast.Sub():
                return builder.sub(left, right)
            case ast.Mult():
                return builder.mul(left, right)
            case ast.LShift():
                return builder.shl(left, right)
            case ast.RShift():
                return builder.ashr(left, right)
            case ast.BitAnd():
                return builder.and_(left, right)
            case ast.BitOr():
                return builder.or_(left, right)
            case ast.FloorDiv() | ast.Mod():
                # Rounded down, where the processor rounds to zero; the divisor is above 0.
                rest = builder.srem(left, right)
                below = builder.icmp_signed("<", rest, _I64(0))
                if isinstance(op, ast.Mod):
                    return builder.add(rest, builder.select(below, right, _I64(0)))
                return builder.sub(builder.sdiv(left, right), builder.zext(below, _I64))
            case _:
                raise self._refuse(node)
