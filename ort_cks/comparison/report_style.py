"""The looks of a comparison's page: light and dark as the reader has it, and down to the width of a phone."""

STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1b2330; --soft: #5b6675; --line: #dfe4ea; --page: #f5f7f9; --card: #fff;
  --ours: #1f7a55; --theirs: #8b97a6; --bad: #b3382c; --good-back: #e4f3ec; --bad-back: #fbe9e6;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e3e8ee; --soft: #9aa6b4; --line: #303a46; --page: #12171d; --card: #1a212a;
    --ours: #4cc495; --theirs: #76838f; --bad: #f08b7f; --good-back: #16342a; --bad-back: #3d211e;
  }
}
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); margin: 0 }
main { max-width: 68rem; margin: 0 auto; padding: 1.5rem 1rem 3rem }
h1 { font-size: 1.45rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere }
h2 { font-size: 1.05rem; margin: 0 0 .6rem }
p { margin: .3rem 0; overflow-wrap: anywhere }
.soft, figcaption, section > p { color: var(--soft); font-size: .87rem }
.bad { color: var(--bad) }
section, .tile { background: var(--card); border: 1px solid var(--line); border-radius: .6rem }
section { padding: 1rem 1.1rem; margin-top: 1rem }

.verdict { display: inline-block; margin: .8rem 0 0; padding: .35rem .9rem; border-radius: 1.1rem;
  font-weight: 600; background: var(--good-back); color: var(--ours) }
.verdict::first-letter, section > p::first-letter { text-transform: uppercase }
.verdict.bad { background: var(--bad-back); color: var(--bad) }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: .8rem;
  margin-top: 1rem }
.tile { padding: .7rem .9rem }
.tile b { display: block; font-size: 1.6rem; line-height: 1.2; font-variant-numeric: tabular-nums }
.tile span { color: var(--soft); font-size: .85rem }
.tile.lead b { color: var(--ours) }

table { border-collapse: collapse; width: 100%; font-size: .92rem; margin-top: .6rem }
th { text-align: left; color: var(--soft); font-weight: 600; font-size: .82rem; vertical-align: bottom }
th, td { padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line) }
td { vertical-align: top }
tr:last-child td { border-bottom: 0 }
th.n, td.n { text-align: right }
td.n, td.zeros { font-variant-numeric: tabular-nums; white-space: nowrap }
td.name { overflow-wrap: anywhere; min-width: 7rem; font-weight: 600 }
tr.ours td { color: var(--ours); font-weight: 600 }
.share { display: inline-block; width: 4.5rem; height: .5rem; border-radius: .25rem; margin-right: .5rem;
  background: var(--line); overflow: hidden }
.share i { display: block; height: 100%; background: var(--ours) }

.chart { margin: 1.2rem 0 0 }
.row, .axis { display: grid; grid-template-columns: 9rem 1fr; align-items: end; gap: .8rem }
.row { border-bottom: 1px solid var(--line); padding-top: .5rem }
.row svg { width: 100%; height: 3.2rem; display: block; fill: var(--theirs) }
.row line { stroke: var(--ink); stroke-width: 2; vector-effect: non-scaling-stroke }
.row.ours svg { fill: var(--ours) }
.who { color: var(--soft); font-size: .88rem }
.row.ours .who { color: var(--ours); font-weight: 600 }
.axis div { grid-column: 2; position: relative; height: 1.5rem; font-size: .8rem; color: var(--soft) }
.axis span { position: absolute; transform: translateX(-50%); white-space: nowrap }

dl { display: grid; grid-template-columns: 8.5rem 1fr; gap: .25rem .8rem; margin: 0; font-size: .92rem }
dt { color: var(--soft) }
dd { margin: 0; overflow-wrap: anywhere }

@media (max-width: 40rem) {
  main { padding: 1rem .7rem 2rem }
  section { padding: .8rem .85rem }
  .tiles { grid-template-columns: 1fr 1fr; gap: .6rem }
  .tile b { font-size: 1.3rem }
  .row, .axis { grid-template-columns: 1fr; gap: .1rem }
  .axis div { grid-column: 1 }
  table, tbody, tr, td { display: block }
  tr:first-child, td:empty { display: none }
  tr { padding: .45rem 0; border-bottom: 1px solid var(--line) }
  tr:last-child { border-bottom: 0 }
  td, td.n { border: 0; padding: .05rem 0; text-align: left; white-space: normal; overflow-wrap: anywhere }
  td[data-label]::before { content: attr(data-label) ": "; color: var(--soft); font-weight: 400 }
  dl { grid-template-columns: 6.5rem 1fr }
}
@media print {
  body { background: none }
  section { break-inside: avoid }
}
"""
