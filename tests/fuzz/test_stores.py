"""Frames and packed stores made wrong: a changed byte in a store is refused, and no header is believed unseen."""

import io
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from saccade.datasets.frames import decode_frame, read_frames
from saccade.datasets.packed import PackedStore, Settings, open_store, sum_line
from saccade.datasets.packed_plan import plan_pack
from saccade.datasets.packed_write import pack
from saccade.errors import DataError

from .mutations import Mutation, Refusal, fuzzed, mutate, mutations, read, refused, snapshot

Images = dict[str, npt.NDArray[np.uint8]]
KINDS = ["jpeg", "decoded"]


def picture(height: int = 24, width: int = 32, seed: int = 0) -> npt.NDArray[np.uint8]:
    small = np.random.default_rng(seed).integers(0, 255, (height // 4, width // 4, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (width, height)), np.uint8)


def jpeg(image: npt.NDArray[np.uint8], *options: int) -> bytes:
    return bytes(cv2.imencode(".jpg", image, options)[1].tobytes())


JPEGS = (jpeg(picture()), jpeg(picture(seed=1), cv2.IMWRITE_JPEG_PROGRESSIVE, 1), jpeg(picture()[:, :, 0]))


@fuzzed(120, 1200)
@given(
    st.sampled_from(JPEGS), mutations((b"\xff\xd9", b"\xff\xd8", b"\xff\xc0", b"\xff\xda", b"\xff\xc4", b"\xff" * 9))
)
def test_frames(content: bytes, changes: list[Mutation]) -> None:
    wrong = mutate(content, changes)
    pixels = read("frame", lambda: decode_frame(wrong, "x.jpg"), DataError)
    if isinstance(pixels, Refusal):
        assert pixels.message.startswith("x.jpg: this frame ")
        return
    seen = cv2.imdecode(np.frombuffer(wrong, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    assert pixels.shape == seen.shape
    assert pixels.dtype == np.uint8
    into = np.empty_like(pixels)
    np.testing.assert_array_equal(decode_frame(wrong, "x.jpg", into), pixels)
    # A frame of another size than the video's others is refused, not stretched.
    refused("frame", lambda: decode_frame(wrong, "x.jpg", np.empty((9, 9, 3), np.uint8)), "9 x 9")


def of_size(content: bytes, height: int, width: int) -> bytes:
    """The JPEG, whose header claims another size."""
    at = content.index(b"\xff\xc0") + 5
    return content[:at] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + content[at + 4 :]


def test_images_that_claim_to_be_huge(tmp_path: Path) -> None:
    path = tmp_path / "1.jpg"
    for height, width in ((60000, 60000), (65500, 65500), (65500, 2000)):
        path.write_bytes(of_size(JPEGS[0], height, width))
        said = refused("image bomb", lambda: read_frames([path]), f"claims {width} x {height} px")
        assert said.startswith(str(path))
    for height, width in ((0, 32), (65535, 65535)):
        path.write_bytes(of_size(JPEGS[0], height, width))
        refused("image bomb", lambda: read_frames([path]), "cannot be decoded")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of 6 and 5 frames."""
    folder = tmp_path_factory.mktemp("data") / "two"
    for video, count in (("a", 6), ("b c", 5)):
        (folder / "jpegs_256" / video).mkdir(parents=True)
        for number in range(count):
            (folder / "jpegs_256" / video / f"{number:03d}.jpg").write_bytes(jpeg(picture(seed=10 * count + number)))
    return folder


class Stores(dict[str, tuple[dict[str, bytes], Images]]):
    """Of each kind: its files, and what frames they hold."""

    def __repr__(self) -> str:  # hypothesis, which shows the arguments of what failed, fails itself on one so long
        return "all stores"


@pytest.fixture(scope="module")
def stores(dataset: Path) -> Stores:
    found = Stores()
    for kind in KINDS:
        pack(plan_pack(dataset, Settings(kind)), workers=1)  # type: ignore[arg-type]
        found[kind] = snapshot(dataset / f"packed_{kind}"), images(open_store(dataset / f"packed_{kind}"))
    return found


def images(store: PackedStore) -> Images:
    return {name: store.read(name, range(store.frames_of(name).count)) for name in store.names}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("kind", KINDS)
@fuzzed(80, 700)
@given(st.sampled_from(["frames.bin", "frames.bin", "index.npz", "index.npz.sha256"]), mutations())
def test_stores(tmp_path: Path, stores: Any, kind: str, which: str, changes: list[Mutation]) -> None:
    files, whole = stores[kind]
    wrong = mutate(files[which], changes)
    folder = write(tmp_path / f"packed_{kind}", {**files, which: wrong})
    found = read("packed store", lambda: images(open_store(folder)), DataError)
    if isinstance(found, Refusal):
        assert found.message.startswith(str(folder))
    else:
        assert wrong == files[which]
        np.testing.assert_equal(found, whole)


INDEX_CHANGES: dict[str, Callable[[npt.NDArray[Any], int], npt.NDArray[Any]]] = {
    "longer": lambda values, at: np.concatenate([values, values[-1:]]),
    "shorter": lambda values, at: values[:-1],
    "empty": lambda values, at: values[:0],
    "doubled": lambda values, at: values * 2,
    "one more": lambda values, at: values + np.array(1, values.dtype),
    "less": lambda values, at: values - np.array(1, values.dtype),
    "largest": lambda values, at: np.where(
        np.arange(values.size).reshape(values.shape) == at, _largest(values), values
    ),
    "zero": lambda values, at: np.where(np.arange(values.size).reshape(values.shape) == at, 0, values).astype(
        values.dtype
    ),
    "reversed": lambda values, at: values[::-1].copy(),
    "as float": lambda values, at: values.astype(np.float64),
    "as column": lambda values, at: values.reshape(-1, 1),
    "as nothing": lambda values, at: values.reshape(-1)[0],
}


def _largest(values: npt.NDArray[Any]) -> Any:
    return np.array(np.iinfo(values.dtype).max, values.dtype)


def index_bytes(arrays: dict[str, Any]) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def with_index(files: dict[str, bytes], index: bytes) -> dict[str, bytes]:
    """A store whose index is another, with the checksum that belongs to it."""
    return {**files, "index.npz": index, "index.npz.sha256": sum_line(index)}


@pytest.mark.parametrize("kind", KINDS)
@fuzzed(40, 300)
@given(
    st.integers(0, 99),
    mutations((b"null", b'"decoded"', b'"a"', b"-1")),
    st.sampled_from(sorted(INDEX_CHANGES)),
    st.integers(0, 5),
    st.integers(0, 9),
)
@example(which=1, changes=[], change="zero", at=1, gone=1)  # `first`: the first video's frames are the second's
def test_an_index_that_lies_with_the_right_checksum(
    tmp_path: Path, stores: Any, kind: str, which: int, changes: list[Mutation], change: str, at: int, gone: int
) -> None:
    """Whoever writes a checksum too can say what he likes, but not have others read where nothing is."""
    files, whole = stores[kind]
    arrays = dict(np.load(io.BytesIO(files["index.npz"])))
    name = sorted(arrays)[which % len(arrays)]
    if name in ("names", "settings"):
        arrays[name] = np.frombuffer(mutate(arrays[name].tobytes(), changes), np.uint8)
    else:
        arrays[name] = INDEX_CHANGES[change](arrays[name], at)
    if gone == 0:
        del arrays[name]
    folder = write(tmp_path / f"packed_{kind}", with_index(files, index_bytes(arrays)))
    found = read("lying index", lambda: images(open_store(folder)), DataError)
    if not isinstance(found, Refusal):
        # Frames under another name, perhaps, or more or fewer sizes of files: but these frames.
        assert [len(each) for each in found.values()] == [6, 5]
        for each, expected in zip(found.values(), whole.values(), strict=True):
            np.testing.assert_array_equal(each, expected)


def npy_header(shape: str, kind: str = "<u8") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00" + (len(text) + 1).to_bytes(2, "little") + text.encode() + b"\n"


@pytest.mark.parametrize(
    "array",
    [
        npy_header("(1000000000000,)"),
        npy_header("(9223372036854775807, 9223372036854775807)"),
        npy_header("(-1,)"),
        npy_header("(True,)"),
        npy_header("(1,)", "|O") + b"cos\nsystem\n(S'touch trace'\ntR.",
        npy_header("(" + "1," * 30000 + ")"),
        b"\x93NUMPY\x03\x00\xff\xff\xff\xff",
        b"",
    ],
    ids=["a terabyte", "more than there are", "negative", "true", "pickle", "dimensions", "header", "nothing"],
)
def test_hostile_arrays(tmp_path: Path, stores: Any, array: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files, _ = stores["jpeg"]
    index = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(files["index.npz"])) as archive, zipfile.ZipFile(index, "w") as wrong:
        for name in archive.namelist():
            wrong.writestr(name, array if name == "sums.npy" else archive.read(name))
    folder = write(tmp_path / "packed_jpeg", with_index(files, index.getvalue()))
    refused("hostile index", lambda: open_store(folder), "is not the index of a packed store")
    assert not (tmp_path / "trace").exists()


def test_an_index_that_unpacks_to_gigabytes(tmp_path: Path, stores: Any) -> None:
    index = io.BytesIO()
    with zipfile.ZipFile(index, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("sums.npy", npy_header("(12500000,)") + b"\0" * 100_000_000)
    folder = write(tmp_path / "packed_jpeg", with_index(stores["jpeg"][0], index.getvalue()))
    refused("hostile index", lambda: open_store(folder), "unpacks to more than it is")


@fuzzed(25, 350)
@given(changes=mutations((b'"lengths": [], ', b'"v9"', b"[1]", b"-1")))
def test_records_of_an_interrupted_pack(dataset: Path, stores: Any, tmp_path: Path, changes: list[Mutation]) -> None:
    """What became of an earlier call's notes, the store is the one that would have been written at once."""
    shutil.rmtree(tmp_path / "two", ignore_errors=True)
    shutil.copytree(dataset / "jpegs_256", tmp_path / "two" / "jpegs_256")
    half = tmp_path / "two" / "packed_jpeg.partial"
    files, _ = stores["jpeg"]
    half.mkdir()
    (half / "frames.bin").write_bytes(files["frames.bin"])
    (half / "videos.jsonl").write_bytes(mutate(RECORDS[0], changes))
    report = read(
        "records of a pack", lambda: pack(plan_pack(tmp_path / "two", Settings("jpeg")), workers=1), DataError
    )
    assert not isinstance(report, Refusal)
    assert snapshot(tmp_path / "two" / "packed_jpeg") == files


RECORDS = [b""]


@pytest.fixture(scope="module", autouse=True)
def records(dataset: Path, stores: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The notes that a pack of both videos has taken when it ends."""
    folder = tmp_path_factory.mktemp("noted") / "two"
    shutil.copytree(dataset / "jpegs_256", folder / "jpegs_256")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("saccade.datasets.packed_write._write_index", _stop)
        with pytest.raises(KeyboardInterrupt):
            pack(plan_pack(folder, Settings("jpeg")), workers=1)
    RECORDS[0] = (folder / "packed_jpeg.partial" / "videos.jsonl").read_bytes()
    assert RECORDS[0].count(b"\n") == 3


def _stop(*_: object) -> None:
    raise KeyboardInterrupt
