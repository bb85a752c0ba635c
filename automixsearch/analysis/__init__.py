"""What a study says, with honest uncertainty: robustness, comparisons, sensitivity, importance, ablations, fidelity.

`sample` takes the rows that belong together out of a ledger; every other module makes frozen answers of them. An answer
has `rows()`: plain values, the one source of tables, JSON, CSV and reports. `estimate` is a number with its interval,
`verdict` what may be said about a difference.
"""
