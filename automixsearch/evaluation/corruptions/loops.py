"""What goes from pixel to pixel, each after the one before, as compiled code."""

from __future__ import annotations

import numpy as np

from automixsearch.native import compiled_late

SLANT, KNIGHT = 91750 / 65536, 143976 / 65536
"""Steps to a diagonal neighbour and to one two away: 1.4 and 2.1969, rounded as OpenCV does."""


@compiled_late("void(uint8[:, :, :], int64[:, :], int64)")
def moved(image: np.ndarray, offsets: np.ndarray, far: int) -> None:
    """Give every pixel, from the last on, the value of one nearby, in place; offsets: of columns and rows."""
    height, width, channels = image.shape
    step = 0
    while step < len(offsets):
        for row in range(height - far, far, -1):
            for column in range(width - far, far, -1):
                for channel in range(channels):
                    image[row, column, channel] = image[row + offsets[step, 1], column + offsets[step, 0], channel]
                step += 1


@compiled_late("boolean[:, :](uint8[:, :], int64, int64)")
def edges(layer: np.ndarray, low: int, high: int) -> np.ndarray:
    """Edges as Canny finds them, with Sobel gradients of 3x3 pixels whose size is |dx| + |dy|."""
    height, width = layer.shape
    dx, dy = np.zeros((height, width), np.int64), np.zeros((height, width), np.int64)
    size = np.zeros((height + 2, width + 2), np.int64)
    for row in range(height):
        up, down = max(row - 1, 0), min(row + 1, height - 1)
        for column in range(width):
            left, right = max(column - 1, 0), min(column + 1, width - 1)
            a, b, c = np.int64(layer[up, left]), np.int64(layer[up, column]), np.int64(layer[up, right])
            d, e = np.int64(layer[row, left]), np.int64(layer[row, right])
            f, g, h = np.int64(layer[down, left]), np.int64(layer[down, column]), np.int64(layer[down, right])
            dx[row, column] = (c + 2 * e + h) - (a + 2 * d + f)
            dy[row, column] = (f + 2 * g + h) - (a + 2 * b + c)
            size[row + 1, column + 1] = abs(dx[row, column]) + abs(dy[row, column])
    # 1: the largest across its direction, 2: of an edge.
    state = np.zeros((height, width), np.uint8)
    waiting = np.empty((height * width, 2), np.int64)
    count = 0
    for row in range(height):
        for column in range(width):
            here = size[row + 1, column + 1]
            if here <= low:
                continue
            across, along = abs(dx[row, column]), abs(dy[row, column]) << 15
            shallow = across * 13573  # tan(22.5 degrees) * 2^15
            if along < shallow:
                top = here > size[row + 1, column] and here >= size[row + 1, column + 2]
            elif along > shallow + (across << 16):
                top = here > size[row, column + 1] and here >= size[row + 2, column + 1]
            else:
                lean = -1 if (dx[row, column] ^ dy[row, column]) < 0 else 1
                top = here > size[row, column + 1 - lean] and here > size[row + 2, column + 1 + lean]
            if top:
                state[row, column] = 1
                if here > high:
                    state[row, column] = 2
                    waiting[count] = row, column
                    count += 1
    while count:
        count -= 1
        row, column = waiting[count]
        for near in range(max(row - 1, 0), min(row + 2, height)):
            for by in range(max(column - 1, 0), min(column + 2, width)):
                if state[near, by] == 1:
                    state[near, by] = 2
                    waiting[count] = near, by
                    count += 1
    return state == 2


@compiled_late("float64[:, :](boolean[:, :])")
def distance(marked: np.ndarray) -> np.ndarray:
    """How far each pixel is from the nearest marked one, by steps of 1, 1.4 and 2.1969."""
    height, width = marked.shape
    far = np.full((height + 4, width + 4), 1e9)
    for row in range(height):
        for column in range(width):
            if marked[row, column]:
                far[row + 2, column + 2] = 0
    for turn in range(2):
        for i in range(height):
            row = i + 2 if turn == 0 else height + 1 - i
            back = -1 if turn == 0 else 1
            for j in range(width):
                column = j + 2 if turn == 0 else width + 1 - j
                best = min(far[row, column], far[row, column + back] + 1, far[row + back, column] + 1)
                best = min(best, far[row + back, column - 1] + SLANT, far[row + back, column + 1] + SLANT)
                best = min(best, far[row + 2 * back, column - 1] + KNIGHT, far[row + 2 * back, column + 1] + KNIGHT)
                best = min(best, far[row + back, column - 2] + KNIGHT, far[row + back, column + 2] + KNIGHT)
                far[row, column] = best
    return far[2:-2, 2:-2].copy()
