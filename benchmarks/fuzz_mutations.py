"""Files made wrong: any bytes, and parts of .npz, JSON, CSV, pickles and msgpack."""

import io
import json
import pickle
import re
import struct
import zipfile
from collections.abc import Callable

import numpy as np
import paths  # noqa: F401 - spa is found by it

from spa.data.unpickling import load_arrays

EXTREMES = (0, 1, -1, 2, 127, 255, 2**15, 2**16, 2**31 - 1, -(2**31), 2**32 - 1)
EXTREMES += (10**9, 10**10, 2**40, 2**53, 2**62, 2**63 - 1, 2**64 - 1)
TOKENS = (
    *map(str, EXTREMES),
    *("0.5", "-0.5", "1e30", "-1e30", "1e-30", "1e400", "NaN", "nan", "Infinity"),
    *("9" * 400, "9" * 5000, "null", "true", "false", "[]", "{}", '""', "[[]]"),
    *('"text"', '"\\ud800"', '"\\u0000"', '"' + "x" * 200_000 + '"'),
    *("[" * 5000, "[" * 200 + "]" * 200, '{"a":' * 5000, "{", "]", '"', ",", ":"),
)
CELLS = (
    *map(str, EXTREMES),
    *("", "nan", "inf", "1e400", "=1+1", "-", "\x00", "\r", "\n", '"', ",", ";", "\t"),
    *(
        "x" * 200_000,
        "é",
        "\ufeff",
        "../..",
        ".",
        "..",
        "~",
        "a/b",
        "\\\\a\\b",
        "9" * 5000,
    ),
)
DTYPES = (
    *("|b1", "|i1", "|u1", "<i2", ">i4", "<i8", "<u8", "<f2", "<f4", ">f8", "<f16"),
    *("<c8", "<c16", "|S1", "|S0", "<U1", "<U0", "<U1000000", "|O", "|V2", "|V8"),
    *("<M8[s]", "<m8", "[('a', '<f4')]", "x", ""),
)
SHAPES = (
    *("()", "(0,)", "(1,)", "(-1,)", "(2, 3)", "(0, 1000000000)", "(1000000000000,)"),
    *("(4294967296, 4294967296)", "(1, 1, 1, 1, 1, 1)", "1", "(1.5,)", "(True,)"),
    *("(" + "1, " * 70 + ")", "None"),
)
NUMBERS = (0.0, -1.0, 0.5, 1.5, 1e-30, 1e9, 1e30, 1e38, np.nan, np.inf, -np.inf)


def mutate(kind: str, content: bytes, rng: np.random.Generator) -> bytes:
    """Returns a file of a kind (of KINDS, or "bytes") with up to three things wrong."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        special = KINDS.get(kind, mutated_bytes)
        content = (special if rng.random() < 0.75 else mutated_bytes)(content, rng)
    return content


def pick(values, rng):
    return values[rng.integers(len(values))]


def mutated_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    """Returns bytes of which some are flipped, gone, new, doubled or a number."""
    data, size = bytearray(content), len(content)
    start = int(rng.integers(size + 1))
    # Headers are short and lie at the ends.
    if rng.random() < 0.5:
        start = min(int(rng.exponential(60)), size)
        start = start if rng.random() < 0.6 else size - start
    stop = min(size, start + int(rng.exponential(30)) + 1)
    what = rng.integers(7)
    if what == 0:
        for place in range(start, min(size, start + int(rng.integers(1, 4)))):
            data[place] ^= 1 << int(rng.integers(8))
    elif what == 1:
        del data[start:]
    elif what == 2:
        data[start:start] = rng.bytes(stop - start)
    elif what == 3:
        del data[start:stop]
    elif what == 4:
        data[start:start] = data[start:stop] * int(rng.choice([1, 2, 1000]))
    elif what == 5:
        number = pick(EXTREMES, rng) % 2**64
        width = int(rng.choice([1, 2, 4, 8]))
        order = pick(("little", "big"), rng)
        data[start : start + width] = (number % 256**width).to_bytes(width, order)
    else:
        data[start:stop] = rng.bytes(stop - start)
    return bytes(data)


def mutated_text(tokens, pattern):
    """Returns a mutation that puts one of `tokens` in place of a match, or beside."""

    def mutated(content, rng):
        text = content.decode("utf-8", "surrogateescape")
        places = list(re.finditer(pattern, text))
        if not places:
            return mutated_bytes(content, rng)
        at, other = pick(places, rng), pick(places, rng)
        token = pick((pick(tokens, rng), other[0]), rng)
        start = at.start() if rng.random() < 0.8 else at.end()
        text = text[:start] + token + text[at.end() :]
        return text.encode("utf-8", "surrogateescape")

    return mutated


JSON_TOKEN = r'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|true|false|null|[\[\]{},:]'
mutated_json = mutated_text(TOKENS, JSON_TOKEN)
mutated_csv = mutated_text(CELLS, r"[^,;\t\n]+|[,;\t\n]")


def mutated_zip(content: bytes, rng: np.random.Generator) -> bytes:
    """Returns an .npz of which a member is wrong but its checksum right, or absent, or
    doubled; or that lies about sizes."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
    except Exception:  # it was mutated before
        return mutated_bytes(content, rng)
    if not members:
        return mutated_bytes(content, rng)
    at = int(rng.integers(len(members)))
    name, data = members[at]
    what = rng.integers(8)
    if what == 0:
        del members[at]
    elif what == 1:
        members.append((pick(members, rng)[0], data))
    elif what == 2:
        members[at] = (pick(("", "a", "../x", "a/" * 50, "x" * 60_000), rng), data)
    else:
        change = pick((mutated_array, mutated_header, mutated_bytes), rng)
        members[at] = (name, change(data, rng))
    method = pick((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED), rng)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name) if not name else name, data, method)
    content = bytearray(file.getvalue())
    entry = content.find(b"PK\x01\x02")
    if what == 7 and entry >= 0:  # sizes packed and unpacked, in the directory
        place = entry + int(pick((20, 24, 10, 42), rng))
        content[place : place + 4] = struct.pack("<I", pick(EXTREMES, rng) % 2**32)
    return bytes(content)


