"""Bars as SVG without any library: small, escaped, with a title and a description for who cannot see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from html import escape

_WIDTH, _ROW, _LEFT, _RIGHT, _TOP = 720, 24, 200, 110, 40
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:currentColor}.t{font-size:14px;font-weight:600}.b{fill:#2f6fab}"
    ".p{fill:#9dbddd}.n{fill:#b4552d}.v{text-anchor:end}"
)


@dataclass(frozen=True, slots=True)
class Bar:
    """`value` as a whole, of which `light` is drawn lighter (not final yet); `shown` is written beside it."""

    label: str
    value: Decimal
    shown: str
    light: Decimal = Decimal(0)


def bars_svg(title: str, bars: Sequence[Bar], *, note: str = "") -> str:
    """Horizontal bars from one zero line, negative ones in another colour; at most 40, the rest is counted."""
    drawn = list(bars[:40])
    height = _TOP + _ROW * max(1, len(drawn)) + 28
    top = max((abs(b.value) for b in drawn), default=Decimal(0)) or Decimal(1)
    space = _WIDTH - _LEFT - _RIGHT
    rows = []
    for n, bar in enumerate(drawn):
        y = _TOP + n * _ROW
        width = _length(abs(bar.value), top, space)
        light = min(width, _length(max(bar.light, Decimal(0)), top, space))
        label = bar.label if len(bar.label) <= 30 else bar.label[:29] + "…"
        rows.append(
            f'<g><title>{_safe(bar.label)}: {_safe(bar.shown)}</title>'
            f'<text class="v" x="{_LEFT - 8}" y="{y + 15}">{_safe(label)}</text>'
            f'<rect class="{"b" if bar.value >= 0 else "n"}" x="{_LEFT}" y="{y + 3}" width="{width}" height="16"/>'
            + (f'<rect class="p" x="{_LEFT + width - light}" y="{y + 3}" width="{light}" height="16"/>' * bool(light))
            + f'<text x="{_LEFT + width + 6}" y="{y + 15}">{_safe(bar.shown)}</text></g>'
        )  # fmt: skip
    more = f"+ {len(bars) - len(drawn)} more" if len(bars) > len(drawn) else ""
    foot = " · ".join(part for part in (note, more, "" if drawn else "Nothing") if part)
    described = "; ".join(f"{b.label} {b.shown}" for b in drawn) or "Nothing"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
        f'height="{height}" aria-labelledby="t d"><title id="t">{_safe(title)}</title>'
        f'<desc id="d">{_safe(described)}</desc>'
        f'<style>{_STYLE}</style><text class="t" x="8" y="22">{_safe(title)}</text>{"".join(rows)}'
        f'<text x="8" y="{height - 8}">{_safe(foot)}</text></svg>\n'
    )  # fmt: skip


def _length(value: Decimal, top: Decimal, space: int) -> int:
    """Pixels; anything that is more than nothing can be seen."""
    return max(1, int(value * space / top)) if value else 0


def _safe(text: str) -> str:
    return escape("".join(c for c in text if c.isprintable()))
