"""Parts of the report page: safe text, sections, lines of charts, tables, pictures, and the style. Nothing is loaded
from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape
from typing import Any

from . import _words as words

PNG = b"\x89PNG\r\n\x1a\n"
COARSE = 700  # pixels; narrower pictures are enlarged without smoothing
FIGURES = {  # name -> (title, what it shows)
    "fakes": ("Made", "A first sample of fakes, not picked by hand."),
    "reals": ("Real", "Held-out examples that the generator never saw."),
    "scatter": ("Real and made points", "Both sets in one plane."),
    "caught": ("Caught", "The fakes that the strongest judge is surest about: what gives them away?"),
    "passed": ("Passed", "The fakes that the strongest judge takes for real most firmly."),
    "nearest": ("Nearest", "The fakes that come closest to training examples, each followed by that example."),
}
STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf8; --ink: #1d1c1a; --dim: #5f5a53; --rule: #dfdbd4; --soft: #f1eee9;
  --fake: #b4531f; --real: #35698c; --good: #2c7a4b; --band: #2c7a4b26; --alarm: #a3261b; }
@media (prefers-color-scheme: dark) { :root { --paper: #161514; --ink: #ece8e2; --dim: #aaa49b; --rule: #383430;
  --soft: #211f1d; --fake: #f0955c; --real: #80b5d8; --good: #74c795; --band: #74c7952e; --alarm: #ff8d80; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 47rem; padding: 2rem 1.15rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
h1 { font-size: clamp(1.55rem, 1.1rem + 2.2vw, 2.3rem); line-height: 1.22; font-weight: 650; letter-spacing: -.015em;
  margin: .6rem 0 1rem; text-wrap: balance; }
h1.long { font-size: clamp(1.3rem, 1.05rem + 1.2vw, 1.7rem); }
h2 { font-size: 1.2rem; line-height: 1.3; font-weight: 650; margin: 3.2rem 0 .5rem; padding-top: .9rem;
  border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; font-weight: 650; margin: 1.8rem 0 .4rem; }
p { margin: .5rem 0; max-width: 42rem; }
.dim, figcaption, .lead, footer { color: var(--dim); }
.dim, figcaption, .lead { font-size: .9rem; }
.eyebrow { display: flex; flex-wrap: wrap; gap: .3rem .8rem; align-items: center; color: var(--dim); font-size: .9rem; }
.pill { font-weight: 650; padding: .1rem .65rem; border: 1.5px solid; border-radius: 1rem; color: var(--dim); }
.pill.EQUILIBRIUM { color: var(--good); } .pill.DISTINGUISHABLE { color: var(--fake); }
.alarm { border-left: 4px solid var(--alarm); padding: .1rem 0 .1rem .8rem; margin: 1rem 0; }
.glance { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: 1px; margin: 1.6rem 0;
  background: var(--rule); border: 1px solid var(--rule); border-radius: 6px; overflow: hidden; }
.glance div { background: var(--paper); padding: .7rem .85rem; }
.glance dt { color: var(--dim); font-size: .82rem; }
.glance dd { margin: 0; font-size: 1.3rem; line-height: 1.3; font-weight: 600; }
.glance dd + dd { font-size: .82rem; font-weight: 400; color: var(--dim); }
.not { background: var(--soft); border-radius: 6px; padding: .75rem 1rem .85rem; }
.not h2, .not ul { margin: 0; border: 0; padding: 0; } .not h2 { font-size: 1rem; margin-bottom: .3rem; }
.not li { margin: .2rem 0 .2rem 1.1rem; font-size: .9rem; }
figure { margin: 1.2rem 0 0; max-width: 32rem; }
figure img { display: block; width: 100%; height: auto; border-radius: 4px; border: 1px solid var(--rule); }
figure img.small { image-rendering: pixelated; }
figcaption { margin-top: .4rem; } figcaption b { color: var(--ink); }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 0 1.4rem; }
ul.plot { list-style: none; margin: .9rem 0 .2rem; padding: 0; }
.row { display: grid; grid-template-columns: 11rem minmax(0, 1fr) 8.6rem; column-gap: .8rem; align-items: center; }
.row svg { display: block; overflow: visible; grid-column: 2; }
.row .name { grid-column: 1; line-height: 1.25; }
.row .num { grid-column: 3; text-align: right; line-height: 1.25; white-space: nowrap; }
.row .num b { font-weight: 600; } .row .num span, .row .name span, .say span { display: block; }
.row .num span, .row .name span { font-size: .82rem; color: var(--dim); }
.row .say { grid-column: 1 / -1; margin: 0 0 .9rem; font-size: .9rem; color: var(--dim); }
.row.bare { grid-template-columns: 1fr auto; } .row.bare .num { grid-column: 2; }
.tight .row { grid-template-columns: minmax(0, 10.5rem) minmax(0, 1fr) 4.6rem; font-size: .94rem; }
.tight .name { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.tight .ours { color: var(--fake); } .tight .fd { font-weight: 650; }
.key { display: flex; flex-wrap: wrap; gap: .15rem 1.1rem; font-size: .86rem; color: var(--dim); margin: .6rem 0 0; }
.key span::before { content: ""; display: inline-block; width: .75rem; height: .75rem; margin-right: .4rem;
  border-radius: 2px; vertical-align: -.06rem; background: var(--fake); }
.key .real::before { height: .6rem; width: .6rem; border-radius: 50%; vertical-align: 0; background: var(--real); }
.key .band::before { background: var(--band); outline: 1px solid var(--good); outline-offset: -1px; }
.key .floor::before { width: 2.5px; height: .95rem; vertical-align: -.16rem; background: var(--real); }
.fake { fill: var(--fake); } .real { fill: var(--real); } .plain { fill: var(--dim); }
.pale { fill: var(--paper); stroke: var(--fake); stroke-width: 2; } .back { fill: var(--soft); }
.band { fill: var(--band); } .grid { stroke: var(--rule); } .guess { stroke: var(--ink); stroke-dasharray: 3 3; }
.whisker { stroke: var(--ink); stroke-width: 1.5; } .floor { stroke: var(--real); stroke-width: 2.5; }
.ours-line { stroke: var(--fake); stroke-opacity: .5; }
text.scale { fill: var(--dim); font-size: 12px; }
table { border-collapse: collapse; width: 100%; font-size: .86rem; margin: .6rem 0; }
th, td { text-align: right; font-weight: 400; padding: .3rem .35rem; border-bottom: 1px solid var(--rule);
  vertical-align: top; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: normal; min-width: 4.5rem; }
thead th { color: var(--dim); } caption { text-align: left; color: var(--dim); font-size: .86rem; }
dl.facts { display: grid; grid-template-columns: 8.5rem 1fr; gap: .25rem 1.2rem; margin: .8rem 0; font-size: .93rem; }
dl.facts dt { color: var(--dim); } dl.facts dd { margin: 0; }
code { font: .86em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
details { margin: .8rem 0; } summary { cursor: pointer; color: var(--dim); font-size: .9rem; }
footer { margin-top: 3rem; padding-top: .9rem; border-top: 1px solid var(--rule); font-size: .86rem; }
@media (max-width: 36rem) {
  body { padding-top: 1.2rem; } dl.facts { grid-template-columns: 6.2rem 1fr; column-gap: .9rem; }
  .plot:not(.tight) .row:not(.scale) { margin-top: .6rem; }
  .row { grid-template-columns: 1fr auto; } .row svg { grid-column: 1 / -1; grid-row: 2; margin: .2rem 0 .15rem; }
  .row .num { grid-column: 2; } .row .num span { display: inline; margin-left: .4rem; }
  .tight .row { grid-template-columns: 8.6rem minmax(0, 1fr) 3.6rem; } .tight .row svg { grid-column: 2; grid-row: 1; margin: 0; }
  .tight .row .num { grid-column: 3; } .row.scale:not(.tight *) { display: block; }
}
@media print { body { max-width: none; } details { display: block; } }
"""


