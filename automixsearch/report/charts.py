"""Figures as inline SVG: small panels whose colours follow the page, light or dark.

Every panel is about as wide as a phone, so that its letters are read there at their own size; wide screens show
several side by side. Colours are CSS variables (`--c0` ...), identity is never colour alone: lines also differ in
their dashes, and every panel is named in words. What a pointer shows stands in `data-tip`.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from automixsearch.mixers import MIXERS
from automixsearch.show import brief
from automixsearch.visible import visible

HUES = 7
DASHES = ("", "6 3", "2 3")
BASELINES = {"vanilla": "", "trivialmix": "4 3"}
"""What every method is compared with is grey."""

WIDTH, HEIGHT = 320, 206
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 24, 36


@dataclass(frozen=True)
class Ink:
    """The colour (a CSS variable) and the dashes of one method, the same in all figures and all reports."""

    colour: str
    dash: str = ""


def inks(methods: Iterable[str]) -> dict[str, Ink]:
    """An ink for each method; known methods always get the same, others (several joined by +) what is left."""
    known = [name for name in MIXERS if name not in BASELINES]
    found = {name: Ink("var(--base)", dash) for name, dash in BASELINES.items()}
    names = [*known, *sorted({str(name) for name in methods} - set(known) - set(BASELINES))]
    for position, name in enumerate(names):
        found[name] = Ink(f"var(--c{position % HUES})", DASHES[position // HUES % len(DASHES)])
    return found


def in_order(methods: Iterable[str]) -> list[str]:
    """Methods without repetition, in the order that all figures have."""
    given = set(methods)
    return [name for name in MIXERS if name in given] + sorted(given - set(MIXERS))


@dataclass(frozen=True)
class Axis:
    """One axis: `label` with its unit, whether it is logarithmic, the `names` of its places if it has no numbers.

    whole: only whole numbers are marked.
    """

    label: str
    log: bool = False
    names: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    whole: bool = False


@dataclass(frozen=True)
class Line:
    """Points (x, y) joined by a line, with intervals `low` to `high` as a band or as bars; `ghost`: faint, behind."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    ink: Ink = Ink("var(--c0)")
    band: bool = True
    points: bool = True
    ghost: bool = False
    joined: bool = True
    tips: Sequence[str] = ()


@dataclass(frozen=True)
class Scale:
    """Where a value lies on the drawing."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        if self.log:
            value, low, high = math.log(value), math.log(self.low), math.log(self.high)
        else:
            low, high = self.low, self.high
        return self.start + (self.end - self.start) * (value - low) / (high - low)


@dataclass
class Panel:
    """Parts of one SVG drawing, in the order of painting."""

    label: str
    width: float = WIDTH
    height: float = HEIGHT
    parts: list[str] = field(default_factory=list)

    def add(self, tag: str, text: str | None = None, tip: str = "", **attributes: Any) -> None:
        """Append an element; `_` in an attribute's name stands for `-`, `cls` for class."""
        names = {"cls": "class"}
        given = "".join(
            f' {names.get(name, name.replace("_", "-"))}="{escape(_short(value))}"'
            for name, value in attributes.items()
            if value not in (None, "")
        )
        if tip:
            given += f' data-tip="{escape(tip)}"'
        self.parts.append(f"<{tag}{given}/>" if text is None else f"<{tag}{given}>{escape(text)}</{tag}>")

    def __str__(self) -> str:
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(self.label)}" '
            f'viewBox="0 0 {_short(self.width)} {_short(self.height)}" class="panel">'
        )
        return head + "".join(self.parts) + "</svg>"


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def finite(values: Iterable[float | None]) -> list[float]:
    """The numbers among the values."""
    return [float(value) for value in values if value is not None and math.isfinite(value)]


