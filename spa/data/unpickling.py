"""Pickles of arrays and plain containers, and of nothing else.

Python's unpicklers and numpy's arrays believe the sizes that a pickle states, and end
in a crash or take all memory where it lies. This one knows the opcodes of which such
pickles are made, and no other; it makes the arrays itself, of sizes that fit their
bytes, and copies no more than the file is large.
"""

import codecs
import math
import os
import pickle
import struct
from collections.abc import Callable
from typing import BinaryIO

import numpy as np

from spa.errors import DatasetError, first_line

MAX_OPERATIONS = 2_000_000  # a shard of TAP-Vid Kinetics has some 100,000
MAX_DIMS = 8
INTEGER_BYTES = 9  # an unsigned one of 64 bits, and its sign
COPIES = 2  # of the file's size, as old protocols need them
ROOM = 1 << 20  # bytes that an empty array may pretend to, and a small file copy
TYPES = {
    *("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"),
    *("f2", "f4", "f8", "c8", "c16"),
}
KEYS = (str, bytes, int, float, bool, type(None))  # whose hash is no recursion
SCALARS = (*KEYS, complex, bytearray, np.generic)


def load_pickle(path: str | os.PathLike):
    """Returns what a pickle of arrays and plain containers holds; raises DatasetError,
    running nothing, for any other."""
    try:
        with open(path, "rb") as file:
            return load_arrays(file, os.fstat(file.fileno()).st_size)
    except Exception as error:  # damage shows in many ways
        raise DatasetError(
            f"{path} is no pickle of arrays that can be read: {first_line(error)[:200]}"
        ) from error


def load_arrays(file: BinaryIO, size: int):
    """Returns what a pickle of so many bytes holds: numbers, strings, arrays of them,
    and lists, tuples, dicts and sets. Takes memory in proportion to `size`. Raises
    UnpicklingError, or what the damage leads to."""
    return _Machine(file, size).run()


class _Name:
    """A function or class that the pickle names, before it is called."""

    def __init__(self, call: Callable):
        self.call = call


class _Type:
    """An array's type: code, itemsize and byte order, once its state is known."""

    def __init__(self, code):
        self.is_object = code in ("O", "O4", "O8")
        if not self.is_object and code not in TYPES and not _is_string_code(code):
            _refuse(f"the type {_short(code)} is none of plain numbers or strings")
        self.dtype = np.dtype("O" if self.is_object else code)

    def set_state(self, state) -> None:
        _need(isinstance(state, tuple) and 3 <= len(state) <= 9, "a type's state")
        _, order, *rest = state
        fields, sizes = rest[:3], rest[3:5]
        _need(all(x is None or x == () for x in fields), "a type without fields")
        itemsize = self.dtype.itemsize
        _need(not sizes or sizes[0] in (-1, itemsize), f"a type of {itemsize} bytes")
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)
        else:
            _need(order in ("|", "="), "a byte order")


def _is_string_code(code) -> bool:
    return (
        isinstance(code, str) and code[:1] in ("S", "U") and code[1:].isascii()
    ) and (code[1:].isdigit() and len(code) < 9)


