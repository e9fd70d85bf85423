// Style and script of the HTML report. Nothing is loaded from anywhere.
#pragma once

namespace miq {

inline constexpr const char* kReportStyle = R"css(
:root { color-scheme: light dark; --page: #ffffff; --text: #1c2024; --soft: #5b6570; --line: #d9dee3; --panel: #f5f7f9;
  --accent: #0b62a8; --warm: #b4451f; --green: #1f7a4d; --dot: #8a949e; --bad: #b3261e; --mark: #8a5a00; }
@media (prefers-color-scheme: dark) { :root:not([data-theme=light]) { --page: #14181c; --text: #e6e9ec; --soft: #9aa5b0; --line: #333b43;
  --panel: #1c2227; --accent: #6cb4f0; --warm: #f0936c; --green: #62c796; --dot: #7d8893; --bad: #ff8a80; --mark: #e0b050; } }
:root[data-theme=light] { color-scheme: light; }
:root[data-theme=dark] { color-scheme: dark; --page: #14181c; --text: #e6e9ec; --soft: #9aa5b0; --line: #333b43; --panel: #1c2227;
  --accent: #6cb4f0; --warm: #f0936c; --green: #62c796; --dot: #7d8893; --bad: #ff8a80; --mark: #e0b050; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 2rem 1.25rem 4rem; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; }
section { scroll-margin-top: .5rem; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; font-size: .9rem; margin: .2rem 0 1.2rem; }
nav a { color: var(--accent); text-decoration: none; } nav a:hover { text-decoration: underline; }
.theme { float: right; display: flex; margin-left: 1rem; border: 1px solid var(--line); border-radius: 5px; overflow: hidden; }
.theme button { font: inherit; font-size: .78rem; color: var(--soft); background: none; border: 0; padding: .2rem .55rem; cursor: pointer; }
.theme button[aria-pressed=true] { color: var(--text); background: var(--panel); }
p { margin: .25rem 0 .75rem; max-width: 54rem; }
details.legend { font-size: .88rem; color: var(--soft); } details.legend summary { cursor: pointer; }
.soft, figcaption, .detail { color: var(--soft); }
.scroll { overflow-x: auto; background: linear-gradient(var(--page), var(--page)) right / 1.2rem 100% no-repeat local,
  linear-gradient(to left, var(--line), transparent) right / .7rem 100% no-repeat scroll; }  /* a shade where more is to come */
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .93rem; }
th, td { padding: .45rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; padding-left: 0; position: sticky; left: 0; background: var(--page);
  max-width: 22rem; overflow-wrap: anywhere; white-space: normal; min-width: 8rem; font-weight: 600; }
th.text, td.text { text-align: left; }
th { font-weight: 600; vertical-align: bottom; border-bottom: 2px solid var(--text); }
tr.groups th { border-bottom: 0; padding-bottom: 0; font-weight: 400; font-size: .8rem; color: var(--soft); text-align: left; }
th.begin, td.begin { border-left: 1px solid var(--line); }
td.change { color: var(--soft); } th.change { font-weight: 400; }
table.plain { width: auto; font-size: .85rem; } table.plain th, table.plain td { padding: .15rem .7rem; min-width: 0; }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; text-align: inherit; }
th button:hover, th button:focus-visible { text-decoration: underline; }
th[aria-sort=ascending] button::after { content: " \2191"; }
th[aria-sort=descending] button::after { content: " \2193"; }
.detail { display: block; font-size: .78rem; line-height: 1.1; }
.failed { color: var(--bad); }
.mark { color: var(--mark); text-decoration: none; font-weight: 700; }
.notes { padding-left: 1.1rem; font-size: .88rem; color: var(--soft); }
.notes li { margin: .15rem 0; overflow-wrap: anywhere; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1.25rem; }
figure { margin: 0; break-inside: avoid; } .plots figure { max-width: 42rem; }
.wides { display: flex; flex-wrap: wrap; gap: 1.25rem 2rem; } figure.wide { max-width: 100%; }
figcaption { font-size: .9rem; margin-bottom: .3rem; overflow-wrap: anywhere; }
svg { display: block; width: 100%; height: auto; font-family: inherit; }
svg text { fill: var(--soft); font-size: 12px; }
svg .label { fill: var(--text); paint-order: stroke; stroke: var(--page); stroke-width: 3px; stroke-linejoin: round; }
svg .reference { stroke: var(--soft); stroke-width: 1.25; stroke-dasharray: 1 3; stroke-linecap: round; }
svg .label.front { font-weight: 600; }
svg .grid { stroke: var(--line); stroke-width: 1; } svg .axis { stroke: var(--soft); stroke-width: 1; }
svg .dot { fill: var(--dot); stroke: var(--page); stroke-width: 1.5; } svg .dot.front { fill: var(--accent); }
svg .front-line { fill: none; stroke: var(--accent); stroke-width: 1.5; stroke-dasharray: 4 3; }
svg .cell, svg .bar { fill: var(--accent); } svg .warm { fill: var(--warm); } svg .green { fill: var(--green); }
svg .value { font-size: 10.5px; fill: var(--text); } svg .value.on-dark { fill: var(--page); }
.key { display: inline-block; width: 9rem; height: .7rem; vertical-align: -.05rem; margin: 0 .4rem;
  background: linear-gradient(to right, color-mix(in srgb, var(--accent) 8%, var(--page)), var(--accent)); }
.key.warm { background: linear-gradient(to right, color-mix(in srgb, var(--warm) 8%, var(--page)), var(--warm)); }
.key.green { background: linear-gradient(to right, color-mix(in srgb, var(--green) 8%, var(--page)), var(--green)); }
.matrices { display: flex; flex-wrap: wrap; gap: .8rem; margin-bottom: 1.2rem; } figure.small { width: 8.5rem; } figure.small figcaption { font-size: .75rem; }
pre { overflow-x: auto; margin: .2rem 0 .6rem; padding: .5rem .7rem; background: var(--page); border-radius: 4px; font-size: .82rem; line-height: 1.45; }
.card { background: var(--panel); border-radius: 6px; padding: .6rem .9rem; margin: .6rem 0; break-inside: avoid; }
.card summary { cursor: pointer; font-weight: 600; overflow-wrap: anywhere; }
.card summary span { font-weight: 400; color: var(--soft); }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .25rem 1.2rem; margin: .7rem 0 .2rem; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
code { font: .92em ui-monospace, "DejaVu Sans Mono", monospace; }
@media (max-width: 36rem) { body { padding: 1.25rem .9rem 3rem; } .plots svg { min-width: 30rem; } dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .5rem; }
  th:first-child, td:first-child { max-width: 9.5rem; } }
@media print { :root, :root:not([data-theme=light]), :root[data-theme=dark] { color-scheme: light; --page: #fff; --text: #000; --soft: #444; --line: #bbb;
  --panel: #fff; --accent: #0b62a8; --warm: #b4451f; --green: #1f7a4d; --dot: #777; --bad: #900; --mark: #640; }
  nav, .theme { display: none; } pre { white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid var(--line); } h2 { break-after: avoid; }
  body { max-width: none; padding: 0; font-size: 10pt; } .scroll { overflow: visible; } svg { max-width: 100%; }
  table { font-size: 8pt; } th, td { padding: .25rem .35rem; white-space: normal; } .wides { display: block; } figure.wide { margin-bottom: .6rem; }
  th:first-child, td:first-child { position: static; min-width: 0; } table.many { font-size: clamp(3pt, calc(96pt / var(--columns)), 8pt); } table.many th, table.many td { padding: .15em; }
  .scroll { background: none; } .card { border: 1px solid var(--line); } .screen { display: none; }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; } }
)css";

// Colours: as the system has them, light, or dark. Sorts the table by the clicked column; again turns it round. Cells without a value stay last. All cards are
// opened for printing, without their tables of layers.
inline constexpr const char* kReportScript = R"js(
document.querySelectorAll(".theme button").forEach(function (button, index, all) {
  button.addEventListener("click", function () {
    var theme = button.dataset.setTheme;
    if (theme) document.documentElement.dataset.theme = theme; else delete document.documentElement.dataset.theme;
    all.forEach(function (other) { other.setAttribute("aria-pressed", other === button ? "true" : "false"); });
  });
});
document.querySelectorAll("th button").forEach(function (button) {
  button.addEventListener("click", function () {
    var head = button.parentNode, body = head.closest("table").tBodies[0], column = head.cellIndex;
    var down = head.getAttribute("aria-sort") === "ascending";
    head.parentNode.querySelectorAll("th").forEach(function (other) { other.removeAttribute("aria-sort"); });
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    Array.from(body.rows).map(function (row) { return [row.cells[column], row]; }).sort(function (a, b) {
      var x = a[0].dataset.order, y = b[0].dataset.order;
      if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
      var order = head.classList.contains("text") ? x.localeCompare(y) : x - y;
      return down ? -order : order;
    }).forEach(function (pair) { body.appendChild(pair[1]); });
  });
});
window.addEventListener("beforeprint", function () {
  document.querySelectorAll("details:not(.layers)").forEach(function (card) { card.open = true; });
});
)js";

}  // namespace miq
