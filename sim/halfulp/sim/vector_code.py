"""Compiled kernels: LLVM code written as Python expressions on vectors of lanes, for the processor at hand.

LLVM splits the vectors into whatever registers the processor has, so one description serves AVX-512, AVX2 and others.
A kernel compiles in a few hundredths of a second, needs no C compiler, and keeps nothing on disk.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from halfulp.sim.llvm import binding as llvm
from halfulp.sim.llvm import ir

__all__ = [
    "F32",
    "F64",
    "I1",
    "I8",
    "I16",
    "I32",
    "I64",
    "Code",
    "Kernel",
    "Lanes",
    "address",
    "host_features",
    "transposed",
]

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F32, F64 = ir.FloatType(), ir.DoubleType()


class Lanes:
    """A value of the code being written: a scalar, or a vector of lanes; integers are unsigned where that matters.

    Operators write the instruction; a Python number stands for a constant of the other operand's type. Comparisons
    give `I1` lanes for `choose`.
    """

    def __init__(self, code: Code, value: Any) -> None:
        self.code = code
        self.value = value

    @property
    def type(self) -> Any:
        """The LLVM type."""
        return self.value.type

    @property
    def _is_float(self) -> bool:
        element = self.type.element if isinstance(self.type, ir.VectorType) else self.type
        return isinstance(element, (ir.FloatType, ir.DoubleType))

    def constant(self, number: float) -> Lanes:
        """`number` in every lane, in this value's type."""
        return self.code.constant(self.type, number)

    def _with(self, write: Callable[[Any, Any], Any], other: Lanes | float) -> Lanes:
        right = other if isinstance(other, Lanes) else self.constant(other)
        return Lanes(self.code, write(self.value, right.value))

    def __add__(self, other: Lanes | float) -> Lanes:
        return self._with(self.code.builder.fadd if self._is_float else self.code.builder.add, other)

    def __sub__(self, other: Lanes | float) -> Lanes:
        return self._with(self.code.builder.fsub if self._is_float else self.code.builder.sub, other)

    def __mul__(self, other: Lanes | float) -> Lanes:
        return self._with(self.code.builder.fmul if self._is_float else self.code.builder.mul, other)

    def __truediv__(self, other: Lanes | float) -> Lanes:
        return self._with(self.code.builder.fdiv, other)

    def __and__(self, other: Lanes | int) -> Lanes:
        return self._with(self.code.builder.and_, other)

    def __or__(self, other: Lanes | int) -> Lanes:
        return self._with(self.code.builder.or_, other)

    def __xor__(self, other: Lanes | int) -> Lanes:
        return self._with(self.code.builder.xor, other)

    def __lshift__(self, other: Lanes | int) -> Lanes:
        return self._with(self.code.builder.shl, other)

    def __rshift__(self, other: Lanes | int) -> Lanes:
        return self._with(self.code.builder.lshr, other)

    def shift_right_signed(self, bits: Lanes | int) -> Lanes:
        """Shifted right, as two's complement."""
        return self._with(self.code.builder.ashr, bits)

    def rotate_left(self, bits: int) -> Lanes:
        """Rotated by so many places, in one instruction where the processor has it."""
        suffix = f"v{self.type.count}i{self.type.element.width}"
        return self.code.intrinsic(f"llvm.fshl.{suffix}", self.type, self, self, self.constant(bits))

    def __invert__(self) -> Lanes:
        return Lanes(self.code, self.code.builder.not_(self.value))

    def _compare(self, sign: str, other: Lanes | float, *, signed: bool = False) -> Lanes:
        builder = self.code.builder
        if self._is_float:
            return self._with(lambda a, b: builder.fcmp_ordered(sign, a, b), other)
        icmp = builder.icmp_signed if signed else builder.icmp_unsigned
        return self._with(lambda a, b: icmp(sign, a, b), other)

    def equals(self, other: Lanes | float) -> Lanes:
        """Lanes equal (floats: neither is NaN)."""
        return self._compare("==", other)

    def __lt__(self, other: Lanes | float) -> Lanes:
        return self._compare("<", other)

    def __gt__(self, other: Lanes | float) -> Lanes:
        return self._compare(">", other)

    def at_least(self, other: Lanes | float) -> Lanes:
        """Lanes that are not less, as unsigned integers or floats."""
        return self._compare(">=", other)

    def less_signed(self, other: Lanes | int) -> Lanes:
        """Lanes less, as two's complement."""
        return self._compare("<", other, signed=True)

    def choose(self, yes: Lanes, no: Lanes | float) -> Lanes:
        """`yes` where this `I1` lane is true, else `no`."""
        other = no if isinstance(no, Lanes) else yes.constant(no)
        return Lanes(self.code, self.code.builder.select(self.value, yes.value, other.value))

    def smaller(self, other: Lanes | int) -> Lanes:
        """The smaller of two unsigned integers."""
        return (self < other).choose(self, other)

    def larger_signed(self, other: Lanes | int) -> Lanes:
        """The larger of two integers as two's complement."""
        right = other if isinstance(other, Lanes) else self.constant(other)
        return self.less_signed(right).choose(right, self)

    def smaller_signed(self, other: Lanes | int) -> Lanes:
        """The smaller of two integers as two's complement."""
        return self.less_signed(other).choose(self, other)

    def fits(self, element: Any) -> Any:
        """The type with this value's number of lanes and elements of type `element`."""
        return ir.VectorType(element, self.type.count) if isinstance(self.type, ir.VectorType) else element

    def widen(self, element: Any) -> Lanes:
        """Zero-extended to integers of type `element`, or as it is where it has that width already."""
        target = self.fits(element)
        return self if self.type == target else Lanes(self.code, self.code.builder.zext(self.value, target))

    def narrow(self, element: Any) -> Lanes:
        """The low bits, as integers of type `element`."""
        target = self.fits(element)
        return self if self.type == target else Lanes(self.code, self.code.builder.trunc(self.value, target))

    def widen_signed(self, element: Any) -> Lanes:
        """Sign-extended to integers of type `element`."""
        return Lanes(self.code, self.code.builder.sext(self.value, self.fits(element)))

    def to_float(self, element: Any) -> Lanes:
        """Signed integers converted to floats of type `element`."""
        return Lanes(self.code, self.code.builder.sitofp(self.value, self.fits(element)))

    def to_integer(self, element: Any) -> Lanes:
        """Floats that are integers converted to signed integers of type `element`."""
        return Lanes(self.code, self.code.builder.fptosi(self.value, self.fits(element)))

    def widen_float(self, element: Any) -> Lanes:
        """Floats as floats of the wider type `element`, or as they are where that is theirs already."""
        target = self.fits(element)
        return self if self.type == target else Lanes(self.code, self.code.builder.fpext(self.value, target))

    def narrow_float(self, element: Any) -> Lanes:
        """Floats rounded to those of the narrower type `element`, to nearest even."""
        return Lanes(self.code, self.code.builder.fptrunc(self.value, self.fits(element)))

    def bits_as(self, target: Any) -> Lanes:
        """The same bits as a value of type `target` (a whole type, not an element's)."""
        return Lanes(self.code, self.code.builder.bitcast(self.value, target))

    def shuffle(self, other: Lanes, order: Sequence[int]) -> Lanes:
        """The lanes numbered `order` of this vector followed by `other`."""
        mask = ir.Constant(ir.VectorType(I32, len(order)), list(order))
        return Lanes(self.code, self.code.builder.shuffle_vector(self.value, other.value, mask))