def ticks(low: float, high: float, most: int = 5, log: bool = False) -> list[float]:
    """Round numbers between two limits, about as many as `most`."""
    if log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        for steps in ((1, 2, 5), (1, 3), (1,)):
            found = [step * 10.0**power for power in range(first, last + 1) for step in steps]
            found = [value for value in found if low * 0.999 <= value <= high * 1.001]
            if len(found) <= most + 1:
                return found or [low, high]
        return found[:: math.ceil(len(found) / most)]
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(size * power for size in (1, 2, 2.5, 5, 10) if size * power >= raw * 0.999)
    return [
        round(step * count, 10) for count in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]


def limits(values: Iterable[float | None], log: bool = False, pad: float = 0.06) -> tuple[float, float]:
    """Limits that hold all values with some air around them."""
    found = [value for value in finite(values) if not log or value > 0]
    if not found:
        return (0.1, 1.0) if log else (0.0, 1.0)
    low, high = min(found), max(found)
    if log:
        air = max((high / low) ** pad, 1.05)
        return low / air, high * air
    air = (high - low) * pad or abs(high) * 0.02 or 1.0
    return low - air, high + air


def focus(points: Iterable[float], ends: Iterable[float], log: bool = False) -> tuple[float, float]:
    """Limits that hold all points, and the ends of intervals unless they are far beyond them."""
    low, high = limits(points, log, 0.08)
    span = high - low
    held = [value for value in finite(ends) if low - span <= value <= high + span]
    return min([low, *held]), max([high, *held])


def number(value: float) -> str:
    """A tick in few letters."""
    if value == 0:
        return "0"
    if abs(value) >= 1e5 or abs(value) < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.6g}"


def _frame(panel: Panel, x: Axis, y: Axis, sx: Scale, sy: Scale) -> None:
    bottom = panel.height - BOTTOM
    for value in ticks(sy.low, sy.high, 5, sy.log):
        place = sy(value)
        panel.add("line", x1=LEFT, x2=panel.width - RIGHT, y1=place, y2=place, cls="grid")
        panel.add("text", number(value), x=LEFT - 6, y=place + 3.5, text_anchor="end", cls="tick")
    if x.names:
        room = (panel.width - LEFT - RIGHT) / max(1, len(x.names))
        every = max(1, math.ceil(max(map(len, x.names)) * 6.2 / room))
        places = [(place, name) for place, name in enumerate(x.names) if place % every == 0]
    else:
        marked = ticks(sx.low, sx.high, 6, sx.log)
        places = [(value, number(value)) for value in marked if not x.whole or value == round(value)]
    for value, name in places:
        panel.add("line", x1=sx(value), x2=sx(value), y1=bottom, y2=bottom + 4, cls="axis")
        panel.add("text", name, x=sx(value), y=bottom + 15, text_anchor="middle", cls="tick")
    panel.add("line", x1=LEFT, x2=panel.width - RIGHT, y1=bottom, y2=bottom, cls="axis")
    panel.add("text", x.label, x=(LEFT + panel.width - RIGHT) / 2, y=panel.height - 6, text_anchor="middle", cls="name")
    panel.add("text", y.label, x=4, y=12, cls="name")


def lines(
    title: str,
    x: Axis,
    y: Axis,
    content: Sequence[Line],
    reference: tuple[float, str] | None = None,
    height: float = HEIGHT,
) -> str:
    """A panel of lines with bands or bars; `reference` is a value of y with its name, drawn as a dashed line."""
    panel = Panel(title, height=height)
    every = [line for line in content if len(line.y)]
    xs = [value for line in every for value in line.x]
    ys = [value for line in every for values in (line.y, line.low, line.high) for value in values]
    if reference:
        ys.append(reference[0])
    if x.names:
        x_limits = (-0.5, len(x.names) - 0.5)
    else:
        x_limits = limits(xs, x.log, 0.04)
    y_limits = limits(ys, y.log)
    y_limits = (y_limits[0] if y.low is None else y.low, y_limits[1] if y.high is None else y.high)
    sx = Scale(*x_limits, LEFT, panel.width - RIGHT, x.log)
    sy = Scale(*y_limits, panel.height - BOTTOM, TOP, y.log)
    _frame(panel, x, y, sx, sy)
    if reference and math.isfinite(reference[0]):
        place = sy(reference[0])
        panel.add("line", x1=LEFT, x2=panel.width - RIGHT, y1=place, y2=place, cls="reference")
        panel.add("text", reference[1], x=panel.width - RIGHT, y=place - 4, text_anchor="end", cls="tick")
    for line in sorted(every, key=lambda line: not line.ghost):
        _line(panel, line, sx, sy)
    return str(panel)


