"""The report of a study: one HTML page that opens anywhere, the same as Markdown, and every number as CSV.

`sections` asks `automixsearch.analysis` and puts the answers into sections, tables and figures; `charts` draws;
`page` writes them. No statistic is computed here.
"""