class Code:
    """A function of pointers and 64-bit integers being written; it may give a 64-bit integer back.

    Parameters
    ----------
    name
        The function's name, for debuggers.
    parameters
        ``"p"`` for a pointer or ``"i"`` for a 64-bit integer each, one character an argument.
    """

    def __init__(self, name: str, parameters: str) -> None:
        self.module = ir.Module(name)
        self.module.triple = llvm.get_process_triple()
        types = _types(parameters)
        self.function = ir.Function(self.module, ir.FunctionType(I64, types), name)
        for argument in self.function.args:
            if isinstance(argument.type, ir.PointerType):
                argument.add_attribute("noalias")
        self.entry = self.function.append_basic_block("entry")
        self.builder = ir.IRBuilder(self.entry)
        self.arguments = [Lanes(self, argument) for argument in self.function.args]

    def constant(self, kind: Any, number: float) -> Lanes:
        """`number` in every lane of a value of type `kind`."""
        element = kind.element if isinstance(kind, ir.VectorType) else kind
        if isinstance(element, ir.IntType):
            number = int(number) & ((1 << element.width) - 1)
        one = ir.Constant(element, number)
        return Lanes(self, ir.Constant(kind, [one] * kind.count) if isinstance(kind, ir.VectorType) else one)

    def count_up(self, kind: Any) -> Lanes:
        """The vector of the lanes' own numbers: 0, 1, 2 and so on."""
        return Lanes(self, ir.Constant(kind, [ir.Constant(kind.element, n) for n in range(kind.count)]))

    def spread(self, scalar: Lanes, lanes: int) -> Lanes:
        """A scalar in each of so many lanes."""
        kind = ir.VectorType(scalar.type, lanes)
        first = self.builder.insert_element(ir.Constant(kind, ir.Undefined), scalar.value, I32(0))
        order = ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
        return Lanes(self, self.builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), order))

    def _pointer(self, base: Lanes, index: Lanes, kind: Any) -> Any:
        element = kind.element if isinstance(kind, ir.VectorType) else kind
        size = {1: 1, 8: 1, 16: 2, 32: 4, 64: 8}[
            element.width if isinstance(element, ir.IntType) else 32 if isinstance(element, ir.FloatType) else 64
        ]
        offset = self.builder.mul(index.value, I64(size))
        moved = self.builder.gep(base.value, [offset], source_etype=I8)
        return self.builder.bitcast(moved, ir.PointerType(kind)), size

    def load(self, base: Lanes, index: Lanes | int, kind: Any) -> Lanes:
        """A value of type `kind` at element `index` of the array at `base`; no alignment but the element's."""
        pointer, align = self._pointer(base, self._index(index), kind)
        return Lanes(self, self.builder.load(pointer, align=align, typ=kind))

    def store(self, value: Lanes, base: Lanes, index: Lanes | int) -> None:
        """Store a value at element `index` of the array at `base`."""
        pointer, align = self._pointer(base, self._index(index), value.type)
        self.builder.store(value.value, pointer, align=align)

    def moved(self, base: Lanes, count: Lanes) -> Lanes:
        """The pointer `count` bytes after `base`."""
        return Lanes(self, self.builder.gep(base.value, [count.value], source_etype=I8))

    def prefetch(self, base: Lanes, index: Lanes, kind: Any) -> None:
        """Ask for the cache line of an element that is soon to be read; it may be outside the array."""
        pointer = self.builder.bitcast(self._pointer(base, index, kind)[0], ir.PointerType(I8))
        self.intrinsic("llvm.prefetch", ir.VoidType(), Lanes(self, pointer), 0, 3, 1)

    def _index(self, index: Lanes | int) -> Lanes:
        return index if isinstance(index, Lanes) else self.constant(I64, index)

    def buffer(self, kind: Any, count: int) -> Lanes:
        """Memory for `count` values of type `kind`, for the call's duration, aligned as 512 bits are."""
        with self.builder.goto_entry_block():
            memory = self.builder.alloca(kind, count)
            memory.align = 64  # pyright: ignore[reportAttributeAccessIssue]  (llvmlite has no types: None stands first)
            return Lanes(self, self.builder.bitcast(memory, ir.PointerType(I8)))

    def loop(
        self, start: Lanes | int, stop: Lanes, step: int, carried: Sequence[Lanes], body: Callable[..., Sequence[Lanes]]
    ) -> list[Lanes]:
        """Run ``carried = body(i, *carried)`` for i in range(start, stop, step); give what is carried out of it."""
        builder = self.builder
        before = builder.block
        head = builder.append_basic_block("head")
        inside = builder.append_basic_block("body")
        after = builder.append_basic_block("after")
        first = self._index(start)
        builder.branch(head)
        builder.position_at_end(head)
        counter = builder.phi(I64)
        counter.add_incoming(first.value, before)
        phis = [builder.phi(c.type) for c in carried]
        for phi, value in zip(phis, carried, strict=True):
            phi.add_incoming(value.value, before)
        builder.cbranch(builder.icmp_signed("<", counter, stop.value), inside, after)
        builder.position_at_end(inside)
        results = body(Lanes(self, counter), *(Lanes(self, phi) for phi in phis))
        counter.add_incoming(builder.add(counter, I64(step)), builder.block)
        for phi, value in zip(phis, results, strict=True):
            phi.add_incoming(value.value, builder.block)
        builder.branch(head)
        builder.position_at_end(after)
        return [Lanes(self, phi) for phi in phis]

    def copy(self, count: Lanes, kind: ir.Type, start: tuple[Lanes, Lanes], to: tuple[Lanes, Lanes]) -> None:
        """Copy `count` elements, one at a time, between places given as array and index."""

        def one(n: Lanes) -> list[Lanes]:
            self.store(self.load(start[0], start[1] + n, kind), to[0], to[1] + n)
            return []

        self.loop(0, count, 1, [], one)

    def intrinsic(self, name: str, result: Any, *operands: Lanes | int) -> Lanes:
        """Call an LLVM intrinsic by its full name; a Python bool is an `I1` constant, an int an `I32` one."""
        values = [o.value if isinstance(o, Lanes) else (I1 if isinstance(o, bool) else I32)(int(o)) for o in operands]
        kind = ir.FunctionType(result, [v.type for v in values])
        known = self.module.globals.get(name)
        function = known if known is not None else ir.Function(self.module, kind, name)
        return Lanes(self, self.builder.call(function, values))

    def fma(self, x: Lanes, y: Lanes, z: Lanes) -> Lanes:
        """X * y + z, rounded once, in the rounding mode in force."""
        kind = x.type
        suffix = f"v{kind.count}" if isinstance(kind, ir.VectorType) else ""
        element = kind.element if isinstance(kind, ir.VectorType) else kind
        name = f"llvm.fma.{suffix}{'f32' if isinstance(element, ir.FloatType) else 'f64'}"
        return self.intrinsic(name, kind, x, y, z)

    def call(self, where: Lanes, parameters: str, *operands: Lanes) -> Lanes:
        """What another kernel gives, called by its `Kernel.address`; `parameters` are those it was written with."""
        kind = ir.FunctionType(I64, _types(parameters))
        function = self.builder.inttoptr(where.value, ir.PointerType(kind))
        return Lanes(self, self.builder.call(function, [o.value for o in operands]))

    def compile(self, result: Lanes | int = 0) -> Kernel:
        """End the function, which gives `result`, and compile it."""
        self.builder.ret(self._index(result).value)
        return Kernel(str(self.module), self.function.name, len(self.arguments))