class _Machine:
    """Follows the opcodes of one pickle."""

    def __init__(self, file: BinaryIO, size: int):
        self.file, self.left, self.spare = file, size, COPIES * size + ROOM
        self.stack, self.marks, self.memo = [], [], {}
        self.unfilled: dict[int, np.ndarray] = {}  # arrays without their state, by id

    def run(self):
        for _ in range(MAX_OPERATIONS):
            code = self.take(1)
            if code == pickle.STOP:
                value = self.pop()
                _check_plain(value)
                return value
            if code not in OPERATIONS:
                _refuse(f"its operation {code!r} is not needed for plain arrays")
            OPERATIONS[code](self)
        _refuse(f"it has more than {MAX_OPERATIONS} operations")

    def take(self, size: int) -> bytes:
        data = self.file.read(size) if 0 <= size <= self.left else b""
        if len(data) != size:
            raise EOFError("it ends early")
        self.left -= size
        return data

    def line(self) -> bytes:
        line = self.file.readline(self.left)
        if not line.endswith(b"\n"):
            raise EOFError("it ends early")
        self.left -= len(line)
        return line[:-1]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def pop(self):
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            _refuse("it takes more values than it has")
        return self.stack.pop()

    def top(self, kind: type):
        value = self.pop()
        self.stack.append(value)
        _need(type(value) is kind, f"a {kind.__name__}")
        return value

    def marked(self) -> list:
        if not self.marks:
            _refuse("it takes more values than it has")
        start = self.marks.pop()
        found = self.stack[start:]
        del self.stack[start:]
        return found

    def copy(self, size: int) -> None:
        """Counts bytes that are made of others, which the file may name again."""
        self.spare -= size
        if self.spare < 0:
            _refuse("it makes much more than it holds")

    # What opcodes do.

    def remember(self, place: int) -> None:
        value = self.pop()
        self.stack.append(value)
        self.memo[place] = value

    def recall(self, place: int) -> None:
        if place not in self.memo:
            _refuse("it recalls what it never had")
        self.stack.append(self.memo[place])

    def frozen(self, size: int) -> None:
        values = [self.pop() for _ in range(size)]
        self.stack.append(tuple(values[::-1]))

    def append(self) -> None:
        value = self.pop()
        self.top(list).append(value)

    def extend(self) -> None:
        values = self.marked()
        self.top(list).extend(values)

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.top(dict)[_key(key)] = value

    def set_items(self) -> None:
        pairs = self.marked()
        self.top(dict).update(_dict(pairs))

    def add_items(self) -> None:
        values = self.marked()
        self.top(set).update(map(_key, values))

    def name(self, module, name) -> None:
        call = CALLS.get((module, name)) if isinstance(module, str) else None
        if call is None:
            _refuse(
                f"it asks for {_short(module)}.{_short(name)}, which is no array and "
                "may run any code"
            )
        self.stack.append(_Name(call))

    def name_lines(self) -> None:
        module, name = self.line(), self.line()
        self.name(module.decode("utf-8"), name.decode("utf-8"))

    def name_values(self) -> None:
        name, module = self.pop(), self.pop()
        _need(type(module) is type(name) is str, "names")
        self.name(module, name)

    def call(self) -> None:
        values, function = self.pop(), self.pop()
        _need(type(function) is _Name and type(values) is tuple, "a call")
        self.stack.append(function.call(self, *values))

    def build(self) -> None:
        state, value = self.pop(), self.pop()
        if type(value) is _Type:
            value.set_state(state)
        else:
            _need(self.unfilled.pop(id(value), None) is value, "an array to fill")
            self.fill(value, state)
        self.stack.append(value)

    def fill(self, array: np.ndarray, state) -> None:
        _need(type(state) is tuple and len(state) in (4, 5), "an array's state")
        shape, kind, is_fortran, data = state[-4:]
        _need(type(kind) is _Type and type(is_fortran) in (int, bool), "a state")
        version = (1,) if len(state) == 5 else ()
        if kind.is_object:
            _need(type(data) is list and len(data) == _size(shape, 8), "objects")
            _need(all(map(_is_element, data)), "objects that are numbers or strings")
        else:
            data = self.fitting(data, kind.dtype, shape)
            self.copy(len(data))
        # Of all that it does not check itself nothing is left to be wrong here.
        array.__setstate__((*version, shape, kind.dtype, bool(is_fortran), data))

    def fitting(self, data, dtype: np.dtype, shape) -> bytes | bytearray:
        """Returns an array's bytes, which its type and shape fit exactly."""
        if type(data) is str:  # of Python 2
            self.copy(len(data))
            data = data.encode("latin1")
        _need(type(data) in (bytes, bytearray), "bytes of an array")
        size = _size(shape, dtype.itemsize)
        if size * dtype.itemsize != len(data):
            _refuse(
                f"an array of {dtype} and shape {shape} needs {size * dtype.itemsize} "
                f"bytes, and it has {len(data)}"
            )
        if dtype.kind == "b" and size:
            _need(np.frombuffer(data, np.uint8).max() <= 1, "booleans of 0 and 1")
        if dtype.kind == "U" and data:
            codes = np.frombuffer(data, np.dtype("u4").newbyteorder(dtype.byteorder))
            _need(codes.max() <= 0x10FFFF, "characters")
        return data

    # What pickles may call: the names of CALLS.

    def new_array(self, kind, shape, code) -> np.ndarray:
        _need(type(kind) is _Name and kind.call is _Machine.no_array, "an array")
        array = np.empty(0, np.int8)
        self.unfilled[id(array)] = array
        return array

    def no_array(self, *values):
        _refuse("it asks for an array over given memory")

    def new_type(self, code, *_) -> _Type:
        return _Type(code)

    def scalar(self, kind, data) -> np.generic:
        _need(type(kind) is _Type and not kind.is_object, "a number's type")
        self.copy(kind.dtype.itemsize)
        return np.frombuffer(self.fitting(data, kind.dtype, (1,)), kind.dtype)[0]

    def from_buffer(self, data, kind, shape, order) -> np.ndarray:
        _need(type(kind) is _Type and not kind.is_object, "an array's type")
        _need(order in ("C", "F"), "an order of axes")
        data = self.fitting(data, kind.dtype, shape)
        if not data:
            return np.empty(shape, kind.dtype)
        return np.frombuffer(data, kind.dtype).reshape(shape, order=order)

    def encoded(self, text="", encoding="latin1") -> bytes:
        if encoding not in ("latin1", "latin-1"):
            _refuse(f"bytes in {_short(encoding)} are not admitted")
        _need(type(text) in (str, bytes), "a string")  # numbers would be sizes
        self.copy(len(text))
        return text.encode("latin1") if type(text) is str else bytes(text)

    def changeable(self, *values) -> bytearray:
        return bytearray(self.encoded(*values))

    def complex(self, real, imaginary) -> complex:
        _need(type(real) is type(imaginary) is float, "floats")
        return complex(real, imaginary)

    def set(self, values=()) -> set:
        _need(type(values) in (list, tuple), "a list")
        self.copy(8 * len(values))
        return set(map(_key, values))

    def frozenset(self, values=()) -> frozenset:
        return frozenset(self.set(values))


