"""Files that `torch.save` writes: zip archives, whose records carry checksums that `torch.load` does not compare."""

from __future__ import annotations

import zipfile
from typing import BinaryIO

CHUNK = 1 << 20


def check_records(file: BinaryIO) -> None:
    """Compare every record of an archive with its CRC-32; the file is rewound.

    Raises:
        ValueError: a record, or the list of them, was changed since it was written, or this is no such archive.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            for record in archive.infolist():
                if record.compress_type != zipfile.ZIP_STORED:  # torch does not; it could unfold to anything
                    raise ValueError(f"record {record.filename!r} is compressed")
                with archive.open(record) as content:
                    while content.read(CHUNK):
                        pass
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, RuntimeError) as error:
        raise ValueError(f"its checksums do not fit: {error}") from None
    file.seek(0)