def mutated_header(data: bytes, rng: np.random.Generator) -> bytes:
    """Returns a .npy whose header says something else, in as many bytes as it says."""
    if not data.startswith(b"\x93NUMPY\x01\x00"):
        return mutated_bytes(data, rng)
    size = int.from_bytes(data[8:10], "little")
    header, rest = data[10 : 10 + size].decode("latin1"), data[10 + size :]
    kind, shape = pick(DTYPES, rng), pick(SHAPES, rng)
    kind = kind if kind.startswith("[") else repr(kind)
    changes = (
        lambda text: re.sub(r"'descr': [^,]*", lambda _: f"'descr': {kind}", text),
        lambda text: re.sub(r"'shape': \([^)]*\)", lambda _: f"'shape': {shape}", text),
        lambda text: text.replace("False", "True"),
        lambda text: text.replace("{", "[" * int(rng.integers(1, 5000))),
        lambda text: text.replace("descr", pick(("shape", "x"), rng)),
    )
    header = pick(changes, rng)(header).encode("latin1")
    return data[:8] + struct.pack("<H", len(header) % 2**16) + header + rest


def mutated_array(data: bytes, rng: np.random.Generator) -> bytes:
    """Returns a .npy of other numbers, another type or shape; of JSON where it was."""
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception:  # of objects, or mutated before
        return mutated_bytes(data, rng)
    if array.dtype.kind == "U" and not array.ndim:
        text = mutated_json(str(array).encode("utf-8", "replace"), rng)
        array = np.array(text.decode("utf-8", "replace"))
    elif array.dtype.kind in "USV":
        array = pick((array[:0], np.full(array.shape, "x" * 1000), array.ravel()), rng)
    else:
        array = _other_numbers(array, rng)
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=True)
    return file.getvalue()


def _other_numbers(array, rng):
    what = rng.integers(6)
    if what == 0:
        array = array.astype(pick("? i1 u1 i8 f2 f4 f8 c8 U9 S4 >f4".split(), rng))
    elif what == 1:
        return np.full(array.shape, pick(NUMBERS, rng))
    elif what == 2 and array.size:
        array = array.astype(float)
        array.flat[rng.integers(array.size)] = pick(NUMBERS, rng)
    elif what == 3:
        return pick((array[None], array.ravel(), array.T, array[..., None]), rng)
    elif what == 4 and array.ndim:
        axis = int(rng.integers(array.ndim))
        return array.take(range(int(rng.integers(array.shape[axis] + 1))), axis)
    else:
        array = np.asarray(pick(EXTREMES, rng) % 2**63)
    return array