def _calls() -> dict[tuple[str, str], Callable]:
    found = {("_codecs", "encode"): _Machine.encoded}
    for module in ("builtins", "__builtin__"):  # of Python 3 and 2
        found[module, "bytes"] = _Machine.encoded
        found[module, "bytearray"] = _Machine.changeable
        found[module, "complex"] = _Machine.complex
        found[module, "set"] = _Machine.set
        found[module, "frozenset"] = _Machine.frozenset
    for core in ("numpy.core", "numpy._core"):
        found[f"{core}.multiarray", "_reconstruct"] = _Machine.new_array
        found[f"{core}.multiarray", "scalar"] = _Machine.scalar
        found[f"{core}.numeric", "_frombuffer"] = _Machine.from_buffer
    found["numpy", "ndarray"] = _Machine.no_array
    found["numpy", "dtype"] = _Machine.new_type
    return found


CALLS = _calls()


def _operations() -> dict[bytes, Callable[[_Machine], None]]:
    def pushing(make):
        return lambda machine: machine.stack.append(make(machine))

    def unpacked(form):
        size = struct.calcsize(form)
        return pushing(lambda m: struct.unpack(form, m.take(size))[0])

    def sized(size, convert):
        return pushing(lambda m: convert(m.take(m.number(size))))

    def written(convert):
        return pushing(lambda m: convert(m.line()))

    def integer(data):
        _need(len(data) <= INTEGER_BYTES, "an integer of 64 bits")
        return int.from_bytes(data, "little", signed=True)

    def text(data):
        return str(data, "utf-8", "surrogatepass")

    # Sizes are signed in two opcodes; a negative one is too large here.
    return {
        pickle.PROTO: lambda m: _need(m.number(1) <= 5, "a protocol up to 5"),
        pickle.FRAME: lambda m: m.take(8) and None,
        pickle.MARK: lambda m: m.marks.append(len(m.stack)),
        pickle.NONE: pushing(lambda m: None),
        pickle.NEWTRUE: pushing(lambda m: True),
        pickle.NEWFALSE: pushing(lambda m: False),
        pickle.BININT: unpacked("<i"),
        pickle.BININT1: unpacked("<B"),
        pickle.BININT2: unpacked("<H"),
        pickle.BINFLOAT: unpacked(">d"),
        pickle.LONG1: sized(1, integer),
        pickle.LONG4: sized(4, integer),
        pickle.INT: written(_written_integer),
        pickle.LONG: written(_written_integer),
        pickle.FLOAT: written(float),
        pickle.STRING: written(_quoted),
        pickle.UNICODE: written(lambda line: str(line, "raw-unicode-escape")),
        pickle.SHORT_BINSTRING: sized(1, _old_string),
        pickle.BINSTRING: sized(4, _old_string),
        pickle.SHORT_BINBYTES: sized(1, bytes),
        pickle.BINBYTES: sized(4, bytes),
        pickle.BINBYTES8: sized(8, bytes),
        pickle.BYTEARRAY8: sized(8, bytearray),
        pickle.SHORT_BINUNICODE: sized(1, text),
        pickle.BINUNICODE: sized(4, text),
        pickle.BINUNICODE8: sized(8, text),
        pickle.EMPTY_LIST: pushing(lambda m: []),
        pickle.EMPTY_DICT: pushing(lambda m: {}),
        pickle.EMPTY_SET: pushing(lambda m: set()),
        pickle.EMPTY_TUPLE: pushing(lambda m: ()),
        pickle.LIST: pushing(lambda m: m.marked()),
        pickle.TUPLE: pushing(lambda m: tuple(m.marked())),
        pickle.DICT: pushing(lambda m: _dict(m.marked())),
        pickle.FROZENSET: pushing(lambda m: frozenset(map(_key, m.marked()))),
        pickle.TUPLE1: lambda m: m.frozen(1),
        pickle.TUPLE2: lambda m: m.frozen(2),
        pickle.TUPLE3: lambda m: m.frozen(3),
        pickle.APPEND: _Machine.append,
        pickle.APPENDS: _Machine.extend,
        pickle.SETITEM: _Machine.set_item,
        pickle.SETITEMS: _Machine.set_items,
        pickle.ADDITEMS: _Machine.add_items,
        pickle.PUT: lambda m: m.remember(_written_integer(m.line())),
        pickle.BINPUT: lambda m: m.remember(m.number(1)),
        pickle.LONG_BINPUT: lambda m: m.remember(m.number(4)),
        pickle.MEMOIZE: lambda m: m.remember(len(m.memo)),
        pickle.GET: lambda m: m.recall(_written_integer(m.line())),
        pickle.BINGET: lambda m: m.recall(m.number(1)),
        pickle.LONG_BINGET: lambda m: m.recall(m.number(4)),
        pickle.GLOBAL: _Machine.name_lines,
        pickle.STACK_GLOBAL: _Machine.name_values,
        pickle.REDUCE: _Machine.call,
        pickle.BUILD: _Machine.build,
    }