def _line(panel: Panel, line: Line, sx: Scale, sy: Scale) -> None:
    rows = [
        (sx(px), sy(py), position)
        for position, (px, py) in enumerate(zip(line.x, line.y, strict=True))
        if math.isfinite(py) and math.isfinite(px)
    ]
    if not rows:
        return
    style = f"stroke:{line.ink.colour}"
    path = "M" + "L".join(f"{px:.1f},{py:.1f}" for px, py, _ in rows)
    if line.ghost:
        panel.add("path", d=path, cls="ghost")
        return

    def inside(value: float) -> float:  # an interval may be wider than the panel
        return sy(min(max(value, sy.low), sy.high))

    spans = [
        (px, inside(line.low[at]), inside(line.high[at]))
        for px, _, at in rows
        if len(line.low) and math.isfinite(line.low[at]) and math.isfinite(line.high[at])
    ]
    if line.band and len(spans) > 1:
        there = "L".join(f"{px:.1f},{low:.1f}" for px, low, _ in spans)
        back = "L".join(f"{px:.1f},{high:.1f}" for px, _, high in reversed(spans))
        panel.add("path", d=f"M{there}L{back}Z", cls="band", style=f"fill:{line.ink.colour}")
    else:
        for px, low, high in spans:
            caps = "".join(f"M{px - 3:.1f},{end:.1f}h6" for end in (low, high) if sy.end < end < sy.start)
            panel.add("path", d=f"M{px:.1f},{low:.1f}V{high:.1f}{caps}", cls="bar", style=style)
    if line.joined:
        panel.add("path", d=path, cls="line", style=style, stroke_dasharray=line.ink.dash)
    if line.points:
        for px, py, at in rows:
            tip = line.tips[at] if len(line.tips) else f"{line.name}: {brief(line.x[at])} → {brief(line.y[at])}"
            panel.add("circle", cx=px, cy=py, r=3.2, cls="point", style=f"fill:{line.ink.colour}", tip=tip)


@dataclass(frozen=True)
class Bar:
    """A horizontal bar with its interval; `faint`: cannot be told from noise; `mark`: a line across, at a floor."""

    name: str
    value: float
    low: float = math.nan
    high: float = math.nan
    mark: float = math.nan
    ink: Ink = Ink("var(--c0)")
    faint: bool = False
    tip: str = ""


def bars(title: str, x: Axis, content: Sequence[Bar]) -> str:
    """A panel of horizontal bars, one below the other, from zero."""
    row, top = 24, 10
    panel = Panel(title, height=top + row * len(content) + BOTTOM)
    left = min(150.0, 14 + 6.4 * max(len(bar.name) for bar in content))
    values = [0.0, *(v for bar in content for v in (bar.value, bar.low, bar.high, bar.mark))]
    low, high = limits(values)
    low = low if min(finite(values)) < 0 else 0.0
    sx = Scale(low if x.low is None else x.low, high if x.high is None else x.high, left, panel.width - RIGHT)
    _ground(panel, x, sx, left, top)
    for position, bar in enumerate(content):
        middle = top + row * (position + 0.5)
        _name(panel, bar.name, left, middle, int((left - 14) / 6.2))
        if math.isfinite(bar.value):
            ends = sorted((sx(0), sx(bar.value)))
            panel.add(
                "rect",
                x=ends[0],
                width=max(ends[1] - ends[0], 0.8),
                y=middle - 6,
                height=12,
                cls="faint" if bar.faint else "solid",
                style=f"fill:{bar.ink.colour}",
                tip=bar.tip,
            )
        if math.isfinite(bar.low) and math.isfinite(bar.high):
            a, b = sx(bar.low), sx(bar.high)
            panel.add(
                "path", d=f"M{a:.1f},{middle}H{b:.1f}M{a:.1f},{middle - 3}v6M{b:.1f},{middle - 3}v6", cls="whisker"
            )
        if math.isfinite(bar.mark):
            panel.add("path", d=f"M{sx(bar.mark):.1f},{middle - 9}v18", cls="floor")
    return str(panel)


