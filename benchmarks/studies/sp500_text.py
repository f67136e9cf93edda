"""What the report of the S&P 500 study says in words."""

INTRODUCTION = """\
Written by `make studies` in {minutes:.0f} minutes. A forest of 100 trees learned daily bars up to the end of
2006 (fitted on {first} to {last}, {rows} rows, which are also the baseline of its inputs). Every session of
2007 to 2009 was then asked for through `tickserve serve` (python engine) with its event time, logged by
`tickserve sidecar`, and judged from that log; what came of each was reported to the sidecar. The same stream
was run with two faults, both from {fault} on: a close that stands still for {stale} sessions (a stale price),
and volatility in percent (a unit error). What is below is what was found.

![PSI of each column by window and state, and rolling IC with its interval](sp500-drift.svg)
"""
LEGEND = """\
`(i)` is `insufficient`: the null's 95% quantile lies above the warning threshold, so that nothing could be told
from chance. The thresholds are those that the package's own blocks ask for, at one false alarm in 90 days
(docs/drift.md).
"""
#: Written after looking at what was found; the tables above it are made anew with every run.
READING = """\
## How to read it

- The crisis raised one alarm, on daily returns, in the window that ends with 2008; its onset is put at 10
  September, the week before Lehman Brothers fell. A PSI above 0.25, the rule of thumb, would have alarmed in 26
  of 36 decisions, in 2007 and 2009 as well: with so few independent rows that is what chance gives.
- Features that look back 50 sessions and more, and volatility, are `insufficient` in every window. 250 rows of
  them are a handful of independent ones, and the market of 2000 to 2004 was as wild in places. Windows of 60
  rows tell next to nothing.
- The stale price alarmed on the three fastest features, in the first window that held it: 40 of its 250 rows, and
  half a year after the fault began. The onset is wrong there: it is put at the window's beginning, six months
  too early. No bound was broken.
- The unit error did not alarm on the feature itself: its PSI of 6.7 to 10.5 is the largest here, and still
  `insufficient`, because the null of so slow a feature is as wide as the threshold. It alarmed on the outputs,
  every year; and the package's own bounds flagged every row from the first day. Rules at the server are the
  guard that is quick.
- Outcomes show none of it: both faults move the IC by a fraction of its interval. Nor has the model become
  worse than its package claims of 2005 and 2006, which was worse than chance. One figure in forty lies beyond
  its interval's end by luck.
"""
