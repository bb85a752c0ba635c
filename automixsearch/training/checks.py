"""What can be refused before a run starts; needs no torch."""

from __future__ import annotations

from automixsearch.errors import DataError, ResourceError


def check_batches(batch_size: int, images: int, workers: int) -> None:
    """Refuse a batch that the training split cannot fill or the workers cannot share equally.

    Raises:
        DataError: fewer training images than one batch.
        ResourceError: the batch is no multiple of the number of workers.
    """
    if batch_size > images:
        raise DataError(f"batch_size = {batch_size} exceeds the {images} training images; lower batch_size")
    if batch_size % workers:
        raise ResourceError(
            f"batch_size = {batch_size} cannot be shared equally by {workers} workers; use a multiple of {workers}"
        )
