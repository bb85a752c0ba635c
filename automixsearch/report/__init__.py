"""The report of a study: one HTML page that opens anywhere, the same as Markdown, and every number as CSV.

`sections` asks `automixsearch.analysis`, one file for each question, and puts the answers into sentences, tables and
figures (`parts`); `wording` says how, `charts` draws, `page` writes them. No statistic is computed here.
"""
