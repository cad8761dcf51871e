import hashlib
import io
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from peermerge.protocol.blob import Beginning, Blob, FileBlob, MemoryBlob, blob_of, sha256, written
from peermerge.protocol.errors import FrameError
from peermerge.protocol.limits import CHUNK_BYTES

DATA = bytes(range(256)) * 5


@pytest.fixture(params=["memory", "file"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BinaryIO]:
    with io.BytesIO() if request.param == "memory" else open(tmp_path / "file", "w+b") as made:
        yield made


def blobs(data: bytes, folder: Path) -> list[Blob]:
    path = folder / "blob"
    path.write_bytes(b"before" + data + b"behind")
    whole = FileBlob(os.open(path, os.O_RDONLY), 6, len(data))
    return [
        blob_of(data),
        MemoryBlob(memoryview(bytearray(data))),
        whole,
        Beginning(MemoryBlob(data + b"behind"), len(data)),
    ]


def test_every_kind_reads_the_same_anywhere_and_nothing_beyond_its_end(tmp_path: Path) -> None:
    for blob in blobs(DATA, tmp_path):
        assert len(blob) == len(DATA)
        for offset, size in ((0, len(DATA)), (7, 100), (len(DATA) - 1, 1), (len(DATA), 0), (0, 0)):
            assert bytes(blob.read(offset, size)) == DATA[offset : offset + size]
        for offset, size in ((0, len(DATA) + 1), (len(DATA), 1), (len(DATA) + 1, 0), (-1, 1), (1 << 40, 1 << 40)):
            with pytest.raises(FrameError, match="TRUNCATED"):
                blob.read(offset, size)


def test_a_file_that_shrinks_is_found_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    blob = FileBlob(os.open(tmp_path / "file", os.O_RDONLY), 0, len(DATA))
    os.truncate(tmp_path / "file", 100)
    assert bytes(blob.read(0, 100)) == DATA[:100]
    with pytest.raises(FrameError, match="1 bytes too early"):
        blob.read(0, 101)


def test_what_was_written_stays_readable_when_the_file_grows_or_is_closed(file: BinaryIO) -> None:
    file.write(DATA)
    before = written(file)
    file.seek(0, os.SEEK_END)
    file.write(b"more")
    after = written(file)
    file.close()
    assert bytes(before.read(0, len(before))) == DATA
    assert bytes(after.read(0, len(after))) == DATA + b"more"


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_a_digest_is_that_of_all_bytes(size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert sha256(MemoryBlob(data)) == hashlib.sha256(data).digest()
