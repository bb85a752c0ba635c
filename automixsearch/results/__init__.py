"""The ledger: every trial of a study as rows of Parquet files that pandas or DuckDB read alone.

`schema` says what a row is, `store` where rows lie and how they are written, `study` answers questions.

    <results>/<study>/study.json                        what the driver knows of the study
                      trials/<trial_id>.parquet         one row per ended trial
                      epochs/<trial_id>-e000001.parquet one row per epoch
                      {trials,epochs}/merged-*.parquet  many rows, made by `Store.compact`

Names that begin with a dot (temporary files, journals, the lock) are no data; pandas and DuckDB skip them.
"""
