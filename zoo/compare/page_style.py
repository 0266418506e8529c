"""The CSS and the script of the comparison page."""

CSS = """
:root { color-scheme: light dark; --text: #222; --back: #fff; --line: #ddd; --head: #f4f4f4; }
@media (prefers-color-scheme: dark) {
  :root { --text: #ddd; --back: #161616; --line: #3a3a3a; --head: #242424; }
  img { filter: invert(.91) hue-rotate(180deg); }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); max-width: 90rem;
       margin: 1.5rem auto; padding: 0 clamp(.6rem, 3vw, 2rem); }
h1 { font-size: 1.6rem; } h2 { font-size: 1.3rem; margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
h1, h2, h3, p { overflow-wrap: anywhere; }
h3 { font-size: 1rem; margin: 1.8rem 0 .3rem; }
p { max-width: 60rem; margin: .3rem 0; }
input { font: inherit; width: min(100%, 24rem); padding: .3rem .6rem; box-sizing: border-box; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; margin: .5rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { border-bottom-width: 2px; background: var(--head); cursor: pointer; }
th[aria-sort=ascending]::after { content: " ▲"; } th[aria-sort=descending]::after { content: " ▼"; }
th.text, td.text { text-align: left; }
@media (max-width: 500px) { body { font-size: 14px; } th, td { padding: .2rem .4rem; } }
"""

# A click on a column name sorts its table: numbers by value, dashes last, the second click in reverse.
SCRIPT = """
const number = text => text.startsWith("–") ? NaN : parseFloat(text.replaceAll(",", ""));
for (const head of document.querySelectorAll("thead th")) head.addEventListener("click", () => {
  const table = head.closest("table"), body = table.tBodies[0], place = head.cellIndex;
  const up = head.getAttribute("aria-sort") !== "ascending", sign = up ? 1 : -1;
  for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const cell = row => row.cells[place].textContent;
  const compare = head.classList.contains("text")
    ? (a, b) => sign * cell(a).localeCompare(cell(b), undefined, {numeric: true})
    : (a, b) => isNaN(number(cell(a))) - isNaN(number(cell(b))) || sign * (number(cell(a)) - number(cell(b))) || 0;
  body.append(...[...body.rows].sort(compare));
});
document.getElementById("search")?.addEventListener("input", event => {
  const words = event.target.value.toLowerCase().split(/\\s+/);
  for (const row of document.querySelectorAll("tbody tr"))
    row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word));
});
"""