def mutated_pickle(content: bytes, rng: np.random.Generator) -> bytes:
    """Returns a pickle with other opcodes, names or repetitions in it, or a value."""
    if rng.random() < 0.4:
        return _other_value(content, rng)
    pieces = (
        *(b"]", b"}", b")", b"\x8f", b"(", b".", b"0", b"1", b"2", b"N", b"a", b"b"),
        *(b"e", b"s", b"u", b"t", b"l", b"d", b"\x85", b"\x86", b"\x87", b"R", b"o"),
        *(b"\x81", b"\x92", b"\x93", b"\x94", b"\x97", b"\x98", b"Q", b"q\x01"),
        *(b"h\x00", b"h\x01", b"h\x05", b"r\xff\xff\xff\x7f", b"j\x03\0\0\0"),
        *(b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"cbuiltins\nbytearray\n"),
        *(b"cbuiltins\nbytes\n", b"cbuiltins\nset\n", b"c_codecs\nencode\n"),
        *(b"cnumpy._core.multiarray\nscalar\n", b"X\x02\0\0\0O8", b"X\x02\0\0\0V8"),
        *(b"\x95" + b"\xff" * 8, b"B\xff\xff\xff\x7f", b"\x8e" + b"\x7f" * 8),
        *(b"\x8a\x08" + struct.pack("<q", n % 2**63) for n in EXTREMES),
        *(b"K\x00", b"K\x01", b"\x89", b"\x88", b"C\x04abcd", b"G" + b"\x7f" * 8),
        *(b"]" * 20_000, b"\x85" * 50_000, b"h\x01" * 50_000, b"(" * 50_000),
        *[_lying_array(rng) for _ in range(30)],
    )
    start = int(rng.integers(len(content) + 1))
    if rng.random() < 0.7:  # where opcodes are, rather than pixels
        signs = [m.start() for m in re.finditer(rb"[\x8c\x94KMJC\x85-\x87Rb]", content)]
        start = int(pick(signs, rng)) if signs else start
    width = int(rng.integers(4))
    return content[:start] + pick(pieces, rng) + content[start + width :]


def _lying_array(rng) -> bytes:
    """Returns the opcodes of an array, or of a number, of which any part may lie."""

    def integer(value):
        return b"\x8a\x08" + struct.pack("<q", value)

    def text(value):
        return b"X" + struct.pack("<I", len(value)) + value

    codes = (b"f4", b"u1", b"b1", b"O", b"O8", b"V8", b"S4", b"U1", b"f4,O", b"M8")
    sizes = (0, 1, 2, 4, -1, 10**6, 2**28, 2**31 - 1, 2**40, 2**62)
    shape = b"(" + integer(pick(sizes, rng)) * int(rng.integers(1, 4)) + b"t"
    data = pick((b"", b"1234", b"12345678", bytes(4096)), rng)
    data = pick((b"B" + struct.pack("<I", len(data)) + data, b"]Na", b"N"), rng)
    kind = b"cnumpy\ndtype\n(" + text(pick(codes, rng)) + b"\x89\x88tR"
    field = b"(" + kind + integer(pick(sizes, rng)) + b"t"
    fields = pick((b"NN", text(b"x") + b"\x85}" + text(b"x") + field + b"s"), rng)
    state = b"(K\x03" + text(pick((b"<", b"|", b"x"), rng)) + b"N" + fields
    state += integer(pick((*sizes, 8), rng)) + integer(1) + integer(0) + b"t"
    kind = pick((kind, kind + state + b"b"), rng)
    filled = b"(K\x01" + shape + kind + b"\x89" + data + b"tb"
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"
    code = text(pick(codes, rng))
    return pick(
        (
            empty + filled,
            b"cnumpy\nndarray\n(" + shape + code + data + b"tR",
            b"cnumpy.core.multiarray\nscalar\n(" + kind + data + b"tR",
            b"cnumpy.core.numeric\n_frombuffer\n("
            + data
            + kind
            + shape
            + b"\x8c\x01CtR",
        ),
        rng,
    )


def _other_value(content, rng):
    try:
        tree = load_arrays(io.BytesIO(content), len(content))
    except Exception:  # it was mutated before
        return mutated_bytes(content, rng)
    places = [(tree, key) for key in _keys(tree)]
    for inner, key in places:  # and those in what is found
        places += [(inner[key], inner_key) for inner_key in _keys(inner[key])]
        if len(places) > 200:
            break
    if not places:
        return mutated_bytes(content, rng)
    inner, key = pick(places, rng)
    value = inner[key]
    if isinstance(value, np.ndarray) and value.dtype != object and rng.random() < 0.7:
        inner[key] = _other_numbers(value, rng)
    else:
        others = (None, [], {}, "x", b"", b"\xff\xd8", 10**10, 0.5, True, value, tree)
        inner[key] = pick((*others, [value] * 50, {"video": value}), rng)
    try:
        return pickle.dumps(tree, int(rng.integers(2, 6)))
    except RecursionError:
        return content


def _keys(value):
    if isinstance(value, dict):
        return list(value)
    return list(range(len(value))) if isinstance(value, list) else []


KINDS: dict[str, Callable] = {
    "npz": mutated_zip,
    "json": mutated_json,
    "csv": mutated_csv,
    "pkl": mutated_pickle,
}


def as_json(value) -> bytes:
    return json.dumps(value).encode()