def _written_integer(line: bytes) -> int | bool:
    if line in (b"00", b"01"):
        return line == b"01"
    _need(len(line) <= 24, "an integer of 64 bits")
    return int(line.removesuffix(b"L"))


def _quoted(line: bytes) -> str | bytes:
    _need(len(line) > 1 and line[:1] == line[-1:] and line[:1] in b"'\"", "a string")
    return _old_string(codecs.escape_decode(line[1:-1])[0])


def _old_string(data: bytes) -> str | bytes:
    """A string of Python 2, which is text or not."""
    return data.decode("ascii") if data.isascii() else data


def _dict(pairs: list) -> dict:
    _need(len(pairs) % 2 == 0, "a value for each key")
    return dict(zip(map(_key, pairs[::2]), pairs[1::2], strict=True))


def _key(value):
    _need(type(value) in KEYS, "keys that are strings or numbers")
    return value


def _is_element(value) -> bool:
    is_numbers = type(value) is np.ndarray and not value.dtype.hasobject
    return is_numbers or isinstance(value, SCALARS)


def _size(shape, itemsize: int) -> int:
    _need(type(shape) is tuple and len(shape) <= MAX_DIMS, f"{MAX_DIMS} axes at most")
    _need(all(type(n) is int and n >= 0 for n in shape), "a shape")
    size = math.prod(shape)
    if not size * itemsize:  # of empty arrays, too, sums are made along an axis
        _need(math.prod(max(n, 1) for n in shape) <= ROOM, "an empty array's shape")
    return size


def _check_plain(value) -> None:
    """Refuses what is named or typed, but nowhere made into an array."""
    inner, seen = [value], set()
    while inner:
        value = inner.pop()
        if type(value) in (list, tuple, dict):
            if id(value) not in seen:
                seen.add(id(value))
                inner += value.values() if type(value) is dict else value
        elif not isinstance(value, (*SCALARS, np.ndarray, set, frozenset)):
            _refuse("it holds a function or a type")


def _need(is_so: bool, what: str) -> None:
    if not is_so:
        _refuse(f"{what} should be there, and is not")


def _refuse(why: str):
    raise pickle.UnpicklingError(why)


def _short(value) -> str:
    text = value if isinstance(value, str) else type(value).__name__
    return text if len(text) < 60 and text.isprintable() else ascii(text[:60])


OPERATIONS = _operations()
