"""The CSS of the page of a comparison of files, after that of all pages."""

FILE_CSS = """
:root { --good: #18794e; --bad: #c62a2f; --weak: #777; --fill: #0b6bcb; }
@media (prefers-color-scheme: dark) {
  :root { --good: #4cc38a; --bad: #ff7b72; --weak: #999; --fill: #58a6ff; }
  .pictures img { filter: none; }
}
.side { display: flex; flex-wrap: wrap; gap: 0 3rem; } .side > div { min-width: 0; max-width: 100%; flex: 1 1 26rem; }
td small { display: block; font-size: .78em; line-height: 1.1; }
.better { color: var(--good); } .worse { color: var(--bad); } .same { color: var(--weak); }
table.first td, table.first th { vertical-align: top; }
table.first th:first-child { position: sticky; left: 0; text-align: left; font-weight: 600; background: var(--head); }
table.first tbody th { border-bottom-width: 1px; cursor: default; }
table.first thead th { white-space: normal; overflow-wrap: anywhere; min-width: 5.5rem; max-width: 11rem; }
.track { display: block; position: relative; height: 4px; min-width: 5rem; margin-top: 3px; background: var(--line);
         border-radius: 2px; }
.bar { position: absolute; height: 100%; min-width: 2px; background: var(--fill); border-radius: 2px; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(6.6rem, 1fr)); gap: .6rem; margin: .6rem 0; }
.rows { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 32rem), 1fr)); gap: 0 2rem; }
.maps { border-bottom: 1px solid var(--line); padding-bottom: .6rem; }
figure { margin: 0; font-size: .78rem; line-height: 1.25; overflow-wrap: anywhere; max-width: 9rem; }
figure img { display: block; width: 100%; image-rendering: pixelated; box-sizing: border-box; border-radius: 3px;
             border: 3px solid transparent; }
figure.lost img { border-color: var(--bad); } figure.won img { border-color: var(--good); }
figcaption { margin-top: .2rem; color: var(--text); }
@media (max-width: 500px) { .pictures { grid-template-columns: repeat(auto-fill, minmax(5.2rem, 1fr)); } }
"""
