"""Files for `torch.load`, looked through before: what its restricted reader is not to be left alone with.

That reader calls little of what a file names, but believes the rest: it does not compare checksums, unpacks what is
compressed, hashes the keys of dictionaries, and writes out what it will not call. A tuple or a list in another, each
twice in the next, takes years to hash or to write after forty levels, and a million levels end the process.
"""

import io
import pickle
import pickletools
import re
import zipfile
from pathlib import Path
from typing import BinaryIO

from saccade.errors import shorten

__all__ = ["check_torch_file", "is_zip"]

_ZIP = b"PK\x03\x04"
_LEGACY_PICKLES = 5
"""What a file of before PyTorch 1.6 begins with: magic number, version, platform, the object, keys of its storages."""
_MOST_LEVELS, _MOST_ITEMS = 100, 1_000_000
"""Of tuples within tuples; weights have two levels and a dozen items."""

_MOST_BYTES, _MOST_STEPS = 1 << 24, 200_000
"""Of what tells the tensors' names and shapes: some 20 instructions and 200 bytes each."""
_MOST_INTEGER, _MAGIC = 1 << 64, 0x1950A86A20F9469CFC6C
"""Of thousands of larger ones, all can have the same hash. The second is how a file of the older format begins."""

_NAMES = re.compile(
    r"torch \w{1,40}|torch\._utils _rebuild_\w{1,40}|torch\.nn\.parameter Parameter"
    r"|torch\.(cuda|storage) \w{1,40}Storage|collections OrderedDict|argparse Namespace"
)
"""What weights name, as `module name`. PyTorch's reader knows more: codecs, for one, that take hours over a text."""

_Size = tuple[int, int]
"""Levels and items of a value, as far as it is made of tuples."""
_PLAIN: _Size = (0, 1)
_NAMED: _Size = (0, 0)
"""Of a function or class by its name; nothing else can be called."""


def is_zip(path: Path) -> bool:
    """Whether a file is of PyTorch's newer format."""
    with path.open("rb") as file:
        return file.read(len(_ZIP)) == _ZIP


def check_torch_file(path: Path) -> None:
    """Refuse a file with a changed byte or a structure that no weights have; of the older format only the latter.

    Raises:
        zipfile.BadZipFile: A checksum differs, or something is compressed.
        pickle.UnpicklingError: The structure; and whatever Python's own readers raise on damaged bytes.
    """
    if is_zip(path):
        _check_zip(path)
        return
    with path.open("rb") as file:
        _check_pickle(file)
        for _ in range(_LEGACY_PICKLES - 1):
            try:
                _check_pickle(file)
            except ValueError:
                return  # no more pickles, so that PyTorch reads no more, either


def _check_zip(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED:
                raise zipfile.BadZipFile(f"{info.filename[:60]} in it is compressed, as PyTorch does not write it")
        damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"{damaged[:60]} in it has changed since it was written")
        for info in archive.infolist():
            if info.filename.endswith(".pkl"):
                if info.file_size > _MOST_BYTES:
                    raise pickle.UnpicklingError(f"{info.filename[:60]} in it is larger than of any weights")
                _check_pickle(io.BytesIO(archive.read(info)))


def _check_pickle(file: BinaryIO) -> None:
    """Follow the instructions of one pickle as to how large tuples grow; None on the stack is a mark."""
    stack: list[_Size | None] = []
    memo: dict[int, _Size] = {}
    for step, (code, given, _) in enumerate(pickletools.genops(file)):
        if step > _MOST_STEPS:
            raise pickle.UnpicklingError(f"holds more than {_MOST_STEPS} instructions, as no weights do")
        name, argument = code.name, len(memo) if given is None else given
        if name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[argument] = stack[-1] or _PLAIN
        elif name == "DUP":
            stack.append(stack[-1])
        elif name.startswith("TUPLE"):
            stack.append(_tuple_of(_until_mark(stack) if name == "TUPLE" else _last(stack, int(name[-1]))))
        elif name == "GLOBAL":
            if not _NAMES.fullmatch(str(argument)):
                asked = shorten(str(argument).replace(" ", "."))
                raise pickle.UnpicklingError(f"names GLOBAL {asked}, which weights never need")
            stack.append(_NAMED)
        else:
            if name in ("REDUCE", "NEWOBJ") and stack[-2] != _NAMED:
                raise pickle.UnpicklingError("calls what is no function")
            if isinstance(given, int) and abs(given) > _MOST_INTEGER and given != _MAGIC:
                raise pickle.UnpicklingError("holds an integer of more than 64 bits, as no weights do")
            _leave_and_come(stack, code)


def _leave_and_come(stack: list[_Size | None], code: pickletools.OpcodeInfo) -> None:
    """What an instruction takes from the stack and puts there, when that is no tuple."""
    if pickletools.markobject in code.stack_before:
        _until_mark(stack)
        _last(stack, code.stack_before.index(pickletools.markobject))
    else:
        _last(stack, len(code.stack_before))
    stack.extend(None if each is pickletools.markobject else _PLAIN for each in code.stack_after)


def _last(stack: list[_Size | None], count: int) -> list[_Size]:
    if len(stack) < count:
        raise pickle.UnpicklingError("takes more from its stack than there is")
    taken = stack[len(stack) - count :]
    del stack[len(stack) - count :]
    return [each or _PLAIN for each in taken]


def _until_mark(stack: list[_Size | None]) -> list[_Size]:
    taken: list[_Size] = []
    while (each := stack.pop()) is not None:
        taken.append(each)
    return taken


def _tuple_of(items: list[_Size]) -> _Size:
    levels, size = 1 + max((each[0] for each in items), default=0), 1 + sum(each[1] for each in items)
    if levels > _MOST_LEVELS or size > _MOST_ITEMS:
        raise pickle.UnpicklingError(f"holds tuples of {levels} levels and {size} items, as no weights do")
    return levels, size