def text(value: Any) -> str:
    """Anything as text that no browser takes for markup, its direction of writing kept to itself."""
    value = str(value)
    return escape(value) if value.isascii() else f"<bdi>{escape(value)}</bdi>"


def section(title: str, *parts: str, lead: str = "") -> str:
    """A headed section; nothing where all parts are empty."""
    body = "\n".join(filter(None, parts))
    first = f'<p class="lead">{text(lead)}</p>\n' if lead else ""
    return f"<section>\n<h2>{text(title)}</h2>\n{first}{body}\n</section>" if body else ""


def row(
    name: str, lane: str, value: str, small: str = "", say: Iterable[str] = (), under: str = "", look: str = ""
) -> str:
    """A line of a chart: name with a word under it, lane (SVG), number with its interval in small, sentences beneath."""
    small, under = (f" <span>{text(some)}</span>" if some else "" for some in (small, under))
    beneath = "".join(f"<span>{text(line)}</span>" for line in say if line)
    return (
        f'<li class="row{"" if lane else " bare"}"><span class="name{look}">{text(name)}{under}</span>{lane}'
        f'<span class="num"><b>{text(value)}</b>{small}</span>'
        + (f'<p class="say">{beneath}</p></li>' if beneath else "</li>")
    )


def plot(rows: Iterable[str], foot: str = "", tight: bool = False) -> str:
    """Lines of one chart and the scale under them."""
    body = "\n".join(rows)
    last = f'\n<li class="row scale" aria-hidden="true">{foot}</li>' if foot else ""
    return f'<ul class="plot{" tight" if tight else ""}">\n{body}{last}\n</ul>' if body else ""


def table(caption: str, head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    top = "".join(f'<th scope="col">{text(cell)}</th>' for cell in head)
    body = ""
    for first, *rest in rows:
        cells = "".join(f"<td>{text(cell)}</td>" for cell in rest)
        body += f'<tr><th scope="row">{text(first)}</th>{cells}</tr>\n'
    note = f"<caption>{text(caption)}</caption>" if caption else ""
    return f"<table>{note}<thead><tr>{top}</tr></thead><tbody>\n{body}</tbody></table>" if body else ""


def folded(title: str, body: str) -> str:
    return f"<details><summary>{text(title)}</summary>{body}</details>" if body else ""


def facts(pairs: Iterable[tuple[str, Any]]) -> str:
    body = "".join(f"<dt>{text(k)}</dt><dd>{text(v)}</dd>\n" for k, v in pairs if v not in (None, "", words.NONE))
    return f'<dl class="facts">\n{body}</dl>' if body else ""


def bullets(lines: Iterable[Any]) -> str:
    body = "".join(f"<li>{text(line)}</li>" for line in lines)
    return f"<ul>{body}</ul>" if body else ""


def key(**labels: str) -> str:
    return '<p class="key">' + "".join(f'<span class="{k}">{text(v)}</span>' for k, v in labels.items()) + "</p>"


def figure(name: str, data: bytes) -> str:
    title, what = FIGURES.get(name, (name, ""))
    size = look = ""
    if data[:8] == PNG and len(data) >= 24:
        width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
        size, look = f' width="{width}" height="{height}"', ' class="small"' if width < COARSE else ""
    source = base64.b64encode(data).decode()
    return (
        f'<figure><img{look}{size} alt="{escape(f"{title}: {what}")}" src="data:image/png;base64,{source}">'
        f"<figcaption><b>{text(title)}.</b> {text(what)}</figcaption></figure>"
    )
