"""The boxes around what a map shows, and how well they fit."""

from __future__ import annotations

import numpy as np

from automixsearch.native import compiled_late


@compiled_late("int64[:, :](boolean[:, :])")
def contours(shown: np.ndarray) -> np.ndarray:
    """The bounding boxes of all borders of what is shown: outer ones, of pixels that touch at sides or corners, and
    those around holes, of pixels that touch at sides.

    Returns:
        int64 [n, 5]: left, top, right, bottom, the last two one beyond the border, and twice the area that the centres
        of the pixels of an outer border enclose; of holes -1.
    """
    height, width = shown.shape
    # 0: not looked at; a frame of background leads around everything.
    seen = np.zeros((height + 2, width + 2), np.uint8)
    inside = np.zeros((height + 2, width + 2), np.uint8)
    inside[1:-1, 1:-1] = shown
    rows_by, columns_by = np.array([0, -1, -1, -1, 0, 1, 1, 1]), np.array([1, 1, 0, -1, -1, -1, 0, 1])
    wide = width + 2
    stack = np.empty((height + 2) * wide, np.int64)
    found = np.empty(((height + 2) * wide, 5), np.int64)
    number = 0
    for row in range(height + 2):
        for column in range(width + 2):
            if seen[row, column]:
                continue
            kind = inside[row, column]
            top, bottom, left, right = row, row, column, column
            stack[0] = row * wide + column
            seen[row, column] = 1
            count = 1
            while count:
                count -= 1
                y, x = stack[count] // wide, stack[count] % wide
                top, bottom = min(top, y), max(bottom, y)
                left, right = min(left, x), max(right, x)
                for way in range(0, 8, 1 if kind else 2):
                    near, by = y + rows_by[way], x + columns_by[way]
                    if not (0 <= near < height + 2 and 0 <= by < width + 2):
                        continue
                    if not seen[near, by] and inside[near, by] == kind:
                        seen[near, by] = 1
                        stack[count] = near * wide + by
                        count += 1
            if not kind:
                if row or column:  # what begins in the corner is around everything
                    found[number, 0], found[number, 1] = left - 2, top - 2
                    found[number, 2], found[number, 3] = right + 1, bottom + 1
                    found[number, 4] = -1
                    number += 1
                continue
            area = 0
            # Follow the outer border from its first pixel, whose neighbours above and to the left are background.
            first = -1
            for turn in range(8):
                way = (4 - turn) % 8  # clockwise from the left
                if inside[row + rows_by[way], column + columns_by[way]]:
                    first = way
                    break
            if first >= 0:
                y, x, back = row, column, first
                while True:
                    way = back
                    for turn in range(1, 9):  # counterclockwise from where it came
                        way = (back + turn) % 8
                        if inside[y + rows_by[way], x + columns_by[way]]:
                            break
                    near, by = y + rows_by[way], x + columns_by[way]
                    area += x * near - by * y
                    if near == row and by == column and y == row + rows_by[first] and x == column + columns_by[first]:
                        break
                    y, x, back = near, by, (way + 4) % 8
            found[number, 0], found[number, 1] = left - 1, top - 1
            found[number, 2], found[number, 3] = right, bottom
            found[number, 4] = abs(area)
            number += 1
    return found[:number].copy()


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes int64 [n, 4] and [m, 4] -> [n, m]; both edges belong to a box.

    Examples:
        >>> overlap(np.array([[0, 0, 9, 9]]), np.array([[0, 0, 9, 4], [20, 20, 29, 29]])).tolist()
        [[0.5, 0.0]]
    """
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (high - low + 1).clip(0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2] + 1).prod(1) for boxes in (a, b)]
    return shared / (areas[0][:, None] + areas[1] - shared)
