"""Draws where the time of a run went: as text for a terminal, and as an SVG picture."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from tests.bench.spans import Measured, Span

WIDTH = 60
"""Columns of a text picture."""

HEARD_LATE = 0.3
"""Seconds by which the end of a step may be told late; steps that overlap by more ran beside each other."""

_SCALE_WIDTH, _LEFT, _RIGHT, _TOP = 900, 110, 70, 56
_BAR, _THIN, _GAP = 26, 14, 26
_COLOURS = ("#4e79a7", "#b8620c", "#3f8f3a", "#c4434a", "#3b8a84", "#94750d", "#8d5f85", "#b5566d", "#7d5f4c")
_STYLE = """\
text{font:12px system-ui,sans-serif;fill:#222}.inside{fill:#fff;font-size:11px}.soft{fill:#777}
.axis{stroke:#ddd}.name{font-weight:600;font-size:14px}.title{font-size:16px;font-weight:600}
@media(prefers-color-scheme:dark){svg{background:#17181b}text{fill:#eee}.soft{fill:#999}.axis{stroke:#333}}"""


def as_text(name: str, run: Measured, longest: float) -> Iterator[str]:
    """Give the lines of a run's picture; `longest` seconds are as wide as there is room."""
    scale = WIDTH / longest if longest else 0.0
    yield f"{name}: {run.seconds:.1f} s"
    for span in _nested(run.spans):
        if span.seconds < 0.05:
            continue
        start = min(WIDTH - 1, round(span.start * scale))
        length = max(1, min(WIDTH - start, round(span.seconds * scale)))
        bar = " " * start + ("-" if span.level else "#") * length
        title = ("  " * span.level + span.title)[:34]
        yield f"  {title:<34} |{bar:<{WIDTH}}| {span.seconds:6.1f}"


def as_svg(runs: Mapping[str, Measured], remark: str) -> str:
    """Give a picture of one run for each variant, one below the other on the same scale of time."""
    longest = max(run.seconds for run in runs.values())
    scale = _SCALE_WIDTH / longest
    bodies, y = [], float(_TOP)
    for name, run in runs.items():
        lanes = _lanes([span for span in run.spans if span.level])
        bodies.append(_variant(name, run, lanes, y, scale))
        y += _BAR + len(lanes) * (_THIN + 2) + _GAP
    width = _LEFT + _SCALE_WIDTH + _RIGHT
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y + 20:.0f}" width="{width}">',
            f"<style>{_STYLE}</style>",
            '<text class="title" x="10" y="22">Where the time goes: the run in the middle of each variant</text>',
            f'<text class="soft" x="10" y="40">{escape(remark)}</text>',
            *_axis(longest, scale, y),
            *bodies,
            "</svg>\n",
        ]
    )


def _variant(name: str, run: Measured, lanes: list[list[Span]], y: float, scale: float) -> str:
    whole = [span for span in run.spans if not span.level]
    shapes = [
        f'<text class="name" x="10" y="{y + 18:.0f}">{escape(name)}</text>',
        f'<text x="{_LEFT + run.seconds * scale + 8:.1f}" y="{y + 18:.0f}">{run.seconds:.1f} s</text>',
        *(_bar(span, number, y, _BAR, scale) for number, span in enumerate(whole)),
    ]
    for number, lane in enumerate(lanes):
        top = y + _BAR + 2 + number * (_THIN + 2)
        shapes += [_bar(span, colour + 4, top, _THIN, scale) for colour, span in enumerate(lane)]
    return "\n".join(shapes)


def _bar(span: Span, number: int, y: float, height: int, scale: float) -> str:
    x, width = _LEFT + span.start * scale, max(0.8, span.seconds * scale)
    title = f"<title>{escape(span.name)}: {span.seconds:.2f} s, from {span.start:.2f} s</title>"
    rect = f'<rect x="{x:.1f}" y="{y:.0f}" width="{width:.1f}" height="{height}" rx="2" fill="{_COLOURS[number % 9]}"/>'
    room = int((width - 6) / 6)  # characters of 11 px are about so wide
    if room < 4:
        return f"<g>{title}{rect}</g>"
    label = span.title if len(span.title) <= room else span.title[: room - 1] + "…"
    text = f'<text class="inside" x="{x + 4:.1f}" y="{y + height / 2 + 4:.0f}">{escape(label)}</text>'
    return f"<g>{title}{rect}{text}</g>"


def _nested(spans: Sequence[Span]) -> Iterator[Span]:
    """Give each stretch, and after it its parts; last the parts of none."""
    wholes = {span.name: span for span in spans if not span.level}
    for name, whole in wholes.items():
        yield whole
        yield from (span for span in spans if span.level and span.name.rpartition("/")[0] == name)
    yield from (span for span in spans if span.level and span.name.rpartition("/")[0] not in wholes)


def _lanes(spans: list[Span]) -> list[list[Span]]:
    """Put parts that overlap below each other."""
    lanes: list[list[Span]] = []
    for span in sorted(spans, key=lambda one: one.start):
        for lane in lanes:
            if lane[-1].end <= span.start + HEARD_LATE:
                lane.append(span)
                break
        else:
            lanes.append([span])
    return lanes


def _axis(longest: float, scale: float, bottom: float) -> Iterator[str]:
    step = next((step for step in (1, 2, 5, 10, 20, 30, 60) if longest / step <= 12), 120)
    for second in range(0, int(longest) + 1, step):
        x = _LEFT + second * scale
        yield f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 8}" y2="{bottom - 8:.0f}"/>'
        yield f'<text class="soft" x="{x:.1f}" y="{bottom + 8:.0f}" text-anchor="middle">{second} s</text>'