def intervals(title: str, x: Axis, content: Sequence[Bar], margin: float = math.nan, zero: bool = True) -> str:
    """A panel of estimates with their intervals, around `zero` if told so; the margin of equivalence is shaded."""
    row, top = 22, 10
    panel = Panel(title, height=top + row * len(content) + BOTTOM)
    left = min(168.0, 14 + 6.2 * max(len(bar.name) for bar in content))
    values = [*([0.0] if zero else []), *(v for bar in content for v in (bar.value, bar.low, bar.high))]
    sx = Scale(*limits([*values, margin, -margin] if math.isfinite(margin) else values), left, panel.width - RIGHT)
    if math.isfinite(margin):
        a, b = sx(-margin), sx(margin)
        tip = f"equivalent: within ±{brief(margin)}"
        panel.add("rect", x=a, width=b - a, y=top, height=panel.height - BOTTOM - top, cls="margin", tip=tip)
    _ground(panel, x, sx, left, top, zero)
    for position, bar in enumerate(content):
        middle = top + row * (position + 0.5)
        _name(panel, bar.name, left, middle, int((left - 14) / 6.0))
        style = f"stroke:{bar.ink.colour}"
        if math.isfinite(bar.low) and math.isfinite(bar.high):
            a, b = sx(bar.low), sx(bar.high)
            panel.add(
                "path",
                d=f"M{a:.1f},{middle}H{b:.1f}M{a:.1f},{middle - 4}v8M{b:.1f},{middle - 4}v8",
                cls="bar faint" if bar.faint else "bar",
                style=style,
            )
        if math.isfinite(bar.value):
            panel.add(
                "circle",
                cx=sx(bar.value),
                cy=middle,
                r=3.6,
                cls="hollow" if bar.faint else "point",
                style=style if bar.faint else f"fill:{bar.ink.colour}",
                tip=bar.tip,
            )
    return str(panel)


def _ground(panel: Panel, x: Axis, sx: Scale, left: float, top: float, zero: bool = True) -> None:
    """What lies under rows: the grid of values, a line at `zero`, the label of the axis."""
    bottom = panel.height - BOTTOM
    for value in ticks(sx.low, sx.high, 5):
        panel.add("line", x1=sx(value), x2=sx(value), y1=top, y2=bottom, cls="grid")
        panel.add("text", number(value), x=sx(value), y=bottom + 15, text_anchor="middle", cls="tick")
    if zero:
        panel.add("line", x1=sx(0), x2=sx(0), y1=top, y2=bottom, cls="axis")
    panel.add("text", x.label, x=(left + panel.width - RIGHT) / 2, y=panel.height - 6, text_anchor="middle", cls="name")


def _name(panel: Panel, name: str, left: float, y: float, letters: int) -> None:
    """The name of a row, left of it, as many letters as there is room for."""
    shown = name if len(name) <= letters else name[: letters - 1] + "…"
    panel.add("text", shown, x=left - 8, y=y + 4, text_anchor="end", cls="name", tip=name)


