"""The report's style sheet and its script: they stand within the page, which asks for nothing from outside."""

STYLE = """
:root { color-scheme: light dark;
  --page: #fdfcf9; --ink: #22262b; --soft: #5e6570; --rule: #dcdad3; --shade: #f4f2ec; --link: #005a8f;
  --good: #00674a; --poor: #a63d00; --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #a8518a; --c4: #8a6d00; --c5: #4a90c2; }
@media (prefers-color-scheme: dark) { :root {
  --page: #16181b; --ink: #e6e4de; --soft: #a3a8b0; --rule: #363a40; --shade: #1e2125; --link: #7cc0ee;
  --good: #5fd0a5; --poor: #ff9f6b; --c0: #5fb3e6; --c1: #ff8f4d; --c2: #3ecf9f; --c3: #dd92c2; --c4: #d9b93b; --c5: #9fd0f0; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 2.5rem clamp(1rem, 4vw, 3rem) 5rem; max-width: 84rem; background: var(--page); color: var(--ink);
  font: 1.0625rem/1.55 Charter, "Bitstream Charter", "Sitka Text", Cambria, Georgia, serif; overflow-wrap: break-word; }
h1 { font-size: clamp(1.8rem, 5vw, 2.6rem); line-height: 1.12; letter-spacing: -.015em; margin: 0 0 .6rem; font-weight: 600;
  text-wrap: balance; }
h2 { font-size: 1.55rem; line-height: 1.2; margin: 3.6rem 0 .4rem; font-weight: 600; letter-spacing: -.01em; text-wrap: balance; }
h3 { font-size: 1.12rem; line-height: 1.3; margin: 2.2rem 0 .2rem; font-weight: 600; }
p, ul.plain, .verdicts { max-width: 44rem; margin: .5rem 0; }
a { color: var(--link); text-decoration-thickness: 1px; text-underline-offset: .15em; }
.lead { font-size: 1.18rem; color: var(--soft); }
.soft, small { color: var(--soft); }
nav ol { list-style: none; padding: 0; margin: .4rem 0; columns: 2 17rem; column-gap: 2rem; max-width: 60rem; }
nav li { break-inside: avoid; margin: .15rem 0; }
nav ol ol { columns: 1; margin: 0 0 .5rem 1rem; font-size: .95rem; }
.sans, table, svg, .keys, dl.counts, .verdicts, figcaption { font-family: system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
dl.counts { display: flex; flex-wrap: wrap; gap: .8rem 2.4rem; margin: 1.6rem 0 1.2rem; padding: 0; }
dl.counts div { display: flex; flex-direction: column-reverse; }
dl.counts dt { color: var(--soft); font-size: .84rem; }
dl.counts dd { margin: 0; font-size: 1.7rem; font-weight: 600; font-variant-numeric: tabular-nums; line-height: 1.2; }
.verdicts { list-style: none; display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); gap: 1rem 2.2rem;
  max-width: none; margin: 1.2rem 0; padding: 0; font-size: .86rem; line-height: 1.5; }
.verdicts > li { border-top: 1px solid var(--rule); padding-top: .45rem; break-inside: avoid; }
.verdicts ul { list-style: none; margin: .1rem 0 0; padding: 0; }
.verdicts b { font-variant-numeric: tabular-nums; font-weight: 600; }
.scroll { overflow-x: auto; margin: .7rem 0 .4rem; border-top: 2px solid var(--ink); border-bottom: 1px solid var(--ink); }
.scroll:focus-visible, button:focus-visible, a:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
table { border-collapse: separate; border-spacing: 0; font-size: .84rem; line-height: 1.35;
  font-variant-numeric: tabular-nums lining-nums; min-width: 100%; }
th, td { padding: .42rem .7rem; text-align: right; vertical-align: top; border-top: 1px solid var(--rule); }
thead th { font-weight: 600; vertical-align: bottom; border-top: 0; background: var(--page); }
thead th[colspan] { border-bottom: 1px solid var(--rule); text-align: center; }
th:first-child, td.text, th.text { text-align: left; }
tbody th, thead th.first { position: sticky; left: 0; z-index: 1; background: var(--page); text-align: left;
  min-width: 12.5rem; max-width: 16rem; }
tbody th { font-weight: 600; border-right: 1px solid var(--rule); }
thead th.first { border-right: 1px solid var(--rule); }
tr.baseline th, tr.published th { font-weight: 400; font-style: italic; color: var(--soft); }
th small, td small { display: block; font-weight: 400; font-style: normal; font-size: .92em; overflow-wrap: anywhere; }
td small { white-space: nowrap; }
td.text small, td.text { white-space: nowrap; }
tbody tr:hover td, tbody tr:hover th { background: var(--shade); }
td.published { color: var(--soft); }
td.ours a { color: inherit; text-decoration-color: var(--rule); font-weight: 600; }
td.ours a:hover { text-decoration-color: currentColor; }
.baseline td.ours a { font-weight: 400; }
.good { color: var(--good); } .poor { color: var(--poor); }
thead button { all: unset; cursor: pointer; font: inherit; text-align: inherit; }
thead button::after { content: "\\2195"; color: var(--soft); opacity: .55; margin-left: .3em; font-weight: 400; }
th[aria-sort=ascending] button::after { content: "\\2191"; opacity: 1; color: var(--ink); }
th[aria-sort=descending] button::after { content: "\\2193"; opacity: 1; color: var(--ink); }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 23rem), 1fr)); gap: 1.6rem 2.2rem; margin: 1rem 0; }
.figures.wide { grid-template-columns: minmax(0, 60rem); } .figures.wide img { width: auto; max-width: 100%; max-height: 34rem; }
figure { margin: 0; break-inside: avoid; min-width: 0; }
figcaption { font-size: .92rem; font-weight: 600; margin-bottom: .3rem; line-height: 1.35; }
figcaption small { font-weight: 400; }
figure > svg, figure img { width: 100%; height: auto; display: block; }
figure img { background: #fff; border: 1px solid var(--rule); }
svg .grid { stroke: var(--rule); } svg .tick { stroke: var(--soft); } svg .mark { fill: var(--soft); font-size: 12px; }
svg .name { fill: var(--ink); font-size: 12.5px; }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg .floor { stroke: var(--soft); stroke-width: 1.6; stroke-dasharray: 3 3; }
.line.c0 { stroke: var(--c0); } .line.c1 { stroke: var(--c1); } .line.c2 { stroke: var(--c2); }
.line.c3 { stroke: var(--c3); } .line.c4 { stroke: var(--c4); } .line.c5 { stroke: var(--c5); }
.dot.c0 { fill: var(--c0); } .dot.c1 { fill: var(--c1); } .dot.c2 { fill: var(--c2); }
.dot.c3 { fill: var(--c3); } .dot.c4 { fill: var(--c4); } .dot.c5 { fill: var(--c5); }
svg circle.ours { fill: var(--c0); } svg circle.published { fill: var(--page); stroke: var(--soft); stroke-width: 1.4; }
svg text.on-ours, svg text.on-published { font-size: 10.5px; text-anchor: middle; fill: var(--page); font-weight: 600; }
svg text.on-published { fill: var(--soft); }
.keys { list-style: none; margin: .4rem 0 0; padding: 0; font-size: .82rem; line-height: 1.5; color: var(--soft); }
.keys svg { width: 34px; height: 10px; margin-right: .5em; vertical-align: .05em; }
.keys.numbers { list-style: decimal; padding-left: 1.9em; columns: 2 11rem; }
.keys.numbers li:not(.paper) { color: var(--ink); font-weight: 600; }
footer { margin-top: 4rem; border-top: 1px solid var(--rule); padding-top: 1rem; font-size: .92rem; color: var(--soft); }
@media (max-width: 40rem) { body { padding-top: 1.4rem; } th, td { padding: .4rem .5rem; }
  tbody th, thead th.first { min-width: 7.5rem; max-width: 9.5rem; } }
@media print { @page { size: A4 landscape; margin: 12mm; }
  :root { --page: #fff; --ink: #000; --soft: #444; --rule: #bbb; --shade: #fff; --link: #000; --good: #00674a; --poor: #a63d00;
    --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #a8518a; --c4: #8a6d00; --c5: #4a90c2; }
  body { font-size: 10pt; max-width: none; padding: 0; } nav { display: none; } a { text-decoration: none; }
  h2, h3 { break-after: avoid; } tr, figure { break-inside: avoid; } .scroll { overflow: visible; }
  table { font-size: 6.8pt; } th, td { padding: .22rem .32rem; } td.text, td.text small { white-space: normal; overflow-wrap: normal; }
  .unused { display: none; }
  tbody th, thead th.first { position: static; min-width: 30mm; } thead { display: table-header-group; }
  thead button { display: contents; } thead button::after { content: none; }
  .figures { grid-template-columns: 1fr 1fr; } }
"""