def _types(parameters: str) -> list[Any]:
    return [ir.PointerType(I8) if p == "p" else I64 for p in parameters]


class Kernel:
    """A compiled function; called with addresses (see `address`) and integers. It releases the interpreter lock."""

    def __init__(self, text: str, name: str, arguments: int) -> None:
        module = llvm.parse_assembly(text)
        machine = _target_machine()
        passes = llvm.create_pass_builder(machine, _tuning())
        manager = passes.getModulePassManager()
        manager.run(module, passes)
        self._engine = llvm.create_mcjit_compiler(module, machine)  # owns the code: lives as long as the function
        self._engine.finalize_object()
        self.address: int = self._engine.get_function_address(name)
        """Where the function is, for `Code.call`."""
        self._call = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * arguments)(self.address)

    def __call__(self, *arguments: int) -> int:
        """Run the function."""
        return self._call(*arguments)


def _tuning() -> Any:
    # Vectors are written out, and are long: neither unrolling nor another vectorisation gains, and both take time.
    options = llvm.create_pipeline_tuning_options(speed_level=1)
    options.loop_unrolling = options.loop_vectorization = options.slp_vectorization = False
    return options


def _target_machine() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    features = llvm.get_host_cpu_features()
    # Full-width registers where the processor has them: LLVM prefers 256 bits on some that run 512 at full rate.
    text = features.flatten()
    if features.get("avx512f"):
        text += ",-prefer-256-bit"
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=text, opt=3)


@lru_cache(maxsize=1)
def host_features() -> frozenset[str]:
    """The names of this processor's extensions, as LLVM has them: ``fma``, ``avx512f``."""
    return frozenset(name for name, there in llvm.get_host_cpu_features().items() if there)


def transposed(rows: list[Lanes]) -> list[Lanes]:
    """The columns of as many vectors as each has lanes, a power of two: pairs of ever larger blocks change places."""
    size = len(rows)
    step = 1
    while step < size:
        new = list(rows)
        low = [n if not n & step else size + n - step for n in range(size)]
        high = [n + step if not n & step else size + n for n in range(size)]
        for n in range(size):
            if not n & step:
                new[n] = rows[n].shuffle(rows[n + step], low)
                new[n + step] = rows[n].shuffle(rows[n + step], high)
        rows, step = new, 2 * step
    return rows


def address(array: Any) -> int:
    """Address of the first element of a NumPy array."""
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))  # in a quarter of the time
    except (TypeError, ValueError, BufferError):  # no memory of its own to write to, or none at all
        return array.ctypes.data