def heat(
    title: str,
    x: Axis,
    y: Axis,
    values: Sequence[Sequence[float]],
    unit: str,
    tips: Sequence[Sequence[str]] = (),
    span: tuple[float, float] | None = None,
) -> str:
    """A panel of coloured cells, the first row at the bottom; numbers stand in them where there is room.

    span: the values of the faintest and the strongest colour; None: of the least and the greatest here.

    One hue from the page's ground to full strength: readable without telling colours apart, light and dark.
    """
    rows, columns = len(y.names), len(x.names)
    left = min(90.0, 14 + 6.4 * max(len(name) for name in y.names))
    cell_w = (WIDTH - left - RIGHT) / columns
    cell_h = min(34.0, max(18.0, 170 / rows))
    panel = Panel(title, height=TOP + cell_h * rows + BOTTOM)
    found = finite(value for line in values for value in line)
    low, high = span or ((min(found), max(found)) if found else (0.0, 1.0))
    spread = (high - low) or 1.0
    digits = 1 if spread > 1 else 2
    room = cell_w >= 6.6 * max((len(f"{value:.{digits}f}") for value in found), default=1)
    every = max(1, math.ceil(max(map(len, x.names)) * 6.4 / cell_w))
    for row, line in enumerate(values):
        top = TOP + cell_h * (rows - 1 - row)
        panel.add("text", y.names[row], x=left - 6, y=top + cell_h / 2 + 4, text_anchor="end", cls="tick")
        for column, value in enumerate(line):
            known = value is not None and math.isfinite(value)
            strength = 0.08 + 0.82 * (value - low) / spread if known else 0.0
            tip = tips[row][column] if tips else f"{brief(value)}" if known else "no trial"
            panel.add(
                "rect",
                x=left + cell_w * column,
                y=top,
                width=cell_w - 1,
                height=cell_h - 1,
                cls="cell",
                style=f"fill-opacity:{strength:.3f}" if known else "fill:none;stroke:var(--line)",
                tip=tip,
            )
            if known and room:
                panel.add(
                    "text",
                    f"{value:.{digits}f}",
                    x=left + cell_w * (column + 0.5) - 0.5,
                    y=top + cell_h / 2 + 4,
                    text_anchor="middle",
                    cls="value strong" if strength > 0.52 else "value",
                )
    bottom = TOP + cell_h * rows
    for column, name in enumerate(x.names):
        if column % every == 0:
            middle = left + cell_w * (column + 0.5)
            panel.add("text", name, x=middle, y=bottom + 14, text_anchor="middle", cls="tick")
    panel.add("text", x.label, x=(left + WIDTH - RIGHT) / 2, y=panel.height - 6, text_anchor="middle", cls="name")
    panel.add("text", f"{y.label}  (colour: {unit})", x=4, y=12, cls="name")
    return str(panel)


def interval_mark(value: float, low: float, high: float, span: tuple[float, float], ink: Ink, label: str) -> str:
    """A small interval for a cell of a table, on a scale that the whole column shares."""
    width, height = 116.0, 14.0
    panel = Panel(label, width, height)
    sx = Scale(span[0], span[1] if span[1] > span[0] else span[0] + 1, 4, width - 4)
    panel.add("line", x1=2, x2=width - 2, y1=height / 2, y2=height / 2, cls="grid")
    if math.isfinite(low) and math.isfinite(high):
        panel.add(
            "line", x1=sx(low), x2=sx(high), y1=height / 2, y2=height / 2, cls="bar", style=f"stroke:{ink.colour}"
        )
    if math.isfinite(value):
        panel.add("circle", cx=sx(value), cy=height / 2, r=3.2, cls="point", style=f"fill:{ink.colour}", tip=label)
    return str(panel).replace('class="panel"', 'class="mark"')


def legend(names: Mapping[str, Ink]) -> str:
    """The inks by name, as a line of HTML."""
    items = "".join(
        f'<span class="key"><svg viewBox="0 0 22 8" aria-hidden="true"><line x1="0" x2="22" y1="4" y2="4" class="line" '
        f'style="stroke:{ink.colour}" stroke-dasharray="{ink.dash}"/></svg>{escape(name)}</span>'
        for name, ink in names.items()
    )
    return f'<p class="legend">{items}</p>'


def escape(text: str) -> str:
    """Text as HTML and SVG show it; what is not printed is shown as escapes."""
    return html.escape(visible(text))