SCRIPT = """
"use strict";
// A cell sorts by its data-value, as a number; a head by its text. Empty cells come last either way.
function valueOf(row, column) {
  const cell = row.cells[column];
  if (cell.tagName === "TH") return cell.textContent.trim().toLowerCase();
  return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
}
function sortBy(head, order) {
  const table = head.closest("table"), body = table.tBodies[0], column = Number(head.dataset.column);
  const sign = order === "ascending" ? 1 : -1;
  const rows = Array.from(body.rows).map(row => [valueOf(row, column), row]);
  rows.sort(([a], [b]) => a === null || b === null ? (a === null) - (b === null) : sign * (a < b ? -1 : a > b ? 1 : 0));
  for (const other of table.querySelectorAll("th[aria-sort]")) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", order);
  body.append(...rows.map(([, row]) => row));
}
function sortOn(head) {
  const now = head.getAttribute("aria-sort");
  sortBy(head, now === "none" ? head.dataset.first : now === "ascending" ? "descending" : "ascending");
}
for (const head of document.querySelectorAll("th[data-column]"))
  head.querySelector("button").addEventListener("click", () => sortOn(head));
// An address that ends in #sort=TABLE.COLUMN opens the page with that table sorted.
const asked = /^#sort=([\\w-]+)\\.(\\d+)$/.exec(location.hash);
const wanted = asked && document.querySelector(`#${CSS.escape(asked[1])} th[data-column="${asked[2]}"]`);
if (wanted) { wanted.querySelector("button").click(); wanted.scrollIntoView({ block: "center" }); }
"""
