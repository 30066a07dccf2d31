"""The page's style sheet: light and dark mode, print, and phones."""

CSS = """
:root { color-scheme: light dark;
  --page: #f7f7f4; --card: #ffffff; --ink: #1d211f; --muted: #59625d; --line: #dcdfda; --accent: #1f6b4a;
  --good: #1b7044; --bad: #b3261e;
  --c1: #2563b8; --c2: #b8560b; --c3: #27805a; --c4: #7c4dbd; --c5: #b02f6c; --c6: #0b7a86; }
@media (prefers-color-scheme: dark) { :root {
  --page: #131614; --card: #1b1f1d; --ink: #e6e9e6; --muted: #a0aaa4; --line: #343b37; --accent: #7fd1a8;
  --good: #74cf9c; --bad: #ff9d94;
  --c1: #82b1ff; --c2: #f0a868; --c3: #6fcfa0; --c4: #c4a5f5; --c5: #f291bd; --c6: #66cdd8; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", Arial, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 64px; }
header { border-top: 5px solid var(--accent); padding-top: 22px; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 8px; letter-spacing: -0.015em; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 52px 0 14px; padding-top: 14px; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 0 0 8px; }
p { margin: 0 0 12px; max-width: 72ch; overflow-wrap: anywhere; }
.lead { color: var(--muted); font-size: 1.06rem; }
.muted, figcaption, .note { color: var(--muted); font-size: 0.875rem; }
figcaption { margin-top: 6px; }
code, pre { font: 0.84rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
code { overflow-wrap: anywhere; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; margin: 0 0
  12px;
  overflow: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(160px, 1fr)); gap: 12px; margin: 22px 0 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; }
.tile dt { color: var(--muted); font-size: 0.875rem; }
.tile dd { margin: 2px 0 0; }
.tile strong { display: block; overflow-wrap: anywhere; font-size: 1.65rem; line-height: 1.25; font-weight: 650;
  font-variant-numeric: tabular-nums; }
.tile .note { display: block; }
.tile.good strong { color: var(--good); }
.tile.bad strong { color: var(--bad); }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 18px;
  align-items: start; }
.pair + .pair, .pair + details, details + .pair { margin-top: 18px; }
figure, .card { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding:
  16px 18px; min-width: 0; }
figure svg { display: block; width: 100%; height: auto; }
.scroll { overflow-x: auto; margin: 0 0 12px; }
.card > .scroll:last-child { margin-bottom: 0; }
.tall { max-height: 460px; overflow: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; font-size: 1rem; padding: 0 0 8px; }
th, td { padding: 6px 8px; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { color: var(--muted); font-weight: 500; font-size: 0.84rem; }
tbody th { font-weight: 500; }
td small, th small { color: var(--muted); display: block; }
.stacked > * + * { margin-top: 18px; }
tbody tr:last-child > * { border-bottom: 0; }
.numbers td, .numbers thead th:not(:first-child) { text-align: right; }
td.bar { background: linear-gradient(90deg, var(--c1) var(--share), transparent var(--share)) left bottom / 100% 3px
  no-repeat; }
td.heat { text-align: center !important; min-width: 3.2em; }
td.heat.hit { font-weight: 650; }
th small { font-weight: 400; white-space: nowrap; }
th button { all: unset; cursor: pointer; display: inline-block; padding: 2px 0; }
th button::after { content: "\\2195"; margin-left: 0.15em; opacity: 0.55; }
th[aria-sort="ascending"] button::after { content: "\\2191"; opacity: 1; }
th[aria-sort="descending"] button::after { content: "\\2193"; opacity: 1; }
th button:focus-visible { outline: 2px solid var(--accent); outline-offset: 3px; border-radius: 4px; }
details { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 0 16px; margin: 12px
  0 0; }
summary { cursor: pointer; padding: 11px 0; font-weight: 500; }
summary:focus-visible, .scroll:focus-visible { outline: 2px solid var(--accent); outline-offset: 3px; border-radius:
  4px; }
details + p { margin-top: 12px; }
details > :last-child { margin-bottom: 14px; }
.gallery { list-style: none; margin: 0; padding: 0; display: grid; grid-template-columns: repeat(auto-fill,
  minmax(150px, 1fr)); gap: 12px; }
.gallery li { background: var(--card); border: 1px solid var(--line); border-radius: 10px; overflow: hidden;
  font-size: 0.84rem; }
.gallery img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; background: color-mix(in srgb,
  var(--ink) 7%, transparent); }
.gallery .blank { display: grid; place-items: center; aspect-ratio: 1; color: var(--muted); }
.gallery div { padding: 8px 10px; line-height: 1.4; overflow-wrap: anywhere; }
.gallery b { font-weight: 600; }
.gallery small { color: var(--muted); display: block; }
.stack { display: flex; height: 22px; border-radius: 6px; overflow: hidden; margin: 4px 0 10px; background:
  var(--line); }
.stack span { display: block; min-width: 2px; }
.keys { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 20px; padding: 0; margin: 0 0 10px; font-size:
  0.9rem; }
.keys i { display: inline-block; width: 0.8em; height: 0.8em; border-radius: 3px; margin-right: 7px; vertical-align:
  -0.06em; }
footer { margin-top: 48px; color: var(--muted); font-size: 0.875rem; }
@media (max-width: 560px) {
  main { padding: 22px 14px 40px; }
  h1 { font-size: 1.55rem; }
  .tiles { grid-template-columns: 1fr 1fr; gap: 10px; }
  .tile { padding: 11px 12px; }
  .tile strong { font-size: 1.35rem; }
  figure, .card { padding: 13px 12px; }
  .gallery { grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)); gap: 9px; }
}
@page { margin: 14mm 12mm; }
@media print {
  :root { --page: #fff; --card: #fff; --ink: #000; --muted: #444; --line: #bbb; --accent: #1f6b4a; --good:
    #1b7044; --bad: #b3261e;
    --c1: #2563b8; --c2: #b8560b; --c3: #27805a; --c4: #7c4dbd; --c5: #b02f6c; --c6: #0b7a86; }
  body { font-size: 11pt; }
  main { max-width: none; padding: 0; }
  h2 { margin-top: 30px; }
  .tiles { grid-template-columns: repeat(3, 1fr); }
  .pair { grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 12px; }
  .gallery { grid-template-columns: repeat(6, 1fr); gap: 8px; }
  figure, .card, .tile, .gallery li, tr { break-inside: avoid; }
  h2, h3, h2 + p { break-after: avoid; }
  table { font-size: 0.8rem; }
  thead th { font-size: 0.75rem; }
  .tall { max-height: none; }
  th button::after { content: none; }
  .scroll { overflow: visible; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
